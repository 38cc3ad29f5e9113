"""Chunks of a grid as a Dask array, each read as it was when the store was opened, or not at all.

A chunk that is missing or damaged, that was written again since, or whose store is gone, is an
error that names it, never NaN.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import zarr
from numpy.typing import NDArray

from mlem_xr.schema import REPRESENTATION, InputError
from mlem_xr.store.address import Address, address_of
from mlem_xr.store.grid import (
    chunks_of,
    dims_of,
    missing_chunks,
    problem_of,
    reading,
)

LARGEST = 2**26
"""Bytes of a chunk of activations, which is cut along units where it would be larger."""


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """An array over (model, seed, step, pooling, layer, ...) that is read chunk by chunk."""

    array: zarr.Array
    labels: Mapping[str, Sequence[Any]]
    """Labels of its dimensions, as they stand in the store."""
    n_units: NDArray
    """How many units each representation holds; 0: there is nothing to read, only `fill`."""
    marks: zarr.Array
    """Says over the first dimensions what the values are of, in a text."""
    marked: NDArray
    """What it said when the store was opened."""
    fill: Any
    remedy: str
    """What mends a damaged chunk."""

    @property
    def dtype(self) -> np.dtype:
        """Return the type of the values."""
        return self.array.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the number of labels of each dimension; the array may be longer."""
        return tuple(len(self.labels[dim]) for dim in dims_of(self.array))

    @property
    def ndim(self) -> int:
        """Return the number of dimensions."""
        return self.array.ndim

    def __getitem__(self, key: tuple[Any, ...]) -> NDArray:
        """Read a part of the representations that share a chunk."""
        index = [np.atleast_1d(np.arange(n)[k]) for n, k in zip(self.shape, key, strict=True)]
        nothing = np.broadcast_to(np.array(self.fill, self.dtype), self.shape)[key]
        if not nothing.size:
            return nothing
        box = tuple(slice(i[0], i[-1] + 1) for i in index[: len(REPRESENTATION)])
        holds = np.argwhere(self.n_units[box]) + [i[0] for i in index[: len(REPRESENTATION)]]
        if not len(holds):
            return nothing
        most = int(self.n_units[tuple(holds.T)].max())
        missing = missing_chunks(self.array, chunks_of(self.array, index, most))
        failure: InputError | None = None
        try:
            with reading(self.array.store_path):
                values = np.asarray(self.array[key])
        except InputError as error:
            failure = error
        # Asked last: what was read before is what the marks say now.
        self._check_marks(box, holds)
        if missing:
            raise InputError(f"store: {missing[0]} is missing; {self._expected(holds)}")
        if failure is not None:
            raise InputError(f"{failure}: {self._expected(holds)}") from failure
        return values

    def missing(self, checkpoint: NDArray) -> list[Address]:
        """Name the chunks of a checkpoint that must be there and are not."""
        return missing_chunks(self.array, self.expected(checkpoint))

    def expected(self, checkpoint: Iterable[int] = ()) -> dict[tuple[int, ...], NDArray]:
        """Name the chunks that must be there, each with the representations that are in it.

        Those of all checkpoints, or of one.
        """
        others = [np.arange(n) for n in self.shape[len(REPRESENTATION) :]]
        found: dict[tuple[int, ...], list[NDArray]] = {}
        at = tuple(checkpoint)
        for rest in np.argwhere(self.n_units[at]):
            where = np.array([*at, *rest])
            index = [*where[:, None], *others]
            for chunk in chunks_of(self.array, index, int(self.n_units[tuple(where)])):
                found.setdefault(chunk, []).append(where)
        return {chunk: np.array(holds) for chunk, holds in found.items()}

    def problem(self, chunk: tuple[int, ...], holds: NDArray) -> str:
        """Read a chunk with these representations; say what is wrong with it, or nothing."""
        found = problem_of(self.array, chunk)
        if found:
            box = tuple(slice(i.min(), i.max() + 1) for i in holds.T)
            try:
                self._check_marks(box, holds)
            except InputError as error:
                # Such as: written again meanwhile, and not whole when it was read.
                return str(error).removeprefix("store: ")
        return found

    def _check_marks(self, box: tuple[slice, ...], holds: NDArray) -> None:
        at = box[: self.marked.ndim]
        with reading(self.marks.store_path):
            now = np.asarray(self.marks[at])
        changed = np.argwhere(now != self.marked[at]) + [i.start for i in at]
        of_these = [where for where in changed if (holds[:, : len(at)] == where).all(axis=1).any()]
        if not of_these:
            return
        folder = address_of(self.marks)
        if not folder.exists():
            raise InputError(f"store: {folder.parent} is not there any more; open it where it is")
        raise InputError(
            f"store: {self._name(of_these[0])} has been written again since the store was opened; "
            "expected what was there: open it again"
        )

    def _expected(self, holds: NDArray) -> str:
        return f"expected {'; '.join(map(self._name, holds))}: {self.remedy}"

    def _name(self, where: NDArray) -> str:
        # The marks may be of checkpoints alone.
        named = zip(REPRESENTATION, where, strict=False)
        return ", ".join(f"{dim}={self.labels[dim][i]}" for dim, i in named)


def as_dask(chunks: Chunks) -> da.Array:
    """Return a Dask array with a task per chunk; small ones along units are read together."""
    sizes = dict(zip(dims_of(chunks.array), chunks.array.chunks, strict=True))
    if "unit" in sizes:
        size = math.prod(chunks.array.chunks) * chunks.dtype.itemsize
        sizes["unit"] *= max(1, LARGEST // size)
    # One task holds the array and all chunks refer to it: the graph stays small. The name is new
    # each time: what was read before a checkpoint was recorded again is not what stands there.
    return da.from_array(
        chunks,
        chunks=tuple(sizes.values()),
        name=False,
        fancy=False,
        meta=np.empty((0,) * chunks.ndim, chunks.dtype),
    )
