"""One zarr store per stimulus set: create, write a checkpoint, what is missing, open lazily."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import xarray as xr
import zarr

from mlem_xr.running.writing import whole
from mlem_xr.schema import (
    ACTIVATION,
    CHECKPOINT,
    DIMENSIONS,
    FINAL_STEP,
    LABELS,
    POOLINGS,
    InputError,
    check_integer,
    check_model,
    choose,
    several,
)
from mlem_xr.store.address import store_path
from mlem_xr.store.features import decode_features, write_features
from mlem_xr.store.grid import (
    array_of,
    create_array,
    create_labels,
    extend,
    positions,
    read_grid,
    read_labels,
    sort_labels,
    text_at,
)
from mlem_xr.store.locks import locked

FORMAT = "mlem_xr-store-1"
"""Version of the layout of a store, in its attribute `conventions`."""

_LABEL_TYPES = {"model": str, "seed": np.int64, "step": np.int64, "pooling": str, "layer": np.int64}


def create_store(
    stimuli: xr.Dataset, store: str | Path, *, pooling: Iterable[str] = POOLINGS
) -> Path:
    """Create a store for a stimulus set; do nothing if it exists and holds the same stimuli.

    Parameters
    ----------
    stimuli : xr.Dataset
        As `read_stimuli` returns them.
    store : str or Path
        Folder of the store; parents are made.
    pooling : iterable of str
        Ways of pooling to make room for; others can be added later.

    Returns
    -------
    Path
        The absolute path of the store.

    Raises
    ------
    InputError
        If something else stands there, or a store of other stimuli.

    Examples
    --------
    >>> import tempfile, mlem_xr as mx
    >>> table = mx.read_stimuli("short_sentence")
    >>> create_store(table, tempfile.mkdtemp() + "/short.zarr").name
    'short.zarr'
    """
    path = store_path(store)
    poolings = [choose("pooling", name, POOLINGS) for name in several("pooling", pooling)]
    if _holds(path, stimuli):
        return path
    with locked(path):
        if _holds(path, stimuli):
            # Another process was quicker.
            return path
        if path.exists() and any(path.iterdir() if path.is_dir() else [path]):
            raise InputError(f"store: {path} exists and is not a store; expected a new folder")
        # Written aside and renamed: nobody opens a store that lacks some of its sentences.
        with whole(path) as unfinished:
            _write_empty_store(unfinished, stimuli, poolings)
    return path


def _holds(path: Path, stimuli: xr.Dataset) -> bool:
    """Say whether there is a store at a path; refuse one of other stimuli."""
    if not (path / "zarr.json").exists():
        return False
    _check_stimuli(_open_group(path, "r"), stimuli)
    return True


def write_checkpoint(
    store: str | Path,
    activation: xr.DataArray,
    *,
    model: str,
    seed: int,
    step: int,
    provenance: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Write the activations of one checkpoint and mark it as recorded, last of all.

    A process that is killed on the way leaves the checkpoint unrecorded. Several processes may
    write different checkpoints into one store at once. `activation` is float32 (pooling, layer,
    sentence, unit) with coordinates `pooling` and `layer`; `provenance` anything that JSON can
    hold.

    Raises
    ------
    InputError
        If the checkpoint is recorded already and `overwrite` is False, if the sentences are not
        the store's, or if a layer holds NaN or infinite values.
    """
    path = _existing(store)
    check_model(model)
    seed = check_integer("seed", seed, below=LABELS)
    step = check_integer("step", step, at_least=FINAL_STEP, below=LABELS)
    name = f"model={model}, seed={seed}, step={step}"
    activation = activation.transpose("pooling", "layer", "sentence", "unit")
    values = np.ascontiguousarray(activation.values, dtype=np.float32)
    _check_values(path, activation, values, name)
    labels = {
        **{"model": [model], "seed": [seed], "step": [step]},
        **{dim: activation[dim].values.tolist() for dim in ("pooling", "layer")},
        "unit": range(values.shape[-1]),
    }
    with locked(path):
        group = _open_group(path, "r+")
        if is_recorded(path, model=model, seed=seed, step=step) and not overwrite:
            raise InputError(f"checkpoint: {name} is recorded already; expected overwrite=True")
        if "recorded" not in group:
            _create_variables(group, values.shape[-1])
        at = extend(group, labels)
        group = _open_group(path, "r+")
        where = (at["model"][0], at["seed"][0], at["step"][0])
        claim = _clear(path, group, where)
    for p, pooling in enumerate(at["pooling"]):
        for i, layer in enumerate(at["layer"]):
            region = (*where, pooling, layer, slice(None), slice(0, values.shape[-1]))
            array_of(group, "activation")[region] = values[p, i]
    # Marks of many checkpoints share a chunk: they are written one after another.
    with locked(path):
        if text_at(array_of(group, "provenance"), where) != claim:
            raise InputError(f"checkpoint: another process is writing {name}; expected only one")
        array_of(group, "fingerprint")[where] = _fingerprint(group, activation, values)
        array_of(group, "provenance")[where] = json.dumps(dict(provenance))
        array_of(group, "recorded")[where] = True


def is_recorded(store: str | Path, *, model: str, seed: int, step: int) -> bool:
    """Say whether a checkpoint is recorded; False also if the store does not exist."""
    return not missing_checkpoints(store, model=[model], seed=[seed], step=[step])


def read_provenance(store: str | Path, *, model: str, seed: int, step: int) -> dict[str, Any]:
    """Read where the activations of a recorded checkpoint come from."""
    labels: dict[str, list[Any]] = {"model": [model], "seed": [seed], "step": [step]}
    [provenance], at = locate(store, ["provenance"], labels)
    return dict(json.loads(text_at(provenance, [at[dim][0] for dim in CHECKPOINT])))


def locate(
    store: str | Path, names: Iterable[str], labels: Mapping[str, Iterable[Any]]
) -> tuple[list[zarr.Array], dict[str, list[int]]]:
    """Open arrays over (model, seed, step) and say where labels stand, to read them often.

    `fingerprint` is the hash of a checkpoint's activations, empty while they are being written;
    `provenance` another text each time that they are recorded.
    """
    group = _open_group(_existing(store), "r")
    at = positions(group, {dim: labels[dim] for dim in CHECKPOINT})
    return [array_of(group, name) for name in names], at


def missing_checkpoints(
    store: str | Path, *, model: Iterable[str], seed: Iterable[int], step: Iterable[int]
) -> list[tuple[str, int, int]]:
    """List the checkpoints, of all combinations asked for, that a store does not hold.

    Parameters
    ----------
    store : str or Path
        A store; it need not exist.
    model, seed, step : iterable
        Labels whose product is asked for.

    Returns
    -------
    list of (str, int, int)
        The missing (model, seed, step), in the order of the product.

    Examples
    --------
    >>> missing_checkpoints("nowhere.zarr", model=["bert"], seed=[0, 1], step=[-1])
    [('bert', 0, -1), ('bert', 1, -1)]
    """
    labels = {"model": model, "seed": seed, "step": step}
    wanted = list(product(*(several(dim, values) for dim, values in labels.items())))
    path = store_path(store)
    if not (path / "recorded" / "zarr.json").exists():
        return wanted
    group = _open_group(path, "r")
    known = [read_labels(group, dim) for dim in CHECKPOINT]
    recorded = np.asarray(array_of(group, "recorded")[:])
    held = {
        tuple(dim[i] for dim, i in zip(known, where, strict=True))
        for where in np.argwhere(recorded).tolist()
        if all(i < len(dim) for dim, i in zip(known, where, strict=True))
    }
    return [checkpoint for checkpoint in wanted if checkpoint not in held]


def open_store(store: str | Path) -> xr.Dataset:
    """Open a store lazily.

    Parameters
    ----------
    store : str or Path
        Folder of the store.

    Returns
    -------
    xr.Dataset
        `activation` float32 (model, seed, step, pooling, layer, sentence, unit), Dask-backed, one
        chunk per layer, NaN where not recorded; `recorded` bool (model, seed, step). Coordinates:
        the labels of all dimensions, `text` and the features over `sentence`; `fingerprint` (a
        hash of the activations) and `provenance` (JSON) over (model, seed, step).

    Raises
    ------
    InputError
        If there is no store, or nothing is recorded in it yet.

    Examples
    --------
    >>> open_store("nowhere.zarr")
    Traceback (most recent call last):
        ...
    mlem_xr.schema.InputError: store: there is no store at nowhere.zarr
    """
    path = _existing(store)
    group = _open_group(path, "r")
    if "recorded" not in group:
        raise InputError(f"store: nothing is recorded in {store} yet; expected a checkpoint")
    data = read_grid(group, lazy=["activation"])
    data = decode_features(data).set_coords(["text", "fingerprint", "provenance"])
    data = sort_labels(data, ("seed", "step", "layer"))
    recorded = data["recorded"]
    for name in ("fingerprint", "provenance"):
        data[name] = data[name].where(recorded, "")
    if not recorded.all():
        # What a killed process left of a checkpoint is not recorded.
        data["activation"] = data["activation"].where(recorded)
    return data.assign_attrs(store=str(path))


def _write_empty_store(path: Path, stimuli: xr.Dataset, pooling: Iterable[str]) -> None:
    group = zarr.open_group(path, mode="w")
    write_features(group, stimuli)
    group.attrs["conventions"] = FORMAT
    for dim, kind in _LABEL_TYPES.items():
        create_labels(group, dim, pooling if dim == "pooling" else [], kind)
    for dim in (*_LABEL_TYPES, "sentence"):
        group[dim].attrs["long_name"] = DIMENSIONS[dim]


def _create_variables(group: zarr.Group, n_units: int) -> None:
    """Make the arrays of the activations; the first network's size is the size of a chunk.

    A killed process may have made some of them; `recorded` comes last and says that all are there.
    """
    create_labels(group, "unit", range(n_units), np.int64)
    group["unit"].attrs["long_name"] = DIMENSIONS["unit"]
    shape = [len(read_labels(group, dim)) for dim in ACTIVATION]
    chunk = [1, 1, 1, 1, 1, *shape[-2:]]
    for name, n_dims, chunks, dtype, fill in (
        ("activation", 7, chunk, np.float32, np.nan),
        ("fingerprint", 3, [1, 64, 64], str, ""),
        ("provenance", 3, [1, 64, 64], str, ""),
        ("recorded", 3, [1, 64, 64], bool, False),
    ):
        if name not in group:
            create_array(
                group,
                name,
                ACTIVATION[:n_dims],
                shape=shape[:n_dims],
                chunks=chunks,
                dtype=dtype,
                fill_value=fill,
            )


def _clear(path: Path, group: zarr.Group, where: tuple[int, int, int]) -> str:
    """Remove what an earlier or a killed run left of a checkpoint, and claim it."""
    claim = json.dumps({"writing": uuid4().hex})
    array_of(group, "recorded")[where] = False
    array_of(group, "fingerprint")[where] = ""
    array_of(group, "provenance")[where] = claim
    folder = path.joinpath("activation", "c", *map(str, where))
    for chunk in folder.rglob("*"):
        if chunk.is_file():
            chunk.unlink(missing_ok=True)
    return claim


def _check_values(path: Path, activation: xr.DataArray, values: np.ndarray, name: str) -> None:
    n = len(read_labels(_open_group(path, "r"), "sentence"))
    if activation.sizes["sentence"] != n:
        raise InputError(
            f"activation: {activation.sizes['sentence']} sentences; the store holds {n}"
        )
    # A layer may have fewer units than the widest one: those beyond its own are NaN.
    beyond = np.logical_and.accumulate(np.isnan(values).all(axis=2)[..., ::-1], axis=2)[..., ::-1]
    finite = (np.isfinite(values) | beyond[:, :, np.newaxis]).all(axis=(2, 3))
    finite &= ~beyond.all(axis=2)
    if not finite.all():
        pooling, layer = np.argwhere(~finite)[0]
        raise InputError(
            f"activation: NaN or infinite values in {name}, "
            f"pooling={activation['pooling'].values[pooling]}, "
            f"layer={activation['layer'].values[layer]}; nothing was written"
        )


def _fingerprint(group: zarr.Group, activation: xr.DataArray, values: np.ndarray) -> str:
    labels = [activation["pooling"].values.tolist(), activation["layer"].values.tolist()]
    digest = hashlib.sha256(json.dumps([group.attrs["stimuli_hash"], *labels]).encode())
    digest.update(str(values.shape).encode())
    digest.update(values.data)
    return digest.hexdigest()[:32]


def _check_stimuli(group: zarr.Group, stimuli: xr.Dataset) -> None:
    if group.attrs["stimuli_hash"] != stimuli.attrs["stimuli_hash"]:
        raise InputError(
            f"store: {group.store_path} holds other stimuli ({group.attrs['stimuli']!r}) than "
            f"those given ({stimuli.attrs['stimuli']!r}); expected a store of the same sentences "
            "and features, or a new one"
        )


def _existing(store: str | Path) -> Path:
    path = store_path(store)
    if not (path / "zarr.json").exists():
        raise InputError(f"store: there is no store at {store}")
    return path


def _open_group(path: Path, mode: Any) -> zarr.Group:
    group = zarr.open_group(path, mode=mode, use_consolidated=False)
    if group.attrs.get("conventions") != FORMAT:
        found = group.attrs.get("conventions")
        raise InputError(f"store: {path} has conventions {found!r}; expected {FORMAT!r}")
    return group
