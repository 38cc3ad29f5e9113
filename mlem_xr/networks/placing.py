"""The devices that a network is on while it reads the sentences."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from mlem_xr.schema import InputError, first_line, listed, shown

DISK = "disk"

Device = str | int
"""A torch device, an integer being the number of a GPU; or "disk"."""

DeviceMap = Literal["auto"] | Mapping[str, Device]
"""Name of a part of a network to its device; "auto": they are chosen."""

_EXPECTED = "'auto' or a mapping such as {'embeddings': 'cpu', 'encoder': 'cuda:0'}"


def check_device_map(value: Any) -> DeviceMap:
    """Return "auto", or a mapping of names to what may be devices."""
    if isinstance(value, str) and value == "auto":
        return "auto"
    if not isinstance(value, Mapping) or not value:
        raise InputError(f"device_map: found {shown(value)}; expected {_EXPECTED}")
    for name, device in value.items():
        if not isinstance(name, str) or type(device) not in (str, int):
            raise InputError(f"device_map: found {shown({name: device})}; expected {_EXPECTED}")
    if set(value.values()) == {DISK}:
        raise InputError("device_map: found 'disk' alone; expected a device for some of the parts")
    return dict(value)


def check_places(device: str | None, device_map: DeviceMap | None) -> None:
    """Refuse devices that this machine does not have, before anything is loaded."""
    if device_map is None:
        _find("device", device)
        return
    for one in [] if device_map == "auto" else set(device_map.values()) - {DISK}:
        _find("device_map", one)
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f'device_map needs accelerate ({error}): pip install "mlem_xr[models]"'
        ) from error


def _find(argument: str, device: Device | None) -> Any:
    """Return a torch device, once it was tried; None: the GPU if there is one."""
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(f"cuda:{device}" if isinstance(device, int) else device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"{argument}: {device!r} cannot be used ({first_line(error)}); "
            "expected a torch device such as 'cpu' or 'cuda'"
        ) from error
    return place


@contextmanager
def placed(
    model: Any, device: str | None, device_map: DeviceMap | None, folder: Path | None
) -> Iterator[tuple[Any, Any]]:
    """Bring a network to its device or devices; yield the one that inputs go to, and their names.

    What is to be on the disk lies in `folder` meanwhile.
    """
    if device_map is None:
        place = _find("device", device)
        model.to(place)
        yield place, str(place)
        return
    import accelerate

    devices = _chosen(model) if device_map == "auto" else _named(model, device_map)
    main = next((one for one in devices.values() if one not in ("cpu", DISK)), "cpu")
    with TemporaryDirectory(dir=folder) as offloaded:
        accelerate.dispatch_model(model, devices, main_device=main, offload_dir=offloaded)
        yield _find("device_map", main), {name: str(one) for name, one in devices.items()}


def _chosen(model: Any) -> dict[str, Device]:
    """Spread a network over the GPUs, and leave in memory what they have no room for."""
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = {"no_split_module_classes": list(getattr(model, "_no_split_modules", None) or [])}
    room = get_balanced_memory(model, **whole)
    # It is there already, whatever else is free.
    room["cpu"] = 2 * sum(weights.nbytes for weights in model.state_dict().values())
    return dict(infer_auto_device_map(model, max_memory=room, **whole))


def _named(model: Any, device_map: Mapping[str, Device]) -> dict[str, Device]:
    """Return the devices of all parts of a network, none of them unknown or without one."""
    known = dict(model.named_modules())
    unknown = [name for name in device_map if name not in known]
    prefixes = tuple(f"{name}." if name else "" for name in device_map)
    without = [name for name in model.state_dict() if not name.startswith(prefixes)]
    if unknown or without:
        found = f"no part {unknown[0]!r}" if unknown else f"no device for {without[0]!r}"
        parts = [name for name, _ in model.named_children()]
        raise InputError(
            f"device_map: {found} in {type(model).__name__}; expected a device for each of "
            f"{listed(parts)}, or for the parts of these"
        )
    return dict(device_map)
