"""Which activations a result is of: what saving compares with those that a store holds."""

import numpy as np
import xarray as xr
from numpy.typing import NDArray

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

    The sum of their bits in single precision, each times an odd number of its sentence and one of
    its unit, modulo 2^64. It does not depend on chunks, which need not be in memory together.
    """
    bits = xr.apply_ufunc(
        _bits, activation.variable, dask="parallelized", output_dtypes=[np.uint64]
    )
    odd = [
        xr.DataArray(_odd_numbers(activation.sizes[dim], seed), dims=dim)
        for seed, dim in enumerate(("sentence", "unit"))
    ]
    total = xr.dot(xr.DataArray(bits), *odd, dim=("sentence", "unit"))
    labels = {dim: activation[dim] for dim in leading_dims(activation.coords)}
    return total.assign_coords(
        {d: c.variable for d, c in labels.items() if set(c.dims) <= set(total.dims)}
    )


def _bits(activation: NDArray) -> NDArray:
    bits = activation.astype(np.float32).view(np.uint32).astype(np.uint64)
    # What is not a number has no bits of its own.
    bits[np.isnan(activation)] = 0
    return bits


def _odd_numbers(n: int, seed: int) -> NDArray:
    return np.random.default_rng(seed).integers(2**63, size=n, dtype=np.uint64) * np.uint64(2) + 1
