"""Activations from anywhere into a store, as `record` writes those of networks."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from mlem_xr.analyses.arrays import check_order, labeled_array, lost_units
from mlem_xr.schema import (
    ACTIVATION,
    CHECKPOINT,
    FINAL_STEP,
    REPRESENTATION,
    InputError,
    check_bool,
    check_layer,
    check_seed,
    check_step,
    check_text,
    listed,
    several,
    warn,
)
from mlem_xr.stimuli import read_stimuli
from mlem_xr.store import activations as stored
from mlem_xr.store.address import Address, store_path

GIVEN = "given"
"""Pooling of activations that came as one vector per sentence, unless a name is given."""

VERSIONS = ("mlem_xr", "numpy")
"""Packages whose versions are stored with activations that were added."""


def _check_step(argument: str, value: Any) -> int:
    return FINAL_STEP if value is None else check_step(argument, value)


_LABELS: Mapping[str, tuple[Callable[[str, Any], Any], Any, Callable[[int], Iterable[Any]] | None]]
_LABELS = {
    "model": (check_text, None, None),
    "seed": (check_seed, 0, range),
    "step": (_check_step, FINAL_STEP, None),
    "pooling": (check_text, GIVEN, None),
    "layer": (check_layer, 1, lambda n: range(1, n + 1)),
}
"""How labels are checked, what the only one is and what several are where none are given."""


def add_activations(
    store: str | Path,
    array: Any,
    *,
    model: str | Iterable[str],
    seed: int | Iterable[int] | None = None,
    step: int | None | Iterable[int | None] = None,
    pooling: str | Iterable[str] | None = None,
    layer: int | Iterable[int] | None = None,
    stimuli: Any = None,
    source: str = "add_activations",
    overwrite: bool = False,
) -> pd.DataFrame:
    """Write activations of other libraries, of brains or of one's own code into a store.

    Each combination of model, seed and step is one checkpoint, written whole and marked as recorded
    last of all. Those that the store holds already are skipped, if they are the same, so an
    interrupted call is continued by making it again.

    Parameters
    ----------
    store : str or Path
        A store, or with `stimuli` where to make one.
    array : array
        What `from_arrays` takes: (sentence, unit), or with further dimensions before these, which
        are the last ones of (model, seed, step, pooling, layer, sentence, unit): an array of three
        dimensions is (layer, sentence, unit). A DataArray may have any of them, in any order.
        Stored as float32; sentences in the order of the store. NaN: units at the end that a layer
        lacks, or a whole layer, pooling or checkpoint that is not there.
    model : str or iterable of str
        Any name, or one for each along the dimension.
    seed, step, layer : int or iterable of int, optional
        Labels along their dimensions, or the one of an array without; by default those of a
        DataArray, and else seeds from 0, step -1 (final, or not stated) and layers from 1.
    pooling : str or iterable of str, optional
        How one vector per sentence came about: any names; by default those of a DataArray, and else
        "given".
    stimuli : xr.Dataset, str, Path or pd.DataFrame, optional
        Sentences and features, or what `read_stimuli` reads them from; those of the store if it
        exists.
    source : str
        Where the activations come from, in a line that the store keeps as provenance.
    overwrite : bool
        Replace what the store holds of these checkpoints, all their poolings and layers.

    Returns
    -------
    pd.DataFrame
        One row per checkpoint: `model`, `seed`, `step` and `status`: "recorded", "skipped", or
        "not there", where the array holds only NaN.

    Raises
    ------
    InputError
        If an argument is not as above, the array does not fit the store's sentences, values are
        infinite or NaN in part, or the store holds other activations of a checkpoint and
        `overwrite` is False. Checkpoints before that one are written.

    Examples
    --------
    >>> import tempfile, numpy as np, mlem_xr as mx
    >>> path = tempfile.mkdtemp() + "/brains.zarr"
    >>> voxels = np.random.default_rng(0).normal(size=(2, 522, 5))
    >>> table = add_activations(
    ...     path, voxels, model="anna", layer=[1, 2], stimuli="short_sentence", source="made up"
    ... )
    >>> table.status.tolist(), dict(mx.open_store(path).sizes)["layer"]
    (['recorded'], 2)
    """
    path: Address = store_path(store)
    overwrite, source = check_bool("overwrite", overwrite), check_text("source", source, "a line")
    given = {"model": model, "seed": seed, "step": step, "pooling": pooling, "layer": layer}
    activation = _labeled(array, given)
    if stimuli is None and not (path / "zarr.json").exists():
        raise InputError(f"stimuli: none given, and there is no store at {store}")
    table = stored.stimuli_of(path) if stimuli is None else read_stimuli(stimuli)
    _check_sentences(activation, array, table)
    if stimuli is not None:
        stored.make_store(table, path, activation["pooling"].values.tolist())
    rows = []
    for labels, part in _checkpoints(activation):
        status = _add(path, labels, part, source, overwrite)
        rows.append({**labels, "status": status})
    return pd.DataFrame(rows, columns=[*CHECKPOINT, "status"])


def _labeled(array: Any, given: Mapping[str, Any]) -> xr.DataArray:
    """Return the array with all dimensions of a store, and labels along them."""
    found = labeled_array("array", array, None, usual=ACTIVATION)
    unknown = [dim for dim in found.dims if dim not in ACTIVATION]
    if unknown:
        raise InputError(
            f"array: it has the dimensions {listed(unknown)}, which a store has not; expected some "
            f"of {listed(ACTIVATION)}: select one label, or rename"
        )
    _check_units(found)
    own = set(array.coords) if isinstance(array, xr.DataArray) else set()
    for dim, (check, only, several_of) in _LABELS.items():
        n = found.sizes.get(dim)
        labels = given[dim]
        if labels is None and dim in own:
            labels = found[dim].values.reshape(-1)
        elif labels is None and n is not None and several_of is None:
            raise InputError(f"{dim}: none given; expected the {n} labels along this dimension")
        elif labels is None:
            labels = only if n is None or several_of is None else several_of(n)
        checked = several(dim, labels, check, twice=False)
        if len(checked) != (n or 1):
            raise InputError(
                f"{dim}: found {len(checked)} labels; expected {n or 1}, as the array has"
                + (" no such dimension" if n is None else "")
            )
        found = found.drop_vars(dim, errors="ignore")
        found = found.expand_dims(dim) if n is None else found
        found = found.assign_coords({dim: checked})
    return found.transpose(*ACTIVATION)


def _check_sentences(activation: xr.DataArray, array: Any, stimuli: xr.Dataset) -> None:
    found, n = activation.sizes["sentence"], stimuli.sizes["sentence"]
    if found != n:
        raise InputError(f"array: {found} sentences; expected {n}, as the store has")
    check_order("array", array, stimuli)


def _check_precision(activation: xr.DataArray, name: str) -> None:
    """Warn of units that vary by less than a store holds; refuse a layer of such units alone."""
    for pooling, layer in product(activation["pooling"].values, activation["layer"].values):
        varies, lost = lost_units(activation.sel(pooling=pooling, layer=layer).values)
        if not lost.any():
            continue
        said = (
            f"array: {lost.sum()} of {varies.sum()} units of {name}, pooling={pooling}, "
            f"layer={layer} vary by less than single precision holds; expected another unit of "
            "measurement, or values without their mean"
        )
        if lost.sum() == varies.sum():
            raise InputError(f"{said}; nothing was written")
        warn(said)


def _check_units(array: xr.DataArray) -> None:
    """Refuse other labels of units than their numbers, which a store does not keep."""
    found, n = array["unit"].values.tolist(), array.sizes["unit"]
    if found != list(range(n)):
        raise InputError(
            f"array: its units have the labels {listed(found[:3])}, ...; expected 0 to {n - 1}, as "
            "a store numbers them: sort them, or drop_vars('unit')"
        )


def _checkpoints(activation: xr.DataArray) -> Iterator[tuple[dict[str, Any], xr.DataArray]]:
    values = [activation[dim].values.tolist() for dim in CHECKPOINT]
    for where in product(*(range(len(labels)) for labels in values)):
        labels = {dim: known[i] for dim, known, i in zip(CHECKPOINT, values, where, strict=True)}
        yield labels, activation.isel(dict(zip(CHECKPOINT, where, strict=True)), drop=True)


def _add(
    path: Address, labels: dict[str, Any], activation: xr.DataArray, source: str, overwrite: bool
) -> str:
    """Write a checkpoint, and say what became of it."""
    activation = activation.compute()
    for dim in ("pooling", "layer"):
        activation = activation.dropna(dim, how="all")
    if not activation.size:
        return "not there"
    if not overwrite and stored.is_recorded(path, **labels):
        if stored.is_same(path, activation, **labels):
            return "skipped"
        named = ", ".join(f"{dim}={label}" for dim, label in labels.items())
        raise InputError(
            f"array: the store holds other activations of {named}, or of other poolings and "
            "layers; expected the same, another label, or overwrite=True"
        )
    _check_precision(activation, ", ".join(f"{dim}={label}" for dim, label in labels.items()))
    provenance = {
        "source": source,
        **{dim: activation[dim].values.tolist() for dim in REPRESENTATION[len(CHECKPOINT) :]},
        "versions": {name: version(name) for name in VERSIONS},
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        stored.write_checkpoint(
            path, activation, **labels, provenance=provenance, overwrite=overwrite
        )
    except InputError as error:
        # What is wrong with the values is wrong with the argument.
        raise InputError(str(error).replace("activation:", "array:", 1)) from error
    return "recorded"
