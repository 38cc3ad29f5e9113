"""Targets -> moments: per (fold, subset, pattern), the sums of the targets and their squares.

The pairs come sorted by group, so that a group's sums stay in cache; short runs are added up in
float32 and flushed into float64. Nothing of size pair x unit exists.
"""

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels.targets import BLOCK, UnitTarget

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


def unit_moments(target: UnitTarget, pairs: SortedPairs) -> tuple[NDArray, NDArray]:
    """Sum the targets y of 64 units, and y^2, per group: float64 (group, 64), in y's own unit."""
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


def unit_absolute_error(target: UnitTarget, pairs: SortedPairs, prediction: NDArray) -> NDArray:
    """Sum |y - f| of 64 units per group, with predictions f (group, 64): float64 (group, 64).

    Predictions and sums are in the target's own unit.
    """
    scaled = prediction / target.scale
    return _unit_absolute_error(target.activation, target.shift, *pairs, scaled) * target.scale


def targets_of_unit(target: UnitTarget, pairs: SortedPairs, unit: int) -> NDArray:
    """Return one unit's target of each of the sorted pairs: float64 (pair)."""
    position = target.activation[:, unit].astype(np.float64)
    distance = np.abs(position[pairs.first] - position[pairs.second]) - target.shift[unit]
    return distance**2 * target.scale[unit]


@numba.njit(nogil=True, cache=True)
def pair_moments(
    target: NDArray, first: NDArray, second: NDArray, start: NDArray
) -> tuple[NDArray, NDArray]:
    """Sum one target y, and y^2, over the pairs of each group: float64 (group).

    `target` is float64 (sentence, sentence), read above the diagonal alone; `first`, `second` and
    `start` are the fields of `SortedPairs`.
    """
    n_groups = len(start) - 1
    total = np.zeros(n_groups)
    total_squared = np.zeros(n_groups)
    for g in range(n_groups):
        s, q = 0.0, 0.0
        for p in range(start[g], start[g + 1]):
            y = target[first[p], second[p]]
            s += y
            q += y * y
        total[g] = s
        total_squared[g] = q
    return total, total_squared


@numba.njit(nogil=True, cache=True)
def pair_absolute_error(
    target: NDArray, first: NDArray, second: NDArray, start: NDArray, prediction: NDArray
) -> NDArray:
    """Sum |y - f| of one target like `pair_moments`, with predictions f (group)."""
    total = np.zeros(len(start) - 1)
    for g in range(len(total)):
        for p in range(start[g], start[g + 1]):
            total[g] += abs(target[first[p], second[p]] - prediction[g])
    return total


@numba.njit(nogil=True, cache=True)
def pair_influences(
    target: NDArray,
    first: NDArray,
    second: NDArray,
    start: NDArray,
    constant: NDArray,
    linear: NDArray,
    square: NDArray,
    out: NDArray,
) -> None:
    """Add a + b y + c y^2 of every pair to both of its sentences, in `out` (sentence, K).

    `target` is one target y of the sorted pairs (pair), `constant` and `linear` are a and b of each
    group (group, K), `square` is c of each group (group), for the last of the K alone.
    """
    last = out.shape[1] - 1
    for g in range(len(start) - 1):
        for p in range(start[g], start[g + 1]):
            i, j, y = first[p], second[p], target[p]
            for k in range(last + 1):
                value = constant[g, k] + linear[g, k] * y
                if k == last:
                    value += square[g] * y * y
                out[i, k] += value
                out[j, k] += value
