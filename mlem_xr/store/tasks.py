"""Tasks of a saved result: layers of one checkpoint and pooling, computed and written together."""

import math
from pathlib import Path
from typing import NamedTuple

import dask
import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from mlem_xr.schema import CHECKPOINT, REPRESENTATION, InputError
from mlem_xr.store.grid import array_of, text_at
from mlem_xr.store.locks import locked

Task = dict[str, slice]
"""Positions along the dimensions of a representation: one of each, and several layers.

Slices, because Dask is slow to select by lists.
"""

_SHARE_OF_THE_REST, _SHARE_OF_THE_WHOLE = 2, 12
"""A task is at most this fraction of a worker's share of what is left, and of all there is."""


def cut_into_tasks(positions: list[tuple[int, ...]], *, n_workers: int) -> list[Task]:
    """Cut runs of representations that differ in the layer alone, smaller towards the end.

    Every task costs some time of its own, so they are large; the last ones are small, so that all
    workers end at about the same time (guided self-scheduling, Polychronopoulos & Kuck 1987,
    https://doi.org/10.1109/TC.1987.5009495). None is more than a small fraction of the whole, which
    is what an interruption may lose and what a progress bar waits for.
    """
    runs: list[list[tuple[int, ...]]] = []
    for position in positions:
        if runs and position == (*runs[-1][-1][:4], runs[-1][-1][4] + 1):
            runs[-1].append(position)
        else:
            runs.append([position])
    cuts, left = [], len(positions)
    for run in runs:
        most = min(left / _SHARE_OF_THE_REST, len(positions) / _SHARE_OF_THE_WHOLE) / n_workers
        cuts += np.array_split(run, math.ceil(len(run) / max(1, most)))
        left -= len(run)
    return [
        {
            dim: slice(int(low), int(high) + 1)
            for dim, low, high in zip(REPRESENTATION, cut[0], cut[-1], strict=True)
        }
        for cut in cuts
    ]


def n_layers(task: Task) -> int:
    """Count the representations of a task."""
    return task["layer"].stop - task["layer"].start


class Destination(NamedTuple):
    """Where a result goes, and what the store says of the activations meanwhile."""

    path: Path
    """Folder of the result."""
    at: dict[str, list[int]]
    """Positions of the result's labels there."""
    fingerprint: zarr.Array
    """Hash of each checkpoint's activations; opened once, because that takes a millisecond."""
    provenance: zarr.Array
    """Where they come from: another text each time that they are recorded."""
    checkpoint_at: dict[str, list[int]]
    """Positions of the result's checkpoints in these two."""


def compute_and_write(
    result: xr.Dataset, destination: Destination, *tasks: Task, scheduler: str | None = None
) -> None:
    """Compute tasks of a result together, and write them one after another.

    `scheduler` is Dask's; None: what Dask runs on. Raises `InputError` if activations were recorded
    again, even the same ones: they were away for a while, and what is away looks like a layer that
    a network lacks.
    """
    origins = [_origin(destination, task) for task in tasks]
    computed = dask.compute(*(result.isel(task) for task in tasks), scheduler=scheduler)
    for task, origin, values in zip(tasks, origins, computed, strict=True):
        _write(values, destination, task, origin)


def _write(values: xr.Dataset, destination: Destination, task: Task, origin: str) -> None:
    """Write what a task computed; its marks come last."""
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
        group = zarr.open_group(destination.path, mode="r+", use_consolidated=False)
        for name, data in written.items():
            positions = tuple(_as_slice(where[str(dim)]) for dim in data.dims)
            array_of(group, str(name)).oindex[positions] = data.values


def _origin(destination: Destination, task: Task) -> str:
    return text_at(destination.provenance, _checkpoint(destination, task))


def _checkpoint(destination: Destination, task: Task) -> list[int]:
    return [destination.checkpoint_at[dim][task[dim].start] for dim in CHECKPOINT]


def _as_slice(positions: list[int]) -> slice | NDArray:
    """Zarr is quicker with slices than with lists of positions."""
    run = range(positions[0], positions[0] + len(positions))
    return slice(run.start, run.stop) if positions == list(run) else np.asarray(positions)
