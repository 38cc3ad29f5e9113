"""Results beside the activations: saved task by task, resumed, opened lazily, never stale.

The results of one analysis with one choice of settings are a grid in the store, at
`results/<analysis>/<key>`, which describes itself: the labels and attributes of all that is in it,
and the settings with those of the results it was made from. The key is a hash of the settings, the
stimuli and the version of this library. For every representation, `computed_from` holds the
fingerprint of the activations that the values were computed from: a value is current only while
the store holds just those activations.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
import zarr

from mlem_xr.analyses import ANALYSES, Analysis
from mlem_xr.analyses.layers import NET, UNIT_LABELS, concatenate_layers
from mlem_xr.running.executor import n_workers, run_tasks
from mlem_xr.running.progress import progress_bar, say
from mlem_xr.schema import CHECKPOINT, REPRESENTATION, InputError, choose
from mlem_xr.store.activations import locate, open_store
from mlem_xr.store.grid import array_of, create_array, create_labels, extend, read_grid
from mlem_xr.store.locks import locked
from mlem_xr.store.settings import find, in_words
from mlem_xr.store.tasks import (
    Destination,
    Task,
    compute_and_write,
    cut_into_tasks,
    n_layers,
)

REFRESH = {
    "activations": ("distances", "mds", "importance"),
    "distances": ("distances", "mds", "importance"),
    "mds": ("mds",),
    "importance": ("importance",),
}
"""Stage to the stages whose results are computed again with it."""

_IDENTITY = ("analysis", "settings", "stimuli_hash")
"""Attributes that tell results apart."""

_MARKS = ("fingerprint", "provenance")
"""What the store says of a checkpoint."""

_KEPT = (*_IDENTITY, "stimuli", "features", "n_units")
"""Attributes of a result that are saved."""

_STATUSES = ("computed", "skipped", "not recorded", "not available")
"""What saving says of a representation."""

_FILL: dict[str, Any] = {"f": np.nan, "b": False}
"""What stands for a value that was not computed, by kind of dtype."""

_CHUNK_BYTES = 2**20
"""Layers share chunks up to this size: zarr takes a millisecond for each, however small."""


def save_results(
    result: xr.Dataset,
    store: str | Path | None = None,
    *,
    refresh: Iterable[str] = (),
    progress: bool = True,
) -> xr.Dataset:
    """Compute a lazy result task by task, write it beside the activations, and open it there.

    Representations that are current are skipped, so an interrupted, extended or repeated run
    computes only what is missing. A task is a few layers of one checkpoint and pooling, which are
    marked as computed after their values are written; an interruption loses the task that each
    worker has in hand. Several processes may save into one store at once.

    Parameters
    ----------
    result : xr.Dataset
        What an analysis returned for the opened store, or a selection of its models, seeds, steps,
        poolings and layers.
    store : str or Path, optional
        The store that the activations come from; by default the one that they were opened from.
    refresh : iterable of {"activations", "distances", "mds", "importance"}
        Stages to compute again although they are there, with all that depends on them.
    progress : bool
        Whether to show a progress bar, and a line that counts what was computed and what was
        skipped; `list_results(store, detail=True)` says it of every representation.

    Returns
    -------
    xr.Dataset
        The same result as `open_results` opens it: Dask-backed, to be read from the store.

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
    status = write_results(result, store, refresh=refresh, progress=progress)
    counts = {name: int((status["status"] == name).sum()) for name in _STATUSES}
    found = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    found = found.replace(" ", " representations ", 1)
    say(f"{result.attrs['analysis']}: {found}", shown=progress)
    path = _store_of(result, store)
    if not _is_saved(path, result.attrs):
        raise InputError(
            f"result: nothing to save, as there are {found}; expected labels that list_results "
            "or mlem-xr info shows as recorded"
        )
    opened = _open(_saved_at(path, result.attrs), open_store(path))
    return opened.sel({dim: result[dim].values for dim in REPRESENTATION})


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
    for key in _IDENTITY:
        if key not in result.attrs:
            raise InputError(
                f"result: no attribute {key!r}; expected what an analysis returned"
                + (" for an opened store" if key == "stimuli_hash" else "")
            )
    analysis = ANALYSES[choose("analysis", result.attrs["analysis"], ANALYSES)]
    again = _is_refreshed(analysis, refresh)
    path = _store_of(result, store)
    activations = _activations(path, result.attrs["settings"])
    result = _all_dimensions(result)
    _check_source(result, activations)
    status = _status(result, _marks(path, result), again)
    todo = [tuple(position) for position in status.index[status["status"] == "computed"]]
    if todo:
        _compute(result, path, activations.sizes["layer"], todo, progress=progress)
    return status.reset_index(drop=True)


def open_results(
    store: str | Path, analysis: str, *, layer: str | None = None, **settings: Any
) -> xr.Dataset:
    """Open saved results lazily; nothing is computed.

    Parameters
    ----------
    store : str or Path
        A store.
    analysis : str
        Name of the analysis function, such as "multivariate_importance".
    layer : {None, "net"}
        "net": the results of `concatenate_layers`; the `layers` need to be named only where
        results of several choices are saved.
    **settings
        Its options; those that are not given have their defaults. Settings of the result that the
        analysis started from are a dictionary under its name, as in
        `univariate={"zscore": True}`; they need to be named only where they leave a choice.

    Returns
    -------
    xr.Dataset
        As the analysis returned it, Dask-backed; NaN where a representation was never computed or
        its activations have been recorded again since. `computed_from` holds the fingerprint of
        the activations that the values were computed from.

    Raises
    ------
    InputError
        If the analysis or a setting is unknown, no results were saved for these settings, or
        several were.

    Examples
    --------
    >>> open_results("nowhere.zarr", "multivariate_importance")
    Traceback (most recent call last):
        ...
    mlem_xr.schema.InputError: store: there is no store at nowhere.zarr
    """
    record = ANALYSES[choose("analysis", analysis, ANALYSES)]
    net = choose("layer", layer, (None, NET)) == NET
    activations = open_store(store)
    saved = [
        group
        for group in _saved(Path(activations.attrs["store"]), analysis)
        if _about(group)["version"] == version("mlem_xr")
        and ("layers" in _about(group)["settings"]) == net
    ]
    choice = [_about(group)["settings"] for group in saved]
    return _open(saved[find(record, choice, settings, now=_usual(activations))], activations)


def list_results(store: str | Path, *, detail: bool = False) -> pd.DataFrame:
    """List what is saved in a store.

    Parameters
    ----------
    store : str or Path
        A store.
    detail : bool
        Whether to list every representation.

    Returns
    -------
    pd.DataFrame
        One row per analysis and settings: `analysis`, `settings` (what sets them apart from the
        defaults, in words), `version` of mlem_xr, `saved` (UTC time), `current` (number of
        representations) and `stale` (number of those whose activations have been recorded again).
        With `detail`, one row per representation instead of the last four columns: its labels and
        `status`, "current", "stale", "not computed" or "not recorded".

    Raises
    ------
    InputError
        If there is no store, or nothing is recorded in it yet.

    Examples
    --------
    >>> list_results("nowhere.zarr")
    Traceback (most recent call last):
        ...
    mlem_xr.schema.InputError: store: there is no store at nowhere.zarr
    """
    activations = open_store(store)
    rows: list[dict[str, Any]] = []
    for group in _saved(Path(activations.attrs["store"])):
        about = _about(group)
        record = ANALYSES.get(about["analysis"])
        if record is not None:
            about["settings"] = in_words(record, about["settings"], _usual(activations))
        status = _status_of_saved(group, activations)
        if detail:
            table = status.rename("status").to_dataframe().reset_index()
            rows += [
                about | {str(k): v for k, v in row.items()} for row in table.to_dict("records")
            ]
        else:
            counts = {name: int((status == name).sum()) for name in ("current", "stale")}
            rows.append(about | counts)
    more = [*REPRESENTATION, "status"] if detail else ["version", "saved", "current", "stale"]
    return pd.DataFrame(rows, columns=["analysis", "settings", *more])


def _store_of(result: xr.Dataset, store: str | Path | None) -> Path:
    if store is None and "store" not in result.attrs:
        raise InputError("store: none given, and the activations were not opened from one")
    return Path(result.attrs["store"] if store is None else store).expanduser().absolute()


def _activations(path: Path, settings: Mapping[str, Any]) -> xr.Dataset:
    """Open the activations that a result with these settings is made of."""
    activations = open_store(path)
    if "layers" not in settings:
        return activations
    choose_layers = [
        choose("layer", layer, activations["layer"].values.tolist()) for layer in settings["layers"]
    ]
    return concatenate_layers(activations.sel(layer=choose_layers))


def _usual(activations: xr.Dataset) -> dict[str, Any]:
    """Return the settings that follow from what the store holds."""
    return {
        "features": list(activations.attrs["features"]),
        "layers": activations["layer"].values.tolist(),
        "n_units": activations.sizes["layer"] * activations.sizes["unit"],
    }


def _saved_at(path: Path, attrs: Mapping[str, Any]) -> zarr.Group:
    return zarr.open_group(path / _name(attrs), mode="r", use_consolidated=False)


def _name(attrs: Mapping[str, Any]) -> str:
    identity = {key: attrs[key] for key in _IDENTITY} | {"version": version("mlem_xr")}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return f"results/{attrs['analysis']}/{key}"


def _is_saved(path: Path, attrs: Mapping[str, Any]) -> bool:
    return (path / _name(attrs) / "computed_from" / "zarr.json").exists()


def _saved(path: Path, analysis: str = "*") -> Iterator[zarr.Group]:
    """Open all results that describe themselves, of one analysis or of all."""
    for folder in sorted((path / "results").glob(f"{analysis}/*/computed_from/zarr.json")):
        group = zarr.open_group(folder.parent.parent, mode="r", use_consolidated=False)
        if "variables" in group.attrs:
            yield group


def _about(group: zarr.Group) -> dict[str, Any]:
    """Return the attributes of a result; zarr's type says that they could be anything."""
    return dict(group.attrs)


def _marks(path: Path, result: xr.Dataset) -> xr.DataArray:
    """Read what a result was computed from; empty where it never was."""
    labels = {dim: result[dim].values for dim in REPRESENTATION}
    if not _is_saved(path, result.attrs):
        empty = np.full([len(values) for values in labels.values()], "", dtype=object)
        return xr.DataArray(empty, labels, REPRESENTATION)
    group = _saved_at(path, result.attrs)
    marks = read_grid(group, names=["computed_from"])["computed_from"]
    return marks.reindex(labels, fill_value="")


def _status_of_saved(group: zarr.Group, activations: xr.Dataset) -> xr.DataArray:
    marks = read_grid(group, names=["computed_from"])["computed_from"]
    fingerprint = activations["fingerprint"].reindex({dim: marks[dim] for dim in CHECKPOINT})
    status = xr.where(marks == fingerprint, "current", "stale")
    status = status.where(marks != "", "not computed")
    return status.where(fingerprint != "", "not recorded").drop_vars(_MARKS)


def _open(group: zarr.Group, activations: xr.Dataset) -> xr.Dataset:
    """Open a result, in the order of the store's labels, with NaN for what is not current."""
    names = _about(group)["variables"]
    data = read_grid(group, lazy=names)
    for dim in {*REPRESENTATION, "unit"} & set(data.dims):
        labels = activations.indexes[dim] if dim != "unit" else np.sort(data[dim].values)
        order = [label for label in labels if label in data.indexes[dim]]
        if order and order != data[dim].values.tolist():
            data = data.sel({dim: order})
    data = data.set_coords([name for name in data.data_vars if name not in names])
    checkpoints = {dim: data[dim] for dim in CHECKPOINT}
    marks = activations[["fingerprint", "provenance"]].reindex(checkpoints)
    data = data.assign_coords({name: marks[name].variable for name in _MARKS})
    current = (data["computed_from"] == data["fingerprint"]) & (data["computed_from"] != "")
    for name in names:
        values = data[name]
        data[name] = values.where(current, _FILL[values.dtype.kind]).transpose(*values.dims)
        data[name].attrs = values.attrs
    if "sentence" in data.dims:
        own = {k: v for k, v in activations.coords.items() if v.dims == ("sentence",)}
        data = data.assign_coords(own)
    attrs = {key: value for key, value in data.attrs.items() if key != "variables"}
    data.attrs = attrs | {"store": activations.attrs["store"]}
    # In the order of the analysis, not of the files.
    return data[names]


def _is_refreshed(analysis: Analysis, refresh: Iterable[str]) -> bool:
    names = [refresh] if isinstance(refresh, str) else refresh
    again = {stage for name in names for stage in REFRESH[choose("refresh", name, REFRESH)]}
    return analysis.stage in again


def _all_dimensions(result: xr.Dataset) -> xr.Dataset:
    """Give back the dimensions of a representation that a selection turned into scalars."""
    for dim in reversed(REPRESENTATION):
        if dim not in result.coords:
            raise InputError(f"result: no coordinate {dim!r}; expected what an analysis returned")
        if dim not in result.dims:
            result = result.expand_dims(dim)
    for name, dims in (("fingerprint", CHECKPOINT), ("computed_from", REPRESENTATION)):
        if name in result.coords:
            missing = [dim for dim in dims if dim not in result[name].dims]
            result[name] = result[name].expand_dims(missing).transpose(*dims)
    return result.map(lambda variable: variable.transpose(*REPRESENTATION, ...), keep_attrs=True)


def _check_source(result: xr.Dataset, activations: xr.Dataset) -> None:
    """Refuse results of other activations than the store's, and parts of results."""
    if result.attrs["stimuli_hash"] != activations.attrs["stimuli_hash"]:
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


class _Layout(NamedTuple):
    variables: set[str]
    sizes: dict[str, int]


def _layout(analysis: Analysis, settings: Mapping[str, Any], activations: xr.Dataset) -> _Layout:
    """Return the variables that a whole result has, and the sizes of its own dimensions."""
    options = analysis.options(**{name: settings[name] for name in analysis.options.names()})
    outputs = analysis.present(options)
    sizes = {
        **{dim: activations.sizes[dim] for dim in ("sentence", "unit")},
        "feature": len(settings.get("features", [])),
        **{dim: len(labels) for dim, labels in analysis.labels(options).items()},
    }
    dims = {dim for output in outputs.values() for dim in output.dims}
    layout = _Layout(set(outputs), {dim: sizes[dim.removeprefix("other_")] for dim in dims})
    if analysis.source is None or not analysis.source.kept:
        return layout
    nested = settings[analysis.source.argument]
    kept = _layout(ANALYSES[nested["analysis"]], nested, activations)
    return _Layout(layout.variables | kept.variables, layout.sizes | kept.sizes)


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


def _compute(
    result: xr.Dataset,
    path: Path,
    n_layers_of_store: int,
    todo: list[tuple[int, ...]],
    *,
    progress: bool,
) -> None:
    """Compute and write the representations at these positions in the result."""
    labels = {str(dim): result[dim].values.tolist() for dim in result.dims}
    with locked(path):
        at = extend(_open_or_create(path, result, n_layers_of_store), labels)
    (fingerprint, provenance), checkpoint_at = locate(path, _MARKS, labels)
    folder = path / _name(result.attrs)
    destination = Destination(folder, at, fingerprint, provenance, checkpoint_at)
    tasks = cut_into_tasks(todo, n_workers=n_workers())
    n_units = result.sizes.get("unit", 1)
    unit = "units" if "unit" in result.dims else "representations"
    total = len(todo) * n_units
    with progress_bar(result.attrs["analysis"], total, unit=unit, shown=progress) as bar:
        if len(tasks) < n_workers():
            # Too few for all workers, but the blocks that they consist of are more.
            compute_and_write(result, destination, *tasks)
            bar.update(total)
            return
        run_tasks(
            _compute_task,
            (result, destination),
            tasks,
            done=lambda i: bar.update(n_layers(tasks[i]) * n_units),
        )


def _compute_task(shared: tuple[xr.Dataset, Destination], task: Task) -> None:
    compute_and_write(*shared, task, scheduler="sync")


def _open_or_create(path: Path, result: xr.Dataset, n_layers_of_store: int) -> zarr.Group:
    """Make the arrays of a result; `computed_from` comes last and says that all are there."""
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    group = root.require_group(_name(result.attrs))
    if "computed_from" in group:
        return group
    about = {key: result.attrs[key] for key in _KEPT if key in result.attrs}
    about |= {"version": version("mlem_xr"), "variables": list(map(str, result.data_vars))}
    group.attrs.update(about | {"saved": datetime.now(UTC).isoformat(timespec="seconds")})
    for dim in map(str, result.dims):
        labels = result[dim].values.tolist()
        kind = str if isinstance(labels[0], str) else result[dim].dtype
        create_labels(group, dim, [] if dim in REPRESENTATION else labels, kind)
        group[dim].attrs.update(result[dim].attrs)
    for label in UNIT_LABELS.keys() & set(result.coords):
        _create_like(group, label, result[label], chunks=result[label].shape)
        array_of(group, label)[:] = result[label].values
    for name, variable in result.data_vars.items():
        sizes = [n for dim, n in variable.sizes.items() if dim not in REPRESENTATION]
        together = max(1, _CHUNK_BYTES // (math.prod(sizes) * variable.dtype.itemsize))
        layers = min(together, n_layers_of_store)
        _create_like(group, str(name), variable, chunks=[1, 1, 1, 1, layers, *sizes])
    create_array(
        *(group, "computed_from", REPRESENTATION),
        shape=[0] * 5,
        chunks=[1, 1, 1, 1, n_layers_of_store],
        dtype=str,
        fill_value="",
    )
    return group


def _create_like(
    group: zarr.Group, name: str, variable: xr.DataArray, *, chunks: Iterable[int]
) -> None:
    if name in group:
        return
    dims = list(map(str, variable.dims))
    create_array(
        *(group, name, dims),
        shape=[0 if dim in REPRESENTATION else variable.sizes[dim] for dim in dims],
        chunks=list(chunks),
        dtype=variable.dtype,
        fill_value=_FILL.get(variable.dtype.kind, 0),
        attributes=variable.attrs,
    )


def _status(result: xr.Dataset, computed_from: xr.DataArray, again: bool) -> pd.DataFrame:
    """Say for every representation, indexed by its positions in the result, what is to be done."""
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
    return pd.DataFrame({**labels, "status": status.ravel()}, index=index)
