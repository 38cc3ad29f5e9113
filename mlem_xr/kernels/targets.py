"""Distances -> targets: what the metric predicts."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels.distances import distance_range

BLOCK = 64
"""Units worked on together: their activations fit the cache, and 64 float32 fill whole vectors."""


class UnitTarget(NamedTuple):
    """A block of units as squared distances y = (|a_i - a_j| - shift)^2 with 0 <= y <= 1."""

    activation: NDArray
    """Centered and divided by the largest distance (or the range of distances): (sentence, 64)."""
    shift: NDArray
    """Smallest distance in the same unit where distances are min-max scaled, else 0: (64)."""
    scale: NDArray
    """Factor from y to the target in its own unit: float64 (64)."""


class Target(NamedTuple):
    """What is made of the distances before they are predicted."""

    of_distances: Callable[[NDArray, bool], NDArray]
    """Distances, float64 (sentence, sentence), which are overwritten, and whether to min-max scale
    them -> targets, of which only those above the diagonal count."""
    of_units: Callable[[NDArray, bool], UnitTarget] | None = None
    """Activations (sentence, up to 64 units) and the same -> what the fused kernel of
    `mlem_xr.kernels.moments` sums; None: every unit takes a matrix of distances."""


def _scaled(distance: NDArray, min_max: bool) -> NDArray:
    """Scale the distances of all pairs to [0, 1], or to 0 if they are all equal."""
    if min_max:
        smallest, largest = distance_range(distance)
        distance -= smallest
        distance *= 1.0 / (largest - smallest) if largest > smallest else 0.0
    return distance


def _squared(distance: NDArray, min_max: bool) -> NDArray:
    scaled = _scaled(distance, min_max)
    return np.multiply(scaled, scaled, out=scaled)


def _squared_of_units(activation: NDArray, min_max: bool) -> UnitTarget:
    """Scale the activations of up to 64 units so that the distances lie between 0 and 1.

    The smallest and largest distance of a unit are exact: they come from its sorted activations.
    The last block of a layer is filled up to 64 units with zeros.
    """
    block = np.zeros((len(activation), BLOCK))
    block[:, : activation.shape[1]] = activation
    block -= block.mean(axis=0)
    ordered = np.sort(block, axis=0)
    largest = ordered[-1] - ordered[0]
    smallest = np.diff(ordered, axis=0).min(axis=0) if min_max else np.zeros(BLOCK)
    extent = largest - smallest
    divisor = np.where(extent > 0, extent, 1.0)
    scale = np.ones(BLOCK) if min_max else divisor**2
    # Where all distances are equal, min-max scaling has no answer: the target is 0 everywhere.
    block[:, extent <= 0] = 0.0
    shift = np.where(extent > 0, smallest / divisor, 0.0)
    scaled = _aligned(block.shape)
    np.divide(block, divisor, out=scaled, casting="same_kind")
    return UnitTarget(scaled, shift.astype(np.float32), scale)


def _aligned(shape: tuple[int, int]) -> NDArray:
    """Make room that starts at a cache line, so that no vector of a row straddles two lines."""
    n_bytes = 4 * shape[0] * shape[1]
    buffer = np.empty(n_bytes + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + n_bytes].view(np.float32).reshape(shape)


TARGETS = {
    "square": Target(_squared, _squared_of_units),
    "none": Target(_scaled),
}
"""`square`: the square of the distance, min-max scaled or not; `none`: the distance itself."""
