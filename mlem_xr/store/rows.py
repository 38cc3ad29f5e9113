"""Layers of one checkpoint and pooling in a saved result, which share chunks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from mlem_xr.schema import warn
from mlem_xr.store.address import address_of, each, remove_folder
from mlem_xr.store.grid import chunk_key, chunks_of, dims_of, missing_chunks, open_arrays

MARKS = "computed_from"
"""The array that says what each layer was computed from, written last."""


def write_layers(
    group: zarr.Group,
    arrays: Mapping[str, NDArray],
    at: Mapping[str, Sequence[int]],
    n_units: NDArray,
) -> None:
    """Write arrays at these positions along their dimensions, the last one being the marks.

    `n_units` is the number of units of every layer of the result. Where a chunk was lost or
    damaged, the other layers that are in it are unmarked: written with it, they would be values
    that are not there.
    """
    zarrs = open_arrays(group, arrays)
    row = tuple(at[dim][0] for dim in dims_of(zarrs[MARKS])[:-1])
    if _is_lost(zarrs, row, n_units):
        _clear(zarrs, row)
    try:
        _put(zarrs, arrays, at)
    except (ValueError, RuntimeError):
        # Zarr reads a chunk to change a part of it.
        if all(_is_readable(array, row) for array in zarrs.values()):
            raise
        _clear(zarrs, row)
        _put(zarrs, arrays, at)


def _put(
    zarrs: Mapping[str, zarr.Array],
    arrays: Mapping[str, NDArray],
    at: Mapping[str, Sequence[int]],
) -> None:
    def put(name: str) -> None:
        positions = tuple(_as_slice(at[dim]) for dim in dims_of(zarrs[name]))
        zarrs[name].oindex[positions] = arrays[name]

    each(address_of(zarrs[MARKS]), put, [name for name in arrays if name != MARKS])
    put(MARKS)


def _is_lost(zarrs: Mapping[str, zarr.Array], row: tuple[int, ...], n_units: NDArray) -> bool:
    """Say whether chunks of marked layers are missing."""
    # Others may have added layers meanwhile, which are theirs to look after.
    marked = np.flatnonzero(np.asarray(zarrs[MARKS][row])[: len(n_units)] != "")
    if not len(marked):
        return False
    here = [*(np.array([i]) for i in row), marked]
    most = int(n_units[marked].max())
    return any(
        missing_chunks(
            array, chunks_of(array, [*here, *map(np.arange, array.shape[len(here) :])], most)
        )
        for array in zarrs.values()
    )


def _is_readable(array: zarr.Array, row: tuple[int, ...]) -> bool:
    # A disk that is away is no damage: its OSError removes nothing.
    try:
        array[row]
    except (ValueError, RuntimeError):
        return False
    return True


def _clear(zarrs: Mapping[str, zarr.Array], row: tuple[int, ...]) -> None:
    zarrs[MARKS][row] = ""
    for name, array in zarrs.items():
        if name != MARKS:
            remove_folder(address_of(array) / chunk_key(array, row))
    warn(
        f"results: damaged chunks in {address_of(zarrs[MARKS]).parent} were removed; expected the "
        "layers that were in them to be saved again"
    )


def _as_slice(positions: Sequence[int]) -> slice | NDArray[Any]:
    """Zarr is quicker with slices than with lists of positions."""
    run = range(positions[0], positions[0] + len(positions))
    return slice(run.start, run.stop) if list(positions) == list(run) else np.asarray(positions)
