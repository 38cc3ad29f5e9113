"""Results beside the activations: saved piece by piece, resumed, opened lazily, never stale.

The results of one analysis with one choice of settings are a grid in the store, at
`results/<analysis>/<key>`; the key is a hash of the settings, the stimuli and the version of this
library. For every cell, `computed_from` holds the fingerprint of the activations that the values
were computed from: a cell is current only while the store holds just those activations.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr

from mlem_xr.analyses import ANALYSES, check_whole
from mlem_xr.grids import (
    create_array,
    create_labels,
    extend,
    locked,
    read_grid,
)
from mlem_xr.layers import NET, UNIT_LABELS, concatenate_layers
from mlem_xr.pieces import Target, compute_and_write, cut_into_pieces, n_layers
from mlem_xr.progress import progress_bar
from mlem_xr.schema import CELL, CHECKPOINT, InputError, choose
from mlem_xr.stores import locate, open_store
from mlem_xr.tasks import n_workers, run_tasks

REFRESH = {
    "activations": ("distances", "mds", "importance"),
    "distances": ("mds", "importance"),
    "mds": ("mds",),
    "importance": ("importance",),
}
"""Stage to the stages whose results are computed again with it."""

_FILL: dict[str, Any] = {"f": np.nan, "b": False}
"""What stands for a value that was not computed, by kind of dtype."""

_CHUNK_BYTES = 2**20
"""Layers share chunks up to this size: zarr takes a millisecond for each, however small."""


def save_results(
    result: xr.Dataset,
    store: str | Path,
    *,
    refresh: Iterable[str] = (),
    progress: bool = True,
) -> pd.DataFrame:
    """Compute a lazy result piece by piece and write it beside the activations.

    Cells that are current are skipped, so an interrupted, extended or repeated run computes only
    what is missing. A piece is a few layers of one checkpoint and pooling, which are marked as
    computed after their values are written; an interruption loses the piece that each worker has
    in hand. Several processes may save into one store at once.

    Parameters
    ----------
    result : xr.Dataset
        What an analysis returned for the opened store, or a selection of its models, seeds, steps,
        poolings and layers.
    store : str or Path
        The store that the activations come from.
    refresh : iterable of {"activations", "distances", "mds", "importance"}
        Stages to compute again although they are there, with all that depends on them.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    pd.DataFrame
        One row per cell: model, seed, step, pooling, layer and `status`: "computed", "skipped"
        (it was current), "not recorded", or "not available" (derived from saved results that are
        missing or stale).

    Raises
    ------
    InputError
        If the result does not say which analysis of which activations it is, or the store holds
        other activations or stimuli.

    Examples
    --------
    >>> save_results(xr.Dataset(), "nowhere.zarr")
    Traceback (most recent call last):
        ...
    mlem_xr.schema.InputError: result: no attribute 'analysis'; expected what an analysis returned
    """
    identity = _identity(result)
    again = _is_refreshed(identity["analysis"], refresh)
    activations = _open_activations(store, _concatenated(result))
    path = Path(activations.attrs["store"])
    result = _all_cells(result)
    _check_source(result, identity, activations)
    status = _status(result, _saved_marks(path, identity, result), again)
    todo = [tuple(cell) for cell in status.index[status["status"] == "computed"]]
    if todo:
        _compute(result, identity, activations, todo, progress=progress)
    return status.reset_index(drop=True)


def _compute(
    result: xr.Dataset,
    identity: dict[str, str],
    activations: xr.Dataset,
    todo: list[tuple[int, ...]],
    *,
    progress: bool,
) -> None:
    """Compute and write the cells at these positions in the result."""
    path = Path(activations.attrs["store"])
    labels = _labels(result)
    with locked(path):
        group = _open_or_create(path, identity, result, activations)
        at = extend(group, labels)
    (fingerprint, provenance), checkpoint_at = locate(path, ["fingerprint", "provenance"], labels)
    target = Target(path / _name(identity), at, fingerprint, provenance, checkpoint_at)
    pieces = cut_into_pieces(todo, n_workers=n_workers())
    n_units = result.sizes.get("unit", 1)
    unit = "units" if "unit" in result.dims else "cells"
    n_total = len(todo) * n_units
    with progress_bar(identity["analysis"], n_total, unit=unit, shown=progress) as tick:
        if len(pieces) < n_workers():
            # Too few for all workers, but what they consist of is more.
            compute_and_write(result, target, *pieces)
            tick(n_total)
            return
        run_tasks(
            partial(compute_and_write, result, target, scheduler="sync"),
            pieces,
            done=lambda i: tick(n_layers(pieces[i]) * n_units),
        )


def open_results(
    store: str | Path, analysis: str, *, layer: str | None = None, **settings: Any
) -> xr.Dataset:
    """Open saved results lazily.

    Parameters
    ----------
    store : str or Path
        A store.
    analysis : str
        Name of the analysis function, such as "multivariate_importance".
    layer : {None, "net"}
        "net": the results of `concatenate_layers`.
    **settings
        Its options; those that are not given have their defaults.

    Returns
    -------
    xr.Dataset
        As the analysis returns it, Dask-backed; NaN where a cell was never computed or its
        activations have been recorded again since.

    Raises
    ------
    InputError
        If the analysis is unknown or no results were saved for these settings.

    Examples
    --------
    >>> open_results("nowhere.zarr", "multivariate_importance")
    Traceback (most recent call last):
        ...
    mlem_xr.schema.InputError: store: there is no store at nowhere.zarr
    """
    choose("analysis", analysis, ANALYSES)
    activations = _open_activations(store, choose("layer", layer, (None, NET)) == NET)
    try:
        with warnings.catch_warnings():
            # They were shown when the results were computed.
            warnings.simplefilter("ignore", UserWarning)
            expected = ANALYSES[analysis](activations, **settings)
    except TypeError as error:
        raise InputError(f"settings of {analysis}: {error}") from error
    identity = _identity(expected)
    path = Path(activations.attrs["store"])
    if not _is_saved(path, identity):
        found = ", ".join(sorted(set(list_results(store)["analysis"]))) or "nothing"
        raise InputError(
            f"results: none saved for {analysis} with {settings or 'default settings'}; "
            f"saved: {found}, see list_results"
        )
    group = _open_group(path, identity)
    data = read_grid(group, lazy=[str(name) for name in expected.data_vars])
    data = _in_order_of(activations, data)
    fingerprint = activations["fingerprint"].reindex({dim: data[dim] for dim in CHECKPOINT})
    current = (data["computed_from"] == fingerprint) & (data["computed_from"] != "")
    names = list(expected.data_vars)
    values = data[names].map(lambda v: v.where(current, _FILL[v.dtype.kind]))
    # Those of cells and units are the saved ones; what else is known of units, the analysis knows.
    kept = {k: v for k, v in expected.coords.items() if not set(v.dims) & {*CELL, "unit"}}
    kept |= {k: v for k, v in expected.coords.items() if v.dims == ("unit",) and k != "unit"}
    opened = values.assign_coords(kept | {"computed_from": data["computed_from"]})
    for name in names:
        opened[name] = (
            opened[name].transpose(*expected[name].dims).assign_attrs(expected[name].attrs)
        )
    return opened.assign_attrs(expected.attrs)


def list_results(store: str | Path) -> pd.DataFrame:
    """List what is saved in a store.

    Parameters
    ----------
    store : str or Path
        A store.

    Returns
    -------
    pd.DataFrame
        One row per analysis and settings: `analysis`, `settings` (JSON), `version` of mlem_xr,
        `saved` (UTC time), `current` (number of cells) and `stale` (number of cells whose
        activations have been recorded again).
    """
    activations = open_store(store)
    path = Path(activations.attrs["store"])
    rows = []
    for folder in sorted((path / "results").glob("*/*/computed_from/zarr.json")):
        group = zarr.open_group(folder.parent.parent, mode="r", use_consolidated=False)
        computed_from = read_grid(group, names=["computed_from"])["computed_from"]
        fingerprint = activations["fingerprint"].reindex(
            {dim: computed_from[dim] for dim in CHECKPOINT}
        )
        current = int(((computed_from == fingerprint) & (computed_from != "")).sum())
        computed = int((computed_from != "").sum())
        about = {key: group.attrs[key] for key in ("analysis", "settings", "version", "saved")}
        rows.append({**about, "current": current, "stale": computed - current})
    columns = ["analysis", "settings", "version", "saved", "current", "stale"]
    return pd.DataFrame(rows, columns=columns)


def _in_order_of(activations: xr.Dataset, data: xr.Dataset) -> xr.Dataset:
    """Bring labels, which stand in the order in which they were saved, into that of the store."""
    for dim in {*CELL, "unit"} & set(data.dims):
        labels = activations.indexes[dim]
        order = labels[labels.isin(data.indexes[dim])]
        if not order.equals(data.indexes[dim]):
            data = data.sel({dim: order})
    return data


def _open_activations(store: str | Path, concatenated: bool) -> xr.Dataset:
    activations = open_store(store)
    return concatenate_layers(activations) if concatenated else activations


def _concatenated(result: xr.Dataset) -> bool:
    return "layer" in result.coords and NET in np.atleast_1d(result["layer"].values).tolist()


def _identity(result: xr.Dataset) -> dict[str, str]:
    for key in ("analysis", "settings", "stimuli_hash"):
        if key not in result.attrs:
            raise InputError(
                f"result: no attribute {key!r}; expected what an analysis returned"
                + (" for an opened store" if key == "stimuli_hash" else "")
            )
    identity = {key: result.attrs[key] for key in ("analysis", "settings", "stimuli_hash")}
    return identity | {"version": version("mlem_xr")}


def _name(identity: dict[str, str]) -> str:
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return f"results/{identity['analysis']}/{key}"


def _open_group(path: Path, identity: dict[str, str]) -> zarr.Group:
    return zarr.open_group(path / _name(identity), mode="r", use_consolidated=False)


def _is_saved(path: Path, identity: dict[str, str]) -> bool:
    return (path / _name(identity) / "computed_from" / "zarr.json").exists()


def _saved_marks(path: Path, identity: dict[str, str], result: xr.Dataset) -> xr.DataArray:
    """Read what the cells of a result were computed from; empty where they never were."""
    labels = {dim: result[dim].values for dim in CELL}
    if not _is_saved(path, identity):
        empty = np.full([len(values) for values in labels.values()], "", dtype=object)
        return xr.DataArray(empty, labels, CELL)
    marks = read_grid(_open_group(path, identity), names=["computed_from"])["computed_from"]
    return marks.reindex(labels, fill_value="")


def _is_refreshed(analysis: str, refresh: Iterable[str]) -> bool:
    names = [refresh] if isinstance(refresh, str) else refresh
    again = {stage for name in names for stage in REFRESH[choose("refresh", name, REFRESH)]}
    return ("mds" if analysis == "mds" else "importance") in again


def _all_cells(result: xr.Dataset) -> xr.Dataset:
    """Give back the dimensions of a cell that a selection turned into scalars."""
    for dim in reversed(CELL):
        if dim not in result.coords:
            raise InputError(f"result: no coordinate {dim!r}; expected what an analysis returned")
        if dim not in result.dims:
            result = result.expand_dims(dim)
    fingerprint = result["fingerprint"].expand_dims(
        [dim for dim in CHECKPOINT if dim not in result["fingerprint"].dims]
    )
    result = result.assign_coords(fingerprint=fingerprint.transpose(*CHECKPOINT))
    return result.map(lambda variable: variable.transpose(*CELL, ...), keep_attrs=True)


def _check_source(result: xr.Dataset, identity: dict[str, str], activations: xr.Dataset) -> None:
    if identity["stimuli_hash"] != activations.attrs["stimuli_hash"]:
        raise InputError(
            "result: it was made from other sentences or features than the store's; "
            "expected an analysis of all of them"
        )
    n_units = activations.sizes["unit"]
    if result.attrs.get("n_units", n_units) != n_units:
        raise InputError(
            f"result: {result.attrs['n_units']} units; the store has {n_units}: "
            "expected all of them"
        )
    check_whole(result, activations)
    for name in UNIT_LABELS.keys() & set(result.coords):
        if not np.array_equal(result[name], activations[name]):
            raise InputError(
                "result: its units stand in another order than the store's layers; expected "
                "concatenate_layers of all layers in their order"
            )
    stored = activations["fingerprint"].reindex({dim: result[dim] for dim in CHECKPOINT})
    if not (stored == result["fingerprint"]).all():
        raise InputError(
            "result: the activations have been recorded again since it was made; "
            "expected an analysis of the store as it is: open it again"
        )


def _open_or_create(
    path: Path, identity: dict[str, str], result: xr.Dataset, activations: xr.Dataset
) -> zarr.Group:
    """Make the arrays of a result; `computed_from` comes last and says that all are there."""
    group = zarr.open_group(path, mode="r+", use_consolidated=False).require_group(_name(identity))
    if "computed_from" in group:
        return group
    group.attrs.update(identity | {"saved": datetime.now(UTC).isoformat(timespec="seconds")})
    for dim, labels in _labels(result).items():
        text = isinstance(labels[0], str)
        known = [] if dim in CELL else labels
        create_labels(group, dim, known, str if text else result[dim].dtype)
    variables = {str(name): variable for name, variable in result.data_vars.items()}
    variables["computed_from"] = xr.zeros_like(result["layer"]).expand_dims(CELL[:4])
    for name, variable in variables.items():
        if name in group:
            continue
        dims = [*CELL, *(str(dim) for dim in variable.dims if dim not in CELL)]
        sizes = [result.sizes[dim] for dim in dims[5:]]
        is_text = name == "computed_from"
        together = max(1, _CHUNK_BYTES // (math.prod(sizes) * variable.dtype.itemsize))
        create_array(
            group,
            name,
            dims,
            shape=[0] * 5 + sizes,
            chunks=[1, 1, 1, 1, min(together, activations.sizes["layer"]), *sizes],
            dtype=str if is_text else variable.dtype,
            fill_value="" if is_text else _FILL[variable.dtype.kind],
        )
    return group


def _status(result: xr.Dataset, computed_from: xr.DataArray, again: bool) -> pd.DataFrame:
    """Say for every cell, indexed by its positions in the result, what is to be done."""
    fingerprint = result["fingerprint"].values[..., np.newaxis, np.newaxis]
    current = (computed_from.values == fingerprint) & (fingerprint != "")
    status = np.where(current & (not again), "skipped", "computed")
    if "computed_from" in result.coords:
        # Derived from saved results that are not there, or not any more.
        stale = result["computed_from"].values != fingerprint
        status = np.where(stale, "not available", status)
    status = np.where(fingerprint == "", "not recorded", status)
    where = np.indices(status.shape).reshape(len(CELL), -1)
    labels = {dim: result[dim].values[i] for dim, i in zip(CELL, where, strict=True)}
    index = pd.MultiIndex.from_arrays(list(where), names=CELL)
    return pd.DataFrame({**labels, "status": status.ravel()}, index=index)


def _labels(data: xr.Dataset) -> dict[str, list[Any]]:
    return {str(dim): data[dim].values.tolist() for dim in data.dims}
