"""Pieces of a result: layers of one checkpoint and pooling, computed and written together."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from mlem_xr.grids import locked, text_at
from mlem_xr.schema import CELL, CHECKPOINT, InputError

Piece = dict[str, slice]
"""Positions along the dimensions of a cell: one of each, and several layers.

Slices, because Dask is slow to select by lists.
"""

_PART_OF_THE_REST, _PART_OF_THE_WHOLE = 2, 12
"""A piece is at most this part of a worker's share of what is left, and of all that is to do."""


def cut_into_pieces(cells: list[tuple[int, ...]], *, n_workers: int) -> list[Piece]:
    """Cut runs of cells that differ in the layer alone into equal parts, smaller towards the end.

    Every piece costs some time of its own, so they are large; the last ones are small, so that all
    workers end at about the same time (guided self-scheduling, Polychronopoulos & Kuck 1987,
    https://doi.org/10.1109/TC.1987.5009495). None is more than a small part of the whole, which is
    what an interruption may lose and what a progress bar waits for.
    """
    runs: list[list[tuple[int, ...]]] = []
    for cell in cells:
        if runs and cell == (*runs[-1][-1][:4], runs[-1][-1][4] + 1):
            runs[-1].append(cell)
        else:
            runs.append([cell])
    parts, left = [], len(cells)
    for run in runs:
        most = min(left / _PART_OF_THE_REST, len(cells) / _PART_OF_THE_WHOLE) / n_workers
        parts += np.array_split(run, math.ceil(len(run) / max(1, most)))
        left -= len(run)
    return [
        {
            dim: slice(int(low), int(high) + 1)
            for dim, low, high in zip(CELL, part[0], part[-1], strict=True)
        }
        for part in parts
    ]


def n_layers(piece: Piece) -> int:
    """Count the cells of a piece."""
    return piece["layer"].stop - piece["layer"].start


class Target(NamedTuple):
    """Where the pieces of a result go, opened once: opening an array takes zarr a millisecond."""

    path: Path
    """Folder of the result."""
    arrays: dict[str, zarr.Array]
    """Its variables and marks."""
    at: dict[str, list[int]]
    """Positions of the result's labels in them."""
    fingerprint: zarr.Array
    """Hashes of the activations as they are now: (model, seed, step)."""
    checkpoint_at: dict[str, list[int]]
    """Positions of the result's checkpoints in it."""


def compute_and_write(result: xr.Dataset, target: Target, piece: Piece) -> None:
    """Compute a piece of a result where this runs, and write it; its marks come last."""
    values = result.isel(piece).compute(scheduler="sync")
    where = target.at | {dim: target.at[dim][part] for dim, part in piece.items()}
    fingerprint = str(values["fingerprint"].values.item())
    marks = np.full((1, 1, 1, 1, values.sizes["layer"]), fingerprint, dtype=object)
    written = {**values.data_vars, "computed_from": xr.DataArray(marks, dims=CELL)}
    # Layers share chunks, so those of one checkpoint and pooling are written one after another.
    chunk = ".".join(str(where[dim][0]) for dim in CELL[:4])
    with locked(target.path / "computed_from" / chunk):
        checkpoint = [target.checkpoint_at[dim][piece[dim].start] for dim in CHECKPOINT]
        if text_at(target.fingerprint, checkpoint) != fingerprint:
            raise InputError(
                "result: the activations have been recorded again while it was computed"
            )
        for name, data in written.items():
            positions = tuple(_as_slice(where[str(dim)]) for dim in data.dims)
            target.arrays[str(name)].oindex[positions] = data.values


def _as_slice(positions: list[int]) -> slice | NDArray:
    """Zarr is quicker with slices than with lists of positions."""
    run = range(positions[0], positions[0] + len(positions))
    return slice(run.start, run.stop) if positions == list(run) else np.asarray(positions)
