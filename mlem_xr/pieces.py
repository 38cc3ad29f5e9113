"""Pieces of a result: layers of one checkpoint and pooling, computed and written together."""

import math
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from mlem_xr.grids import array_of, locked
from mlem_xr.schema import CELL, CHECKPOINT, InputError
from mlem_xr.stores import read_fingerprint

Piece = dict[str, slice]
"""Positions along the dimensions of a cell: one of each, and several layers.

Slices, because Dask is slow to select by lists.
"""


def cut_into_pieces(cells: list[tuple[int, ...]], *, most: int) -> list[Piece]:
    """Cut runs of cells that differ in the layer alone into equal parts, of at most `most`."""
    runs: list[list[tuple[int, ...]]] = []
    for cell in cells:
        if runs and cell == (*runs[-1][-1][:4], runs[-1][-1][4] + 1):
            runs[-1].append(cell)
        else:
            runs.append([cell])
    parts = [part for run in runs for part in np.array_split(run, math.ceil(len(run) / most))]
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


def compute_and_write(
    result: xr.Dataset, path: Path, name: str, at: dict[str, list[int]], piece: Piece
) -> None:
    """Compute a piece of a result where this runs, and write it; its marks come last."""
    values = result.isel(piece).compute(scheduler="sync")
    where = at | {dim: at[dim][part] for dim, part in piece.items()}
    fingerprint = str(values["fingerprint"].values.item())
    marks = np.full((1, 1, 1, 1, values.sizes["layer"]), fingerprint, dtype=object)
    small = {"computed_from": xr.DataArray(marks, dims=CELL)}
    group = zarr.open_group(path / name, mode="r+", use_consolidated=False)

    def write(variable: str, data: xr.DataArray) -> None:
        positions = tuple(_as_slice(where[str(dim)]) for dim in data.dims)
        array_of(group, variable).oindex[positions] = data.values

    for variable, data in values.data_vars.items():
        if is_large(data):
            write(str(variable), data)
        else:
            small = {str(variable): data} | small
    # Cells share the chunks of small variables: these are written one after another.
    with locked(path):
        checkpoint = {dim: values[dim].item() for dim in CHECKPOINT}
        if read_fingerprint(path, **checkpoint) != fingerprint:
            raise InputError(
                "result: the activations have been recorded again while it was computed"
            )
        for variable, data in small.items():
            write(variable, data)


def _as_slice(positions: list[int]) -> slice | NDArray:
    """Zarr is quicker with slices than with lists of positions."""
    run = range(positions[0], positions[0] + len(positions))
    return slice(run.start, run.stop) if positions == list(run) else np.asarray(positions)


def is_large(variable: xr.DataArray) -> bool:
    """Say whether a variable has a chunk per cell; small ones have one for all layers."""
    return bool({"unit", "sentence"} & set(variable.dims))
