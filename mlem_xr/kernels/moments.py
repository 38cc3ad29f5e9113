"""Distances -> moments: per (fold, subset, pattern), the sums of the targets and their squares.

The pairs come sorted by group, so that a group's sums stay in cache; short runs are added up in
float32 and flushed into float64. Nothing of size pair x unit exists.
"""

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

BLOCK = 64
"""Units worked on together: their activations fit the cache, and 64 float32 fill whole vectors."""

_RUN = 64
"""Pairs summed in float32 before they are flushed into float64."""

_FAST = {"contract", "nnan", "ninf", "nsz"}
"""Fast-math without reassociation, so that a result does not depend on the compiler's mood."""


class SortedPairs(NamedTuple):
    """Pairs of sentences, sorted by group = (fold, subset, pattern)."""

    first: NDArray
    """First sentence of each pair: unsigned integers (pair)."""
    second: NDArray
    """Second sentence of each pair: unsigned integers (pair)."""
    start: NDArray
    """Where each group starts: int64 (group + 1)."""


class Target(NamedTuple):
    """How a block of units becomes targets y = (|a_i - a_j| - shift)^2 with 0 <= y <= 1."""

    activation: NDArray
    """Centred and divided by the largest distance (or the range of distances): (sentence, 64)."""
    shift: NDArray
    """Smallest distance in the same unit where distances are min-max scaled, else 0: (64)."""
    scale: NDArray
    """Factor from y to the target in its own unit: float64 (64)."""


def unit_target(activation: NDArray, *, min_max: bool) -> Target:
    """Scale the activations of up to 64 units so that the distances lie between 0 and 1.

    The smallest and largest distance of a unit are exact: they come from its sorted activations.
    The last block of a layer is filled up to 64 units with zeros.

    Parameters
    ----------
    activation : ndarray (sentence, unit)
        Finite activations of at most 64 units.
    min_max : bool
        Whether the target is the square of the min-max scaled distance or of the distance itself.

    Returns
    -------
    Target
        Scaled activations (float32), shift and scale of 64 units.
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
    return Target(scaled, shift.astype(np.float32), scale)


def _aligned(shape: tuple[int, int]) -> NDArray:
    """Make room that starts at a cache line, so that no vector of a row straddles two lines."""
    n_bytes = 4 * shape[0] * shape[1]
    buffer = np.empty(n_bytes + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + n_bytes].view(np.float32).reshape(shape)


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _unit_sums(
    activation: NDArray, shift: NDArray, first: NDArray, second: NDArray, start: NDArray
) -> tuple[NDArray, NDArray]:
    n_groups = len(start) - 1
    total = np.zeros((n_groups, BLOCK))
    total_squared = np.zeros((n_groups, BLOCK))
    s = np.empty(BLOCK, np.float32)
    q = np.empty(BLOCK, np.float32)
    for g in range(n_groups):
        p = start[g]
        while p < start[g + 1]:
            stop = min(p + _RUN, start[g + 1])
            s[:] = np.float32(0)
            q[:] = np.float32(0)
            # Four pairs at a time: the running sums are loaded and stored once for the four.
            while p + 4 <= stop:
                i0, j0, i1, j1 = first[p], second[p], first[p + 1], second[p + 1]
                i2, j2, i3, j3 = first[p + 2], second[p + 2], first[p + 3], second[p + 3]
                for u in range(BLOCK):
                    d0 = abs(activation[i0, u] - activation[j0, u]) - shift[u]
                    d1 = abs(activation[i1, u] - activation[j1, u]) - shift[u]
                    d2 = abs(activation[i2, u] - activation[j2, u]) - shift[u]
                    d3 = abs(activation[i3, u] - activation[j3, u]) - shift[u]
                    y0, y1, y2, y3 = d0 * d0, d1 * d1, d2 * d2, d3 * d3
                    s[u] += (y0 + y1) + (y2 + y3)
                    q[u] += (y0 * y0 + y1 * y1) + (y2 * y2 + y3 * y3)
                p += 4
            while p < stop:
                i, j = first[p], second[p]
                for u in range(BLOCK):
                    d = abs(activation[i, u] - activation[j, u]) - shift[u]
                    y = d * d
                    s[u] += y
                    q[u] += y * y
                p += 1
            for u in range(BLOCK):
                total[g, u] += s[u]
                total_squared[g, u] += q[u]
    return total, total_squared


def unit_moments(target: Target, pairs: SortedPairs) -> tuple[NDArray, NDArray]:
    """Sum the targets of 64 units, and their squares, over the pairs of each group.

    Parameters
    ----------
    target : Target
        Scaled activations.
    pairs : SortedPairs
        Pairs sorted by group.

    Returns
    -------
    total, total_squared : ndarray of float64 (group, 64)
        Sums of y and of y^2, in the target's own unit.
    """
    total, total_squared = _unit_sums(target.activation, target.shift, *pairs)
    return total * target.scale, total_squared * target.scale**2


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _unit_absolute_error(
    activation: NDArray,
    shift: NDArray,
    first: NDArray,
    second: NDArray,
    start: NDArray,
    prediction: NDArray,
) -> NDArray:
    n_groups = len(start) - 1
    total = np.zeros((n_groups, BLOCK))
    s = np.empty(BLOCK, np.float32)
    f = np.empty(BLOCK, np.float32)
    for g in range(n_groups):
        for u in range(BLOCK):
            f[u] = prediction[g, u]
        p = start[g]
        while p < start[g + 1]:
            stop = min(p + _RUN, start[g + 1])
            s[:] = np.float32(0)
            while p < stop:
                i, j = first[p], second[p]
                for u in range(BLOCK):
                    d = abs(activation[i, u] - activation[j, u]) - shift[u]
                    s[u] += abs(d * d - f[u])
                p += 1
            for u in range(BLOCK):
                total[g, u] += s[u]
    return total


def unit_absolute_error(target: Target, pairs: SortedPairs, prediction: NDArray) -> NDArray:
    """Sum |y - f| of 64 units over the pairs of each group.

    Parameters
    ----------
    target : Target
        Scaled activations.
    pairs : SortedPairs
        Pairs sorted by group.
    prediction : ndarray of float64 (group, 64)
        Predicted target f of every pair of a group, in the target's own unit.

    Returns
    -------
    ndarray of float64 (group, 64)
        Sums of absolute errors, in the target's own unit.
    """
    scaled = prediction / target.scale
    return _unit_absolute_error(target.activation, target.shift, *pairs, scaled) * target.scale


@numba.njit(nogil=True, cache=True)
def _distance_range(distance: NDArray) -> tuple[float, float]:
    """Find the smallest and the largest distance of two different sentences."""
    smallest, largest = np.inf, -np.inf
    for i in range(len(distance)):
        for j in range(i + 1, len(distance)):
            smallest = min(smallest, distance[i, j])
            largest = max(largest, distance[i, j])
    return smallest, largest


def distance_scaling(distance: NDArray, *, min_max: bool) -> tuple[float, float]:
    """Find shift and scale of the target y = ((d - shift) scale)^2.

    Parameters
    ----------
    distance : ndarray of float64 (sentence, sentence)
        Distances, of which only those above the diagonal are read.
    min_max : bool
        Whether to scale the distances of all pairs to [0, 1] before they are squared.

    Returns
    -------
    shift, scale : float
        0 and 1 without scaling; a scale of 0 if all distances are equal.
    """
    if not min_max:
        return 0.0, 1.0
    smallest, largest = _distance_range(distance)
    return smallest, 1.0 / (largest - smallest) if largest > smallest else 0.0


@numba.njit(nogil=True, cache=True)
def distance_moments(
    distance: NDArray, shift: float, scale: float, first: NDArray, second: NDArray, start: NDArray
) -> tuple[NDArray, NDArray]:
    """Sum one target, and its square, over the pairs of each group.

    Parameters
    ----------
    distance : ndarray of float64 (sentence, sentence)
        Distances, of which only those above the diagonal are read.
    shift, scale : float
        As `distance_scaling` returns them.
    first, second, start : ndarray
        The fields of `SortedPairs`.

    Returns
    -------
    total, total_squared : ndarray of float64 (group)
        Sums of y and of y^2.
    """
    n_groups = len(start) - 1
    total = np.zeros(n_groups)
    total_squared = np.zeros(n_groups)
    for g in range(n_groups):
        s, q = 0.0, 0.0
        for p in range(start[g], start[g + 1]):
            d = (distance[first[p], second[p]] - shift) * scale
            y = d * d
            s += y
            q += y * y
        total[g] = s
        total_squared[g] = q
    return total, total_squared


@numba.njit(nogil=True, cache=True)
def distance_absolute_error(
    distance: NDArray,
    shift: float,
    scale: float,
    first: NDArray,
    second: NDArray,
    start: NDArray,
    prediction: NDArray,
) -> NDArray:
    """Sum |y - f| of one target over the pairs of each group.

    Parameters
    ----------
    distance : ndarray of float64 (sentence, sentence)
        Distances, of which only those above the diagonal are read.
    shift, scale : float
        As `distance_scaling` returns them.
    first, second, start : ndarray
        The fields of `SortedPairs`.
    prediction : ndarray of float64 (group)
        Predicted target f of every pair of a group.

    Returns
    -------
    ndarray of float64 (group)
        Sums of absolute errors.
    """
    total = np.zeros(len(start) - 1)
    for g in range(len(total)):
        for p in range(start[g], start[g + 1]):
            d = (distance[first[p], second[p]] - shift) * scale
            total[g] += abs(d * d - prediction[g])
    return total
