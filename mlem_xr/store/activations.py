"""One zarr store per stimulus set: create, write a checkpoint, what is missing, open lazily."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import reduce
from itertools import product
from operator import and_
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import xarray as xr
import zarr

from mlem_xr.schema import (
    ACTIVATION,
    CHECKPOINT,
    POOLINGS,
    REPRESENTATION,
    TARGET,
    InputError,
    among,
    check_items,
    check_seed,
    check_step,
    check_text,
    listed,
    several,
    warn,
)
from mlem_xr.stimuli.files import check_stimuli
from mlem_xr.stimuli.table import stimuli_hash
from mlem_xr.store.address import (
    Address,
    each,
    made,
    open_zarr,
    remove_files,
    store_path,
)
from mlem_xr.store.chunks import LARGEST, Chunks, as_dask
from mlem_xr.store.features import (
    OF_STIMULI,
    are_intact,
    decode_features,
    names_of_stimuli,
    write_features,
)
from mlem_xr.store.grid import (
    array_of,
    check_labels,
    chunks_of,
    create_array,
    create_labels,
    dims_of,
    extend,
    last_marked,
    missing_chunks,
    positions,
    problem_of,
    read_grid,
    read_labels,
    reading,
    sort_labels,
    text_at,
    values_of,
)
from mlem_xr.store.locks import locked

FORMAT = "mlem_xr-store-2"
"""Version of the layout of a store, in its attribute `conventions`."""

OLDER = "mlem_xr-store-1"
"""A layout without `n_units` and checksums: read as it is, and counted before it is added to."""

_MARKS = ("recorded", "n_units", "fingerprint", "provenance")
"""What says of each checkpoint that all of it is there."""

_LABEL_TYPES = {"model": str, "seed": np.int64, "step": np.int64, "pooling": str, "layer": np.int64}

_VARIABLES: dict[str, tuple[int, list[int], Any, Any]] = {
    "activation": (7, [1, 1, 1, 1, 1], np.float32, np.nan),
    "n_units": (5, [1, 16, 16, 4, 64], np.int32, 0),
    "fingerprint": (3, [1, 64, 64], str, ""),
    "provenance": (3, [1, 64, 64], str, ""),
    "recorded": (3, [1, 64, 64], bool, False),
}
"""Number of dimensions, size of a chunk along the first ones, type, and fill value."""


def create_store(
    stimuli: xr.Dataset, store: str | Path, *, pooling: Iterable[str] = POOLINGS
) -> Path | str:
    """Create a store for a stimulus set; do nothing if it exists and holds the same stimuli.

    Parameters
    ----------
    stimuli : xr.Dataset
        As `read_stimuli` returns them.
    store : str or Path
        Folder of the store, of which parents are made, or its address in an object store, such as
        "s3://bucket/name.zarr".
    pooling : iterable of str
        Ways of pooling to make room for; others can be added later.

    Returns
    -------
    Path or str
        The absolute path of the store, or its address in an object store.

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
    poolings = several("pooling", pooling, among((*POOLINGS, TARGET)))
    address = make_store(stimuli, store_path(store), poolings)
    return address if isinstance(address, Path) else str(address)


def make_store(stimuli: xr.Dataset, path: Address, poolings: list[str]) -> Address:
    """Create a store as `create_store` does, with poolings of any names."""
    stimuli = check_stimuli(stimuli)
    if _holds(path, stimuli) and are_intact(_open_group(path, "r")):
        return path
    with locked(path):
        if _holds(path, stimuli):
            # Another process was quicker, or sentences, features or items were lost.
            if not are_intact(_open_group(path, "r")):
                write_features(_open_group(path, "r+"), stimuli)
            return path
        with made(path) as unfinished:
            _write_empty_store(unfinished, stimuli, poolings)
    return path


def _holds(path: Address, stimuli: xr.Dataset) -> bool:
    """Say whether there is a store at a path; refuse one of other stimuli."""
    if not (path / "zarr.json").exists():
        return False
    _check_stimuli(_open_group(path, "r"), stimuli)
    return True


def write_checkpoint(
    store: str | Address,
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
    check_text("model", model)
    seed, step = check_seed("seed", seed), check_step("step", step)
    name = f"model={model}, seed={seed}, step={step}"
    values = _in_single_precision(activation)
    n_units = _count_units(path, activation, values, name)
    labels = {
        **{"model": [model], "seed": [seed], "step": [step]},
        **{dim: activation[dim].values.tolist() for dim in ("pooling", "layer")},
        "unit": range(values.shape[-1]),
    }
    with locked(path):
        group = _open_group(path, "r+")
        if is_recorded(path, model=model, seed=seed, step=step) and not overwrite:
            raise InputError(f"checkpoint: {name} is recorded already; expected overwrite=True")
        if not _has_variables(group):
            _create_variables(group, values.shape[-1])
        if group.attrs["conventions"] == OLDER:
            _upgrade(group)
        at = positions(extend(group, labels, _least_labels(group)), labels)
        group = _open_group(path, "r+")
        where = (at["model"][0], at["seed"][0], at["step"][0])
        claim = _clear(path, group, where)
    chunks = array_of(group, "activation")

    def write_representation(position: tuple[int, int]) -> None:
        pooling, layer = at["pooling"][position[0]], at["layer"][position[1]]
        chunks[*where, pooling, layer, :, : values.shape[-1]] = values[position]

    each(path, write_representation, np.ndindex(values.shape[:2]))
    # Marks of many checkpoints share a chunk: they are written one after another.
    with locked(path):
        if text_at(array_of(group, "provenance"), where) != claim:
            raise InputError(f"checkpoint: another process is writing {name}; expected only one")
        held = array_of(group, "n_units")
        counts = np.zeros(held.shape[3:], held.dtype)
        counts[np.ix_(at["pooling"], at["layer"])] = n_units
        held[where] = counts
        array_of(group, "fingerprint")[where] = _fingerprint(group, activation, values)
        array_of(group, "provenance")[where] = json.dumps(dict(provenance))
        array_of(group, "recorded")[where] = True


def unmark(path: Address, chunk: tuple[int, ...]) -> None:
    """Mark the checkpoint that a chunk is of as not recorded, if the chunk is damaged."""
    where = chunk[: len(CHECKPOINT)]
    with locked(path):
        group = _open_group(path, "r+")
        # Another process may have recorded it again meanwhile.
        if problem_of(array_of(group, "activation"), chunk):
            array_of(group, "recorded")[where] = False
            array_of(group, "fingerprint")[where] = ""


def check_module_of(store: str | Address, module: str | None) -> None:
    """Refuse to record outputs of other modules than those that a store holds.

    None stands for the hidden states of the layers.
    """
    group = _open_group(_existing(store), "r")
    held = group.attrs.get("module", "" if _has_variables(group) else None)
    if held not in (None, module or ""):
        raise InputError(
            f"module: found {module!r}; expected {held or None!r}, as {group.store_path} holds "
            "what these parts of networks gave, or another store"
        )


def settle_module(store: str | Address, module: str | None) -> None:
    """Say which modules' outputs a store holds from now on, or refuse others."""
    path = _existing(store)
    with locked(path):
        check_module_of(path, module)
        group = _open_group(path, "r+")
        if "module" not in group.attrs:
            group.attrs["module"] = module or ""
            if module:
                group["layer"].attrs["long_name"] = f"number of the layer in {module}"


def is_recorded(store: str | Address, *, model: str, seed: int, step: int) -> bool:
    """Say whether a checkpoint is recorded; False also if the store does not exist."""
    return not missing_checkpoints(str(store), model=[model], seed=[seed], step=[step])


def is_same(
    store: str | Address, activation: xr.DataArray, *, model: str, seed: int, step: int
) -> bool:
    """Say whether a recorded checkpoint holds just these activations, by their hash."""
    labels: dict[str, list[Any]] = {"model": [model], "seed": [seed], "step": [step]}
    [fingerprint], at = locate(store, ["fingerprint"], labels)
    group = _open_group(_existing(store), "r")
    expected = _fingerprint(group, activation, _in_single_precision(activation))
    return text_at(fingerprint, [at[dim][0] for dim in CHECKPOINT]) == expected


def n_sentences(store: str | Address) -> int:
    """Count the sentences of a store, in which nothing needs to be recorded."""
    return len(read_labels(_open_group(_existing(store), "r"), "sentence"))


def stimuli_of(store: str | Address) -> xr.Dataset:
    """Read the sentences, features and items of a store, in which nothing needs to be recorded."""
    group = _open_group(_existing(store), "r")
    data = read_grid(group, names=["sentence", *names_of_stimuli(group)])
    return decode_features(data, group.store_path).set_coords("text")


def read_provenance(store: str | Address, *, model: str, seed: int, step: int) -> dict[str, Any]:
    """Read where the activations of a recorded checkpoint come from."""
    labels: dict[str, list[Any]] = {"model": [model], "seed": [seed], "step": [step]}
    [provenance], at = locate(store, ["provenance"], labels)
    return dict(json.loads(text_at(provenance, [at[dim][0] for dim in CHECKPOINT])))


def locate(
    store: str | Address, names: Iterable[str], labels: Mapping[str, Iterable[Any]]
) -> tuple[list[zarr.Array], dict[str, list[int]]]:
    """Open arrays over (model, seed, step) and say where labels stand, to read them often.

    `fingerprint` is the hash of a checkpoint's activations, empty while they are being written;
    `provenance` another text each time that they are recorded.
    """
    group = _open_group(_existing(store), "r")
    known = {dim: read_labels(group, dim) for dim in CHECKPOINT}
    at = positions(known, {dim: labels[dim] for dim in CHECKPOINT})
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
    labels = [
        several("model", model, check_text),
        several("seed", seed, check_seed),
        several("step", step, check_step),
    ]
    wanted = list(product(*labels))
    path = store_path(store)
    if not (path / "zarr.json").exists():
        return wanted
    group = _open_group(path, "r")
    if not _has_variables(group):
        return wanted
    data, chunks, _ = open_recorded(group)
    known = [data[dim].values.tolist() for dim in CHECKPOINT]
    held = {
        tuple(dim[i] for dim, i in zip(known, where, strict=True)): where
        for where in np.argwhere(data["recorded"].values)
    }
    return [one for one in wanted if one not in held or chunks.missing(held[one])]


def open_store(store: str | Path) -> xr.Dataset:
    """Open a store lazily.

    Parameters
    ----------
    store : str or Path
        Folder of the store, or its address in an object store.

    Returns
    -------
    xr.Dataset
        `activation` float32 (model, seed, step, pooling, layer, sentence, unit), Dask-backed, a
        chunk per layer, cut along units where it would pass 64 MiB, NaN where not recorded;
        `recorded` bool (model, seed, step); `n_units` int32 (model, seed, step, pooling, layer),
        the number of units that were recorded, 0 where the network lacks the layer.
        Coordinates: the labels of all dimensions, `text`, the features and the items over
        `sentence`; `fingerprint` (a hash of the activations) and `provenance` (JSON) over (model,
        seed, step).

    Raises
    ------
    InputError
        If there is no store, nothing is recorded in it yet, or labels, sentences or features are
        damaged. When activations are computed: if they are damaged or missing, were recorded again
        since, or the store is gone; the message names file and representation.

    Warns
    -----
    UserWarning
        If marks of a checkpoint were lost, which is then not recorded.

    Examples
    --------
    >>> open_store("nowhere.zarr")
    Traceback (most recent call last):
        ...
    mlem_xr.schema.InputError: store: there is no store at nowhere.zarr
    """
    path = _existing(store)
    group = _open_group(path, "r")
    if not _has_variables(group):
        raise InputError(f"store: nothing is recorded in {store} yet; expected a checkpoint")
    data, chunks, torn = open_recorded(group, names_of_stimuli(group))
    if torn:
        names = "; ".join(", ".join(f"{dim}={v}" for dim, v in one.items()) for one in torn)
        warn(
            f"store: {path} has lost marks of {names}, which counts as not recorded; "
            "expected to be recorded again"
        )
    activation = as_dask(chunks)
    data["activation"] = (ACTIVATION, activation, dict(chunks.array.attrs))
    data = decode_features(data, path).set_coords(["text", "fingerprint", "provenance"])
    data = sort_labels(data[["activation", "recorded", "n_units"]], ("seed", "step", "layer"))
    data.attrs.pop("variables", None)
    if not data.attrs.get("module"):
        data.attrs.pop("module", None)
    return data.assign_attrs(store=str(path))


def open_stored(store: str | Path) -> zarr.Group:
    """Open a store to read what is in it, recorded or not."""
    return _open_group(_existing(store), "r")


def names_of_marks(group: zarr.Group) -> list[str]:
    """Name the arrays that say what is recorded in a store, labels first; none if nothing is."""
    if not _has_variables(group):
        return []
    older = group.attrs["conventions"] == OLDER
    marks = [name for name in _MARKS if name != "n_units" or not older]
    return [*REPRESENTATION, "unit", *marks]


def open_recorded(
    group: zarr.Group, names: Iterable[str] = ()
) -> tuple[xr.Dataset, Chunks, list[dict[str, Any]]]:
    """Read labels, marks and the arrays in `names` of a store, and open its activations.

    The last part names the checkpoints that have lost marks.
    """
    data, torn = _read(group, names=[*names, "sentence", "unit"])
    return data, _chunks(group, data), torn


def least_labels(group: zarr.Group) -> dict[str, int]:
    """Say how many labels a store must have at least, by its marks."""
    return {} if group.attrs["conventions"] == OLDER else _least_labels(group)


def missing_marks(
    group: zarr.Group, data: xr.Dataset, checkpoint: Mapping[str, Any]
) -> list[Address]:
    """Name the files with marks of a recorded checkpoint that are not there."""
    known = {dim: read_labels(group, dim) for dim in checkpoint}
    at = positions(known, {dim: [label] for dim, label in checkpoint.items()})
    index = {dim: np.array(at.get(dim, range(data.sizes[dim]))) for dim in REPRESENTATION}
    arrays = [array_of(group, name) for name in names_of_marks(group) if name in _MARKS]
    return [
        file
        for array in arrays
        for file in missing_chunks(
            array, chunks_of(array, [index[dim] for dim in dims_of(array)], 0)
        )
    ]


def _has_variables(group: zarr.Group) -> bool:
    """Say whether the arrays of the activations were made; those that are gone since were lost."""
    return "variables" in group.attrs or "recorded" in group


def _read(group: zarr.Group, *, names: Iterable[str]) -> tuple[xr.Dataset, list[dict[str, Any]]]:
    """Read these arrays of a store and its marks, and name the checkpoints that have lost marks.

    What a killed process left of a checkpoint is not recorded, and has no units.
    """
    older = group.attrs["conventions"] == OLDER
    for _ in range(2):
        least = least_labels(group)
        data = read_grid(group, names=[*names, *names_of_marks(group)])
        check_labels(group, data.sizes, least)
        if older:
            room = data.sizes["unit"] * xr.ones_like(data["pooling"] == data["layer"], int)
            data["n_units"] = data["recorded"] * room
        # Plain arrays: labels of such small ones would take most of the time.
        there: dict[str, Any] = {name: data[name].values.astype(bool) for name in _MARKS}
        there["n_units"] = there["n_units"].any(axis=(-2, -1))
        recorded = reduce(and_, there.values())
        torn = (there["recorded"] | there["fingerprint"]) & ~recorded
        # Looked at twice: another process may have been at it.
        if not torn.any():
            break
    clean = {}
    nothing: Any
    for name, nothing in zip(_MARKS, (False, 0, "", ""), strict=True):
        marks = data[name].variable
        within = recorded.reshape(recorded.shape + (1,) * (marks.ndim - recorded.ndim))
        values = np.where(within, marks.values, nothing).astype(marks.dtype)
        clean[name] = marks.copy(data=values)
    known = [data[dim].values.tolist() for dim in CHECKPOINT]
    lost = [
        {dim: labels[i] for dim, labels, i in zip(CHECKPOINT, known, where, strict=True)}
        for where in np.argwhere(torn)
    ]
    return data.assign(clean), lost


def _least_labels(group: zarr.Group) -> dict[str, int]:
    n_units = array_of(group, "n_units")
    values = values_of(n_units)
    return last_marked(dims_of(n_units), values) | {"unit": int(values.max(initial=0))}


def _chunks(group: zarr.Group, data: xr.Dataset) -> Chunks:
    return Chunks(
        array=array_of(group, "activation"),
        labels={dim: data[dim].values.tolist() for dim in ACTIVATION},
        n_units=data["n_units"].transpose(*REPRESENTATION).values,
        marks=array_of(group, "fingerprint"),
        marked=data["fingerprint"].transpose(*CHECKPOINT).values,
        fill=np.nan,
        remedy="record the checkpoint again, with overwrite=True if it is not recorded by itself",
    )


def _write_empty_store(path: Path, stimuli: xr.Dataset, pooling: Iterable[str]) -> None:
    group = zarr.open_group(path, mode="w")
    write_features(group, stimuli)
    group.attrs["conventions"] = FORMAT
    for dim, kind in _LABEL_TYPES.items():
        create_labels(group, dim, pooling if dim == "pooling" else [], kind)


def _create_variables(group: zarr.Group, n_units: int) -> None:
    """Make the arrays of the activations; the first network's size is the largest of a chunk.

    A killed process may have made some of them; the attribute comes last.
    """
    create_labels(group, "unit", range(n_units), np.int64)
    for name in _VARIABLES:
        _create_variable(group, name)
    group.attrs["variables"] = list(_VARIABLES)


def _create_variable(group: zarr.Group, name: str) -> None:
    n_dims, chunks, dtype, fill = _VARIABLES[name]
    shape = [len(read_labels(group, dim)) for dim in ACTIVATION[:n_dims]]
    sizes = [*chunks, *shape[len(chunks) :]]
    if name == "activation":
        of_a_unit = shape[-2] * np.dtype(dtype).itemsize
        sizes[-1] = min(sizes[-1], max(1, LARGEST // max(1, of_a_unit)))
    create_array(
        *(group, name, ACTIVATION[:n_dims]),
        shape=shape,
        chunks=sizes,
        dtype=dtype,
        fill_value=fill,
        overwrite=True,
    )


def _upgrade(group: zarr.Group) -> None:
    """Count the units in a store of the older layout."""
    _create_variable(group, "n_units")
    activation, n_units = array_of(group, "activation"), array_of(group, "n_units")
    for checkpoint in np.argwhere(values_of(array_of(group, "recorded"))).tolist():
        for representation in np.ndindex(n_units.shape[3:]):
            where = (*checkpoint, *representation)
            with reading(activation.store_path):
                present = ~np.isnan(activation[where]).all(axis=0)
            n_units[where] = int(present.sum())
    group.update_attributes({"variables": list(_VARIABLES), "conventions": FORMAT})


def _clear(path: Address, group: zarr.Group, where: tuple[int, int, int]) -> str:
    """Remove what an earlier or a killed run left of a checkpoint, and claim it."""
    claim = json.dumps({"writing": uuid4().hex})
    array_of(group, "recorded")[where] = False
    array_of(group, "fingerprint")[where] = ""
    array_of(group, "provenance")[where] = claim
    array_of(group, "n_units")[where] = 0
    remove_files(path / "activation" / "c" / "/".join(map(str, where)))
    return claim


def _in_single_precision(activation: xr.DataArray) -> np.ndarray:
    values = activation.transpose("pooling", "layer", "sentence", "unit").values
    # What is too large becomes infinite, which is refused.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)


def _count_units(
    path: Address, activation: xr.DataArray, values: np.ndarray, name: str
) -> np.ndarray:
    """Count the units (pooling, layer); refuse values that are not finite."""
    n = n_sentences(path)
    if activation.sizes["sentence"] != n:
        raise InputError(
            f"activation: {activation.sizes['sentence']} sentences; the store holds {n}"
        )
    counts = np.zeros(values.shape[:2], np.int32)
    for pooling, layer in np.ndindex(counts.shape):
        part = values[pooling, layer]
        # A layer may have fewer units than the widest one: those beyond its own are NaN.
        there = np.flatnonzero(~np.isnan(part).all(axis=0))
        n_units = int(there.max(initial=-1)) + 1
        if not n_units or not np.isfinite(part[:, :n_units]).all():
            raise InputError(
                f"activation: NaN or infinite values in {name}, "
                f"pooling={activation['pooling'].values[pooling]}, "
                f"layer={activation['layer'].values[layer]}; nothing was written"
            )
        counts[pooling, layer] = n_units
    return counts


def _fingerprint(group: zarr.Group, activation: xr.DataArray, values: np.ndarray) -> str:
    labels = [activation["pooling"].values.tolist(), activation["layer"].values.tolist()]
    module = [group.attrs["module"]] if group.attrs.get("module") else []
    digest = hashlib.sha256(json.dumps([group.attrs["stimuli_hash"], *labels, *module]).encode())
    digest.update(str(values.shape).encode())
    digest.update(values.data)
    return digest.hexdigest()[:32]


def _check_stimuli(group: zarr.Group, stimuli: xr.Dataset) -> None:
    held, items = group.attrs["stimuli_hash"], check_items(stimuli)
    if held == stimuli.attrs["stimuli_hash"]:
        return
    if items and held == stimuli_hash(stimuli.drop_vars(items)):
        raise InputError(
            f"store: {group.store_path} holds these stimuli ({group.attrs['stimuli']!r}) without "
            f"items; expected stimuli.drop_vars({items}) to go on with it, or a new store"
        )
    raise InputError(
        f"store: {group.store_path} holds other stimuli ({group.attrs['stimuli']!r}) than "
        f"those given ({stimuli.attrs['stimuli']!r}); expected a store of the same sentences, "
        "features and items, or a new one"
    )


def _existing(store: str | Address) -> Address:
    path: Address = store_path(store)
    if not (path / "zarr.json").exists():
        raise InputError(f"store: there is no store at {store}")
    return path


def _open_group(path: Address, mode: Any) -> zarr.Group:
    with reading(path):
        group = open_zarr(path, mode)
        found = group.attrs.get("conventions")
    if found not in (FORMAT, OLDER):
        raise InputError(f"store: {path} has conventions {found!r}; expected {FORMAT!r}")
    lost = [name for name in OF_STIMULI if name not in group.attrs]
    if lost:
        raise InputError(f"store: {path} is damaged: it has no attributes {listed(lost)}")
    return group
