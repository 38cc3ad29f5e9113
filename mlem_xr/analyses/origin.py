"""Which activations a result is of: what saving compares with those that a store holds."""

import dask.array as da
import numpy as np
import xarray as xr

from mlem_xr.kernels.digests import digest, odd_numbers
from mlem_xr.schema import leading_dims

_ORIGIN = "activations"
"""Where the encoding of a result, which is never written anywhere, holds them."""


def with_origin(
    result: xr.Dataset, activations: xr.Dataset | None, source: xr.Dataset | None
) -> xr.Dataset:
    """Let a result know all activations of stores that it was made from.

    Lazy ones as they are, others by their digests: they may change, and need not stay in memory.
    """
    origin = [] if source is None else list(source.encoding.get(_ORIGIN, []))
    if activations is not None and "fingerprint" in activations.coords:
        activation = activations["activation"]
        origin.append(activation if activation.chunks else digests(activation))
    result.encoding = {_ORIGIN: origin}
    return result


def digests_of(result: xr.Dataset) -> list[xr.DataArray]:
    """Return the digests of all activations that a result knows; one that was opened knows none."""
    return [a if a.dtype == np.uint64 else digests(a) for a in result.encoding.get(_ORIGIN, [])]


def digests(activation: xr.DataArray) -> xr.DataArray:
    """Hash the activations of every representation: uint64 (leading...), lazily if they are lazy.

    They do not depend on chunks, which need not be in memory together.
    """
    own = activation.variable.transpose(..., "sentence", "unit")
    sizes = own.shape[-2:]
    numbers = [odd_numbers(n, seed) for seed, n in enumerate(sizes)]
    if own.chunks is not None:
        lazy = [da.from_array(n, chunks=c) for n, c in zip(numbers, own.chunks[-2:], strict=True)]
        parts = da.blockwise(
            digest,
            own.dims,
            *(own.data, own.dims),
            *(lazy[0], ["sentence"]),
            *(lazy[1], ["unit"]),
            adjust_chunks={"sentence": 1, "unit": 1},
            dtype=np.uint64,
            meta=np.empty((0,) * own.ndim, np.uint64),
        )
    else:
        parts = digest(own.values, *numbers)
    labels = {dim: activation[dim] for dim in leading_dims(activation.coords)}
    return xr.DataArray(
        parts.sum(axis=(-2, -1)),
        dims=own.dims[:-2],
        coords={d: c.variable for d, c in labels.items() if set(c.dims) <= set(own.dims[:-2])},
    )
