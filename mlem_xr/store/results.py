"""Results beside the activations: saved task by task, resumed, opened lazily, never stale.

The results of one analysis with one choice of settings are a grid in the store, at
`results/<analysis>/<key>`, which describes itself: the labels and attributes of all that is in it,
and the settings with those of the results it was made from. The key is a hash of the settings, the
stimuli and the version of this library. For every representation, `computed_from` holds the
fingerprint of the activations that the values were computed from: a value is current only while
the store holds just those activations.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr

from mlem_xr.analyses import ANALYSES
from mlem_xr.analyses.layers import NET
from mlem_xr.running.progress import say
from mlem_xr.schema import CHECKPOINT, REPRESENTATION, InputError, check_bool, choose, warn
from mlem_xr.stimuli.table import declared_items
from mlem_xr.store.activations import open_store
from mlem_xr.store.address import store_path
from mlem_xr.store.chunks import Chunks, as_dask
from mlem_xr.store.grid import array_of, check_labels, dims_of, open_arrays
from mlem_xr.store.identity import (
    MARKS,
    VERSION,
    about,
    all_groups,
    is_saved,
    open_group,
    read_result,
)
from mlem_xr.store.saving import (
    FILL,
    activations_of,
    counts_of,
    store_of,
    units_of,
    write_results,
)
from mlem_xr.store.settings import find, in_words

_STATUSES = ("computed", "skipped", "not recorded", "not available")
"""What saving says of a representation."""


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
        If the result does not say which analysis of which activations it is, the store holds
        other activations or stimuli, or the activations were changed after it was opened.

    Examples
    --------
    >>> save_results(xr.Dataset(), "nowhere.zarr")
    Traceback (most recent call last):
        ...
    mlem_xr.schema.InputError: result: no attribute 'analysis'; expected what an analysis returned
    """
    progress = check_bool("progress", progress)
    status = write_results(result, store, refresh=refresh, progress=progress)
    found = _counted(status["status"])
    say(f"{result.attrs['analysis']}: {found}", shown=progress)
    path = store_of(result, store)
    if not is_saved(path, result.attrs):
        raise InputError(
            f"result: nothing to save, as there are {found}; expected labels that list_results "
            "or mlem-xr info shows as recorded"
        )
    opened = _open(open_group(path, result.attrs), open_store(str(path)))
    return opened.sel({dim: result[dim].values for dim in REPRESENTATION})


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
        Its options; those that are not given have their defaults, or where nothing is saved with
        those, the only ones that are (a line says which). Settings of the result that the analysis
        started from are a dictionary under its name, as in `univariate={"zscore": True}`; they need
        to be named only where they leave a choice.

    Returns
    -------
    xr.Dataset
        As the analysis returned it, Dask-backed; NaN where a representation was not computed yet or
        its activations have been recorded again since, of which a warning says how many and
        which. `computed_from` holds the fingerprint of
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
    analysis = choose("analysis", analysis, ANALYSES)
    record = ANALYSES[analysis]
    net = choose("layer", layer, (None, NET)) == NET
    activations = open_store(store)
    saved = [
        group
        for group in all_groups(store_path(activations.attrs["store"]), analysis)
        if ("layers" in about(group)["settings"]) == net
    ]
    which = find(
        record, [about(group) for group in saved], settings, now=usual_settings(activations)
    )
    group = saved[which]
    if about(group)["version"] != VERSION:
        warn(f"results: saved by mlem_xr {about(group)['version']}; this is {VERSION}")
    result = _open(group, activations)
    _warn_of_missing(result, activations)
    return result


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
    detail = check_bool("detail", detail)
    activations = open_store(store)
    rows: list[dict[Any, Any]] = []
    for group in all_groups(store_path(activations.attrs["store"])):
        row = about(group)
        recorded = activations_of(activations, row["settings"])
        record = ANALYSES.get(row["analysis"])
        if record is not None:
            row["settings"] = in_words(record, row["settings"], usual_settings(activations))
        marks = read_result(group, names=["computed_from"])["computed_from"]
        status = _status_of_saved(marks, recorded)
        if detail:
            table = status.rename("status").to_dataframe().reset_index()
            table = table[table["status"] != ""]
            rows += [{**row, **part} for part in table.to_dict("records")]
        else:
            counts = {name: int((status == name).sum()) for name in ("current", "stale")}
            rows.append(row | counts)
    more = [*REPRESENTATION, "status"] if detail else ["version", "saved", "current", "stale"]
    return pd.DataFrame(rows, columns=["analysis", "settings", *more])


def _warn_of_missing(result: xr.Dataset, activations: xr.Dataset) -> None:
    """Say which part of an opened result is not there, as after an interruption."""
    recorded = activations_of(activations, result.attrs["settings"])
    status = _status_of_saved(result["computed_from"].reset_coords(drop=True), recorded)
    missing = ("not computed", "stale")
    where = status.isin(missing)
    if not where.any():
        return
    counts = {name: (status == name).sum().item() for name in missing}
    found = [f"{count} {name}" for name, count in counts.items() if count]
    labels = {dim: where[dim][where.any([d for d in where.dims if d != dim])] for dim in where.dims}
    among = [
        f"{dim}={', '.join(map(str, values.values))}"
        for dim, values in labels.items()
        if values.size < where.sizes[dim]
    ]
    n_wanted = status.isin(["current", *missing]).sum().item()
    warn(
        f"results: {where.sum().item()} of {n_wanted} representations of "
        f"{result.attrs['analysis']} are NaN ({', '.join(found)})"
        + (f", with {'; '.join(among)}" if among else "")
        + "; save_results of the same analysis computes them"
    )


def _counted(status: pd.Series) -> str:
    """Say how many representations there are of each status."""
    counts = {name: int((status == name).sum()) for name in _STATUSES}
    found = [f"{count} {name}" for name, count in counts.items() if count] or ["0 computed"]
    noun = "representation" if found[0].startswith("1 ") else "representations"
    return ", ".join(found).replace(" ", f" {noun} ", 1)


def usual_settings(activations: xr.Dataset) -> dict[str, Any]:
    """Return the settings that follow from what the store holds."""
    return {
        "features": list(activations.attrs["features"]),
        "items": declared_items(activations, activations.attrs["features"]),
        "layers": activations["layer"].values.tolist(),
        "n_units": activations.sizes["layer"] * activations.sizes["unit"],
    }


def _status_of_saved(marks: xr.DataArray, activations: xr.Dataset) -> xr.DataArray:
    """Say of every representation of a saved result how it is; empty where a network has none."""
    fingerprint = activations["fingerprint"].reindex({dim: marks[dim] for dim in CHECKPOINT})
    status = xr.where(marks == fingerprint, "current", "stale")
    status = status.where(marks != "", "not computed")
    status = status.where(units_of(activations, marks) > 0, "")
    return status.where(fingerprint != "", "not recorded").drop_vars(MARKS)


def _open(group: zarr.Group, activations: xr.Dataset) -> xr.Dataset:
    """Open a result, in the order of the store's labels, with NaN for what is not current."""
    data, chunks = open_chunks(group, activations)
    arrays = {
        name: (dims_of(c.array), as_dask(c), dict(c.array.attrs)) for name, c in chunks.items()
    }
    data = data.assign(arrays)
    for dim in {*REPRESENTATION, "unit"} & set(data.dims):
        labels = activations.indexes[dim] if dim != "unit" else np.sort(data[dim].values)
        order = [label for label in labels if label in data.indexes[dim]]
        if order and order != data[dim].values.tolist():
            data = data.sel({dim: order})
    names = about(group)["variables"]
    data = data.set_coords([name for name in data.data_vars if name not in names])
    if "sentence" in data.dims:
        own = {k: v for k, v in activations.coords.items() if v.dims == ("sentence",)}
        data = data.assign_coords(own)
    attrs = {key: value for key, value in data.attrs.items() if key != "variables"}
    data.attrs = attrs | {"store": activations.attrs["store"]}
    # In the order of the analysis, not of the files.
    return data[names]


def open_chunks(group: zarr.Group, activations: xr.Dataset) -> tuple[xr.Dataset, dict[str, Chunks]]:
    """Read labels and marks of a result, and open its variables.

    `activations` need neither sentences nor features.
    """
    data = read_result(group, without=about(group)["variables"])
    checkpoints = {dim: data[dim] for dim in CHECKPOINT}
    marks = activations[list(MARKS)].reindex(checkpoints, fill_value="")
    data = data.assign_coords({name: marks[name].variable for name in MARKS})
    counts = counts_of(activations, about(group)["settings"]).to_dataset(name="n_units")
    return data, _variables(group, data, units_of(counts, data))


def _variables(group: zarr.Group, data: xr.Dataset, n_units: xr.DataArray) -> dict[str, Chunks]:
    """Open the variables of a result chunk by chunk."""
    current = (data["computed_from"] == data["fingerprint"]) & (data["computed_from"] != "")
    there = n_units.values * current.transpose(*REPRESENTATION).values
    marks = array_of(group, "computed_from")
    arrays = open_arrays(group, about(group)["variables"])
    sizes = {d: n for a in arrays.values() for d, n in zip(dims_of(a), a.shape, strict=True)}
    # Its own dimensions have all labels from the start; units are added, as wider networks come.
    own = {dim: n for dim, n in sizes.items() if dim not in REPRESENTATION}
    least = own | ({"unit": int(there.max(initial=0))} if "unit" in own else {})
    check_labels(group, data.sizes, least)
    variables = {}
    for name, array in arrays.items():
        variables[name] = Chunks(
            array=array,
            labels={dim: data[dim].values.tolist() for dim in dims_of(array)},
            n_units=there,
            marks=marks,
            marked=data["computed_from"].transpose(*REPRESENTATION).values,
            fill=FILL[array.dtype.kind],
            remedy=f"save it again with refresh={_stage(group)!r}",
        )
    return variables


def _stage(group: zarr.Group) -> str:
    record = ANALYSES.get(about(group)["analysis"])
    return "activations" if record is None else record.stage
