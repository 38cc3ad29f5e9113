"""Compute what is missing of a result, task by task, and write it beside the activations."""

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import reduce
from operator import and_, or_
from pathlib import Path
from typing import Any, NamedTuple

import dask
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.errors import ContainsArrayError

from mlem_xr.analyses import ANALYSES, Analysis
from mlem_xr.analyses.layers import UNIT_LABELS, concatenate_layers, units_of_all_layers
from mlem_xr.analyses.options import FUNCTION
from mlem_xr.analyses.origin import digests, digests_of
from mlem_xr.running.executor import compute_together, n_workers, run_tasks
from mlem_xr.running.progress import progress_bar, resumable
from mlem_xr.schema import (
    CHECKPOINT,
    REPRESENTATION,
    InputError,
    among,
    check_dataset,
    check_dimensions,
    choose,
    leading_dims,
    several,
    shown,
)
from mlem_xr.store.activations import locate, open_store
from mlem_xr.store.address import Address, each, open_zarr, store_path
from mlem_xr.store.grid import (
    array_of,
    create_array,
    create_labels,
    extend,
    positions,
    text_at,
)
from mlem_xr.store.identity import (
    IDENTITY,
    KEPT,
    MARKS,
    VERSION,
    folder_of,
    is_saved,
    labels_of_marks,
    open_group,
    read_result,
)
from mlem_xr.store.locks import locked
from mlem_xr.store.rows import write_layers
from mlem_xr.store.tasks import Task, cut_into_tasks, least_in_a_task

REFRESH = {
    "activations": ("distances", "mds", "importance"),
    "distances": ("distances", "mds", "importance"),
    "mds": ("mds",),
    "importance": ("importance",),
}
"""Stage to the stages whose results are computed again with it."""

FILL: dict[str, Any] = {"f": np.nan, "b": False}
"""What stands for a value that was not computed, by kind of dtype."""

_CHUNK_BYTES = 2**20
"""Layers share chunks up to this size: zarr takes a millisecond for each, however small."""


class Destination(NamedTuple):
    """Where a result goes, and what the store says of the activations meanwhile."""

    path: Address
    """Folder of the result."""
    at: dict[str, list[int]]
    """Positions of the result's labels there."""
    fingerprint: zarr.Array
    """Hash of each checkpoint's activations; opened once, because that takes a millisecond."""
    provenance: zarr.Array
    """Where they come from: another text each time that they are recorded."""
    checkpoint_at: dict[str, list[int]]
    """Positions of the result's checkpoints in these two."""
    n_units: NDArray
    """Number of units of all representations of the saved result, at their positions there."""


def write_results(
    result: xr.Dataset,
    store: str | Path | None = None,
    *,
    refresh: Iterable[str] = (),
    progress: bool = True,
) -> pd.DataFrame:
    """Compute and write what is missing of a result, as `save_results` does.

    Returns
    -------
    pd.DataFrame
        One row per representation: model, seed, step, pooling, layer and `status`: "computed",
        "skipped" (it was current), "not recorded", or "not available" (derived from saved results
        that are missing or stale).
    """
    analysis = _analysis_of(result)
    again = _is_refreshed(analysis, refresh)
    path = store_of(result, store)
    activations = activations_of(open_store(str(path)), result.attrs["settings"])
    made_from = digests_of(result)
    result = _all_dimensions(result)
    _check_source(result, activations)
    n_units = units_of(activations, result).values
    status = _status(result, _marks(path, result), n_units, again)
    _check_digests(made_from, activations, status[status["status"].isin(["computed", "skipped"])])
    todo = [tuple(position) for position in status.index[status["status"] == "computed"]]
    if todo:
        amount = n_units if "unit" in result.dims else n_units > 0

        def reached() -> str:
            now = _status(result, _marks(path, result), n_units, False)["status"]
            there = status["status"].isin(["computed", "skipped"])
            return f"{(now == 'skipped').sum()} of {there.sum()} representations are saved"

        with resumable(analysis.name, reached, shown=progress):
            _compute(result, path, activations, todo, amount, progress=progress)
    return status.reset_index(drop=True)


def _analysis_of(result: Any) -> Analysis:
    """Return the analysis that a result is of; refuse what does not say so, with its settings."""
    check_dataset("result", result)
    for key in ("analysis", "settings"):
        if key not in result.attrs:
            raise InputError(f"result: no attribute {key!r}; expected what an analysis returned")
    _check_origin(result)
    _check_functions(result.attrs["settings"])
    analysis = ANALYSES[choose("result: its analysis", result.attrs["analysis"], ANALYSES)]
    settings = result.attrs["settings"]
    try:
        analysis.options(**{name: settings[name] for name in analysis.options.names()})
    except (InputError, TypeError, LookupError) as error:
        raise InputError(
            f"result: its settings are {shown(settings)} ({error}); "
            f"expected those of {analysis.name}"
        ) from error
    return analysis


def _check_functions(settings: Any) -> None:
    """Refuse options that are functions: a result of another one could be taken for theirs."""
    for name, value in settings.items() if isinstance(settings, Mapping) else ():
        if isinstance(value, str) and value.startswith(FUNCTION):
            raise InputError(
                f"result: its {name} is the {value}, and functions cannot be told apart once "
                "results are saved; expected one with a name here, or 'precomputed' with the "
                "distances that it gives. result.compute() gives this one, and "
                "result.to_zarr(path) keeps it"
            )


def _check_origin(result: xr.Dataset) -> None:
    """Refuse a result of activations that did not come out of a store."""
    lacks = [f"attribute {key!r}" for key in IDENTITY if key not in result.attrs]
    lacks += [
        f"coordinate {name!r}"
        for name in (*REPRESENTATION, "fingerprint")
        if name not in result.coords
    ]
    more = [dim for dim in leading_dims(result.dims) if dim not in REPRESENTATION]
    if lacks or more:
        found = f"it has no {lacks[0]}" if lacks else f"it has the dimension {more[0]!r}"
        raise InputError(
            f"result: {found}, so its activations are not as open_store returns them; expected "
            "those of a store. result.compute() gives this one, and result.to_zarr(path) keeps it; "
            "add_activations puts activations into a store"
        )


def store_of(result: xr.Dataset, store: str | Path | None) -> Address:
    """Return the address of the store that a result is saved in."""
    if store is None and "store" not in result.attrs:
        raise InputError("store: none given, and the activations were not opened from one")
    return store_path(result.attrs["store"] if store is None else store)


def activations_of(activations: xr.Dataset, settings: Mapping[str, Any]) -> xr.Dataset:
    """Return the activations of a store that a result with these settings is made of."""
    if "layers" not in settings:
        return activations
    return concatenate_layers(activations.sel(layer=_layers(activations, settings)))


def counts_of(activations: xr.Dataset, settings: Mapping[str, Any]) -> xr.DataArray:
    """Return the `n_units` of these activations, which need neither sentences nor features."""
    counts = activations["n_units"]
    if "layers" not in settings:
        return counts
    return units_of_all_layers(counts.sel(layer=_layers(activations, settings)))


def _layers(activations: xr.Dataset, settings: Mapping[str, Any]) -> list[Any]:
    known = activations["layer"].values.tolist()
    return [choose("layer", layer, known) for layer in settings["layers"]]


def _marks(path: Address, result: xr.Dataset) -> xr.DataArray:
    """Read what a result was computed from; empty where it never was."""
    labels = {dim: result[dim].values for dim in REPRESENTATION}
    if not is_saved(path, result.attrs):
        empty = np.full([len(values) for values in labels.values()], "", dtype=object)
        return xr.DataArray(empty, labels, REPRESENTATION)
    group = open_group(path, result.attrs)
    marks = read_result(group, names=["computed_from"])["computed_from"]
    return marks.reindex(labels, fill_value="")


def _is_refreshed(analysis: Analysis, refresh: Iterable[str]) -> bool:
    names = several("refresh", refresh, among(REFRESH), empty=True)
    again = {stage for name in names for stage in REFRESH[name]}
    return analysis.stage in again


def _all_dimensions(result: xr.Dataset) -> xr.Dataset:
    """Give back the dimensions of a representation that a selection turned into scalars."""
    for dim in reversed(REPRESENTATION):
        if dim not in result.dims:
            result = result.expand_dims(dim)
    for name, dims in (("fingerprint", CHECKPOINT), ("computed_from", REPRESENTATION)):
        if name in result.coords:
            missing = [dim for dim in dims if dim not in result[name].dims]
            whole = result[name].expand_dims(missing).transpose(*dims)
            result = result.assign_coords({name: whole})
    return result.map(lambda variable: variable.transpose(*REPRESENTATION, ...), keep_attrs=True)


def _check_source(result: xr.Dataset, activations: xr.Dataset) -> None:
    """Refuse results of other activations than the store's, and parts of results."""
    if result.attrs["stimuli_hash"] != activations.attrs["stimuli_hash"]:
        raise InputError(
            "result: it was made from other sentences, features or items than the store's; "
            "expected an analysis of all of them"
        )
    n_units = activations.sizes["unit"]
    if result.attrs.get("n_units", n_units) != n_units:
        raise InputError(
            f"result: {result.attrs['n_units']} units; the store has {n_units}: "
            "expected all of them"
        )
    _check_whole(result, activations)
    for name in UNIT_LABELS.keys() & set(result.coords):
        if not np.array_equal(result[name], activations[name]):
            raise InputError(
                "result: its units are not those of the store's layers; expected "
                "concatenate_layers of layers of the store"
            )
    stored = activations["fingerprint"].reindex({dim: result[dim] for dim in CHECKPOINT})
    if not (stored == result["fingerprint"]).all():
        raise InputError(
            "result: the activations have been recorded again since it was made; "
            "expected an analysis of the store as it is: open it again"
        )


def _check_digests(
    made_from: list[xr.DataArray], activations: xr.Dataset, table: pd.DataFrame
) -> None:
    """Refuse results of activations that were changed after the store was opened.

    `table` has a row per representation; some are compared, in which each of its labels occurs.
    """
    first = [~table[dim].duplicated() for dim in REPRESENTATION]
    rows = table[reduce(or_, first)].reset_index(drop=True)
    stored = digests(activations["activation"])
    for made in made_from:
        known = [
            rows[dim].isin(np.atleast_1d(made[dim].values))
            for dim in REPRESENTATION
            if dim in made.coords
        ]
        some = rows[reduce(and_, known)] if known else rows
        if not len(some):
            continue
        at = {dim: xr.DataArray(some[dim].values, dims="row") for dim in REPRESENTATION}
        try:
            found, expected = dask.compute(
                made.sel({dim: at[dim] for dim in REPRESENTATION if dim in made.dims}),
                stored.sel(at),
            )
        except InputError:
            # Damage is named by the task that meets it, when the others are done.
            continue
        changed = found.values != expected.values
        if changed.any():
            row = some[changed].iloc[0]
            name = ", ".join(f"{dim}={row[dim]}" for dim in REPRESENTATION)
            raise InputError(
                f"result: it is not of the activations that the store holds of {name}: values or "
                "labels were changed after it was opened; expected an analysis of the opened "
                "store, or of another store: add_activations makes one"
            )


class _Layout(NamedTuple):
    variables: set[str]
    sizes: dict[str, int]


def _layout(analysis: Analysis, settings: Mapping[str, Any], activations: xr.Dataset) -> _Layout:
    """Return the variables that a whole result has, and the sizes of its own dimensions."""
    options, features = analysis.options_of(settings), settings.get("features", [])
    outputs = analysis.outputs(options)
    sizes = {
        **{dim: activations.sizes[dim] for dim in ("sentence", "unit")},
        "feature": len(features),
        **{dim: len(labels) for dim, labels in analysis.labels(options, features).items()},
    }
    dims = {dim for output in outputs.values() for dim in output.dims}
    layout = _Layout(set(outputs), {dim: sizes[dim.removeprefix("other_")] for dim in dims})
    if analysis.source is None or not analysis.source.kept:
        return layout
    nested = settings[analysis.source.argument]
    kept = _layout(ANALYSES[nested["analysis"]], nested, activations)
    return _Layout(layout.variables | kept.variables, layout.sizes | kept.sizes)


def _features(analysis: Analysis, settings: Mapping[str, Any]) -> list[str] | None:
    """Return the features that a result is about: its own, or those of what it started from."""
    if "features" in settings or analysis.source is None:
        features = settings.get("features")
        labels = analysis.labels(analysis.options_of(settings), features or [])
        return list(labels["feature"]) if "feature" in labels else features
    nested = settings[analysis.source.argument]
    return _features(ANALYSES[nested["analysis"]], nested)


def _check_whole(result: xr.Dataset, activations: xr.Dataset) -> None:
    """Refuse a part of a result: only whole representations are saved."""
    name = result.attrs["analysis"]
    expected = _layout(ANALYSES[name], result.attrs["settings"], activations)
    found = {str(dim): n for dim, n in result.sizes.items() if dim not in REPRESENTATION}
    missing = expected.variables - set(result.data_vars)
    if found != expected.sizes or missing:
        raise InputError(
            f"result: a part of {name}, with {found} and without "
            f"{', '.join(sorted(map(str, missing))) or 'no variable'}; expected {expected.sizes}: "
            "select models, seeds, steps, poolings and layers only"
        )
    features = _features(ANALYSES[name], result.attrs["settings"])
    if "feature" in result.dims and result["feature"].values.tolist() != features:
        raise InputError(f"result: its features have other labels; expected {shown(features)}")
    for variable in result.values():
        check_dimensions("result", variable)
        if variable.dtype.kind not in FILL:
            raise InputError(
                f"result: {variable.name!r} has dtype {variable.dtype}; expected numbers"
            )
    for dim in ("pooling", "layer"):
        several(f"result: {dim}", result[dim].values, among(activations[dim].values.tolist()))


def _compute(
    result: xr.Dataset,
    path: Address,
    activations: xr.Dataset,
    todo: list[tuple[int, ...]],
    amount: NDArray,
    *,
    progress: bool,
) -> None:
    """Compute and write the representations at these positions in the result.

    `amount` says how much each representation counts in the progress.
    """
    labels = {str(dim): result[dim].values.tolist() for dim in result.dims}
    with locked(path):
        group = _open_or_create(path, result, activations.sizes["layer"])
        known = extend(group, labels, labels_of_marks(group))
    at = positions(known, labels)
    saved = xr.Dataset(coords={dim: known[dim] for dim in REPRESENTATION})
    (fingerprint, provenance), checkpoint_at = locate(path, MARKS, labels)
    folder = path / folder_of(result.attrs)
    n_units = units_of(activations, saved).values
    destination = Destination(folder, at, fingerprint, provenance, checkpoint_at, n_units)
    least = least_in_a_task(activations.sizes["sentence"], activations.sizes["unit"])
    tasks = cut_into_tasks(todo, n_workers=n_workers(), least=least)
    unit = "units" if "unit" in result.dims else "representations"
    amounts = [int(amount[tuple(task[dim] for dim in REPRESENTATION)].sum()) for task in tasks]

    def name(i: int) -> str:
        parts = {dim: labels[dim][part] for dim, part in tasks[i].items()}
        words = (f"{dim}={', '.join(map(str, part))}" for dim, part in parts.items())
        return f"{result.attrs['analysis']} of {', '.join(words)}"

    with progress_bar(result.attrs["analysis"], sum(amounts), unit=unit, shown=progress) as bar:

        def done(i: int) -> None:
            bar.update(amounts[i])

        if len(tasks) >= n_workers():
            run_tasks(compute_and_write, (result, destination), tasks, name=name, done=done)
            return
        # Too few for all workers, but the blocks that they consist of are more.
        origins = [_origin(destination, task) for task in tasks]

        def write(i: int, values: xr.Dataset) -> None:
            _write(values, destination, tasks[i], origins[i])
            done(i)

        compute_together([result.isel(task) for task in tasks], name=name, done=write)


def compute_and_write(shared: tuple[xr.Dataset, Destination], task: Task) -> None:
    """Compute one task of a result in this thread, and write it."""
    result, destination = shared
    origin = _origin(destination, task)
    # By name, "sync" would import distributed first.
    (values,) = dask.compute(result.isel(task), scheduler=dask.get)
    _write(values, destination, task, origin)


def _open_or_create(path: Address, result: xr.Dataset, n_layers_of_store: int) -> zarr.Group:
    """Make the arrays of a result; `computed_from` comes last and says that all are there.

    They have the size of the result, and no labels yet: as `extend` leaves them when it is killed.
    """
    folder = folder_of(result.attrs)
    open_zarr(path, "r+").require_group(folder)
    # Opened where it lies: for every array zarr looks for all groups above it.
    group = open_zarr(path / folder, "r+")
    if "computed_from" in group:
        return group
    about = {key: result.attrs[key] for key in KEPT if key in result.attrs}
    about |= {"version": VERSION, "variables": list(map(str, result.data_vars))}
    # At once: `attrs.update` would write the file again for every attribute.
    group.update_attributes(about | {"saved": datetime.now(UTC).isoformat(timespec="seconds")})
    for dim in map(str, result.dims):
        labels = result[dim].values.tolist()
        kind = str if isinstance(labels[0], str) else result[dim].dtype
        known = [] if dim in REPRESENTATION else labels
        create_labels(group, dim, known, kind, result[dim].attrs)
    for label in UNIT_LABELS.keys() & set(result.coords):
        _create_like(group, label, result[label], chunks=result[label].shape)
        array_of(group, label)[:] = result[label].values

    def create(name: Any) -> None:
        variable = result[name]
        sizes = [n for dim, n in variable.sizes.items() if dim not in REPRESENTATION]
        together = max(1, _CHUNK_BYTES // (math.prod(sizes) * variable.dtype.itemsize))
        layers = min(together, n_layers_of_store)
        _create_like(group, str(name), variable, chunks=[1, 1, 1, 1, layers, *sizes])

    each(path, create, result.data_vars)
    create_array(
        *(group, "computed_from", REPRESENTATION),
        shape=[result.sizes[dim] for dim in REPRESENTATION],
        chunks=[1, 1, 1, 1, n_layers_of_store],
        dtype=str,
        fill_value="",
    )
    return group


def _create_like(
    group: zarr.Group, name: str, variable: xr.DataArray, *, chunks: Iterable[int]
) -> None:
    dims = list(map(str, variable.dims))
    # A process that was killed may have made it.
    with suppress(ContainsArrayError):
        create_array(
            *(group, name, dims),
            shape=variable.shape,
            chunks=list(chunks),
            dtype=variable.dtype,
            fill_value=FILL.get(variable.dtype.kind, 0),
            attributes=variable.attrs,
        )


def units_of(activations: xr.Dataset, labeled: xr.Dataset | xr.DataArray) -> xr.DataArray:
    """Count the units of each representation that there are labels of; 0 where it is not there."""
    labels = {dim: labeled[dim].values for dim in REPRESENTATION}
    return activations["n_units"].reindex(labels, fill_value=0).transpose(*REPRESENTATION)


def _status(
    result: xr.Dataset, computed_from: xr.DataArray, n_units: NDArray, again: bool
) -> pd.DataFrame:
    """Say for every representation, indexed by its positions in the result, what is to be done.

    What a network lacks, a layer or a pooling that was not recorded, is not listed.
    """
    fingerprint = result["fingerprint"].values[..., np.newaxis, np.newaxis]
    current = (computed_from.values == fingerprint) & (fingerprint != "")
    status = np.where(current & (not again), "skipped", "computed")
    if "computed_from" in result.coords:
        # Derived from saved results that are not there, or not any more.
        stale = result["computed_from"].values != fingerprint
        status = np.where(stale, "not available", status)
    status = np.where(fingerprint == "", "not recorded", status)
    where = np.indices(status.shape).reshape(len(REPRESENTATION), -1)
    labels = {dim: result[dim].values[i] for dim, i in zip(REPRESENTATION, where, strict=True)}
    index = pd.MultiIndex.from_arrays(list(where), names=REPRESENTATION)
    table = pd.DataFrame({**labels, "status": status.ravel()}, index=index)
    return table[((fingerprint == "") | (n_units > 0)).ravel()]


def _write(values: xr.Dataset, destination: Destination, task: Task, origin: str) -> None:
    """Write what a task computed; its marks come last.

    Raises `InputError` if activations were recorded again since `origin`, even the same ones.
    """
    where = destination.at | {dim: destination.at[dim][part] for dim, part in task.items()}
    fingerprint = str(values["fingerprint"].values.item())
    marks = np.full((1, 1, 1, 1, values.sizes["layer"]), fingerprint, dtype=object)
    written = {**values.data_vars, "computed_from": xr.DataArray(marks, dims=REPRESENTATION)}
    # Layers share chunks, so those of one checkpoint and pooling are written one after another.
    chunk = ".".join(str(where[dim][0]) for dim in REPRESENTATION[:4])
    with locked(destination.path / "computed_from" / chunk):
        now = text_at(destination.fingerprint, _checkpoint(destination, task))
        if now != fingerprint or _origin(destination, task) != origin:
            raise InputError(
                "result: the activations have been recorded again while it was computed"
            )
        # Opened under the lock: zarr drops what others wrote beyond the shape that it knows of.
        group = open_zarr(destination.path, "r+")
        arrays = {str(name): data.values for name, data in written.items()}
        row = tuple(where[dim][0] for dim in REPRESENTATION[:-1])
        write_layers(group, arrays, where, destination.n_units[row])


def _origin(destination: Destination, task: Task) -> str:
    return text_at(destination.provenance, _checkpoint(destination, task))


def _checkpoint(destination: Destination, task: Task) -> list[int]:
    return [destination.checkpoint_at[dim][task[dim].start] for dim in CHECKPOINT]
