"""Pieces of a result: layers of one checkpoint and pooling, computed and written together."""

import math
from pathlib import Path
from typing import NamedTuple

import dask
import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from mlem_xr.grids import array_of, locked, text_at
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
    """Where the pieces of a result go, and what the store says of the activations meanwhile."""

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
    result: xr.Dataset, target: Target, *pieces: Piece, scheduler: str | None = None
) -> None:
    """Compute pieces of a result together, and write them one after another.

    Parameters
    ----------
    result : xr.Dataset
        A lazy result with all dimensions of a cell.
    target : Target
        Where it goes.
    *pieces : Piece
        What to compute.
    scheduler : str, optional
        Dask's scheduler; by default, what Dask runs on.

    Raises
    ------
    InputError
        If activations were recorded again, even the same ones: they were away for a while, and
        what is away looks like a layer that a network lacks.
    """
    origins = [_origin(target, piece) for piece in pieces]
    computed = dask.compute(*(result.isel(piece) for piece in pieces), scheduler=scheduler)
    for piece, origin, values in zip(pieces, origins, computed, strict=True):
        _write(values, target, piece, origin)


def _write(values: xr.Dataset, target: Target, piece: Piece, origin: str) -> None:
    """Write a computed piece; its marks come last."""
    where = target.at | {dim: target.at[dim][part] for dim, part in piece.items()}
    fingerprint = str(values["fingerprint"].values.item())
    marks = np.full((1, 1, 1, 1, values.sizes["layer"]), fingerprint, dtype=object)
    written = {**values.data_vars, "computed_from": xr.DataArray(marks, dims=CELL)}
    # Layers share chunks, so those of one checkpoint and pooling are written one after another.
    chunk = ".".join(str(where[dim][0]) for dim in CELL[:4])
    with locked(target.path / "computed_from" / chunk):
        now = text_at(target.fingerprint, _checkpoint(target, piece))
        if now != fingerprint or _origin(target, piece) != origin:
            raise InputError(
                "result: the activations have been recorded again while it was computed"
            )
        # Opened under the lock: zarr drops what others wrote beyond the shape that it knows of.
        group = zarr.open_group(target.path, mode="r+", use_consolidated=False)
        for name, data in written.items():
            positions = tuple(_as_slice(where[str(dim)]) for dim in data.dims)
            array_of(group, str(name)).oindex[positions] = data.values


def _origin(target: Target, piece: Piece) -> str:
    return text_at(target.provenance, _checkpoint(target, piece))


def _checkpoint(target: Target, piece: Piece) -> list[int]:
    return [target.checkpoint_at[dim][piece[dim].start] for dim in CHECKPOINT]


def _as_slice(positions: list[int]) -> slice | NDArray:
    """Zarr is quicker with slices than with lists of positions."""
    run = range(positions[0], positions[0] + len(positions))
    return slice(run.start, run.stop) if positions == list(run) else np.asarray(positions)
