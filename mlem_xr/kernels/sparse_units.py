"""Level sums of units that are mostly 0, and the influence of each sentence on their importances.

The influence of a sentence is a polynomial of its position: psi_i = p(a_i), whose coefficients
depend on its row of levels. Where most positions are 0,

    sum_i p(a_i)^2 = sum over all rows n_r p_r(0)^2 + sum over a_i != 0 of p(a_i)^2 - p(0)^2

and p_r(0) is a linear function of numbers t of the unit (weights, products of them, sums over level
classes), whose coefficients Z_r are those of the row alone. With Z = QR, where each row of Z is
multiplied by the root of n_r, the first sum is |R t|^2: it costs the same for any number of
sentences.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels.folds import N_FOLDS
from mlem_xr.kernels.levels import FoldLevels, LevelDesign, Pool
from mlem_xr.kernels.targets import BLOCK
from mlem_xr.kernels.unit_levels import FAST, Polynomials, UnitSums

_FEW = 0.1
"""Below this share of positions that are not 0, to visit these alone is faster."""

_NUMBERS = 10
"""Products of numbers of a unit that cost as much as a feature of a dense sentence."""

_CHUNK = 16
"""Units that are passed over at once where all of them are 0."""

_ROWS = 2**12
"""Rows that are decomposed at a time."""


class SparseUnits(NamedTuple):
    """The units over the sentences that one fold holds out."""

    start: NDArray
    """Where each unit starts, in `sentence` and `value`: int64 (unit)."""
    end: NDArray
    """Where it ends."""
    sentence: NDArray
    """Which sentence of the fold it is: int32."""
    value: NDArray
    """Its position, which is not 0: float64."""
    sums: UnitSums

    @property
    def filled(self) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        """Return what says which positions are not 0."""
        return self.start, self.end, self.sentence, self.value

    def squares(
        self, fold: FoldLevels, design: LevelDesign, polynomials: Polynomials, alone: NDArray
    ) -> NDArray:
        """Sum the squares of sum_j psi; see `FoldUnits`."""
        of_class, of_feature, of_score, weight = (_units_first(part) for part in polynomials)
        of_unit = Polynomials(of_class, of_feature, of_score, weight[..., 0])
        zero = zero_rows(fold, design)
        square = _squares_of_zeros(zero, alone, design, of_unit)
        of_rows = fold.row, fold.level, zero.product
        _add_filled(*self.filled, *of_rows, alone, *of_unit, square)
        return square.T

    def sums_of_sets(self, pool: Pool) -> NDArray:
        """Sum positions and squares per set of sentences; see `FoldUnits`."""
        sums = np.zeros((len(self.sums.class_sums), pool.n_sets, 2 * BLOCK))
        _sum_sets(*self.filled, pool.set_of, sums)
        return sums


def mostly_zero(filled: NDArray, design: LevelDesign) -> NDArray:
    """Say which units, not 0 in `filled` sentences, are faster this way: bool (unit).

    None where features have so many levels that their numbers alone cost as much as sentences.
    """
    n_features = len(design.first_class)
    n_sentences = sum(len(fold.sentence) for fold in design.folds)
    n_numbers = 1 + design.n_classes + n_features + n_features * (n_features + 1) // 2
    return (filled < _FEW * n_sentences) & (n_numbers**2 < _NUMBERS * n_features * n_sentences)


def fold_units(
    position: NDArray, filled: NDArray, rounding: NDArray, design: LevelDesign
) -> list[SparseUnits]:
    """Sum positions (sentence, unit) over the level classes of both folds.

    `filled` says in how many sentences each unit is not 0, `rounding` by how much rounding may let
    it vary: what may all be so is 0. (unit)
    """
    n_blocks, n_filled = -(-position.shape[1] // BLOCK), filled.sum()
    end = np.cumsum(filled) - filled
    sentence, value = np.empty(n_filled, np.int32), np.empty(n_filled)
    folds = []
    for fold in design.folds:
        start, end = end, end.copy()
        _compress(position, fold.sentence, end, sentence, value)
        _drop_rounding(start, end, sentence, value, fold.subset, rounding)
        sums = UnitSums.empty(len(fold.sentence), n_blocks, design)
        levels = fold.subset, fold.row, fold.level
        _sum_levels(start, end, sentence, value, *levels, sums.class_sums, sums.power_sums)
        folds.append(SparseUnits(start, end, sentence, value, sums))
    return folds


@numba.njit(nogil=True, cache=True)
def _compress(
    position: NDArray, sentence: NDArray, place: NDArray, found: NDArray, value: NDArray
) -> None:
    """Write the positions that are not 0, those of each unit from its `place` on, which moves."""
    n_units = position.shape[1]
    n_chunked = n_units // _CHUNK * _CHUNK
    for i in range(len(sentence)):
        row = position[sentence[i]]
        for first in range(0, n_chunked, _CHUNK):
            any_filled = False
            for c in range(_CHUNK):
                any_filled |= row[first + c] != 0
            if any_filled:
                _push(row, i, first, first + _CHUNK, place, found, value)
        _push(row, i, n_chunked, n_units, place, found, value)


@numba.njit(nogil=True, cache=True, inline="always")
def _push(
    row: NDArray, i: int, first: int, last: int, place: NDArray, found: NDArray, value: NDArray
) -> None:
    for unit in range(first, last):
        if row[unit] != 0:
            found[place[unit]], value[place[unit]] = i, row[unit]
            place[unit] += 1


@numba.njit(nogil=True, cache=True)
def _drop_rounding(
    start: NDArray,
    end: NDArray,
    sentence: NDArray,
    value: NDArray,
    subset: NDArray,
    rounding: NDArray,
) -> None:
    """Leave out the positions of units that, in a subset of the fold, are all rounding of 0."""
    largest = np.empty(2)
    for unit in range(len(start)):
        largest[:] = 0.0
        for j in range(start[unit], end[unit]):
            s = subset[sentence[j]]
            largest[s] = max(largest[s], abs(value[j]))
        last, end[unit] = end[unit], start[unit]
        for j in range(start[unit], last):
            if largest[subset[sentence[j]]] > rounding[unit]:
                sentence[end[unit]], value[end[unit]] = sentence[j], value[j]
                end[unit] += 1


@numba.njit(nogil=True, cache=True)
def _sum_levels(
    start: NDArray,
    end: NDArray,
    sentence: NDArray,
    value: NDArray,
    subset: NDArray,
    row: NDArray,
    level: NDArray,
    class_sums: NDArray,
    power_sums: NDArray,
) -> None:
    """Add up the positions of units per class (block, 2, C + F, 2 BLOCK), and their powers."""
    classes, powers = np.empty((2, class_sums.shape[2], 2)), np.empty((2, 4))
    for unit in range(len(start)):
        classes[:], powers[:] = 0.0, 0.0
        for j in range(start[unit], end[unit]):
            s, own, a = subset[sentence[j]], level[row[sentence[j]]], value[j]
            for c in own:
                classes[s, c, 0] += a
                classes[s, c, 1] += a * a
            powers[s, 0] += a
            powers[s, 1] += a * a
            powers[s, 2] += a * (a * a)
            powers[s, 3] += (a * a) * (a * a)
        block, lane = unit // BLOCK, unit % BLOCK
        class_sums[block, :, :, lane] = classes[:, :, 0]
        class_sums[block, :, :, BLOCK + lane] = classes[:, :, 1]
        power_sums[block, :, :, lane] = powers


class ZeroRows(NamedTuple):
    """What sum_j psi of the sentences of a fold is where the position is 0, from their rows."""

    product: NDArray
    """Sums over partners of (x_k - u_k) x_l: (R, F of l, F of k)."""
    of_feature: list[NDArray]
    """R of that on the importance of k, of the classes of k and of w_l: (D, D)."""
    of_score: NDArray
    """R of that on R2, of a constant, of all classes and of w_k w_l, k <= l: (D, D)."""


@lru_cache(maxsize=2 * N_FOLDS)
def zero_rows(fold: FoldLevels, design: LevelDesign) -> ZeroRows:
    """Decompose what the rows of a fold make of the numbers of a unit, once per process."""
    n_features = fold.level.shape[1]
    product = fold.products(np.eye(n_features))
    feature = design.feature_of_class
    upper = np.triu_indices(n_features)
    counted = _counted(n_features)

    def of_feature(k: int, rows: slice) -> list[NDArray]:
        return [fold.level[rows, k, np.newaxis] == np.flatnonzero(feature == k), product[rows, k]]

    def of_score(rows: slice) -> list[NDArray]:
        both = product[rows] * counted
        both += both.swapaxes(1, 2)
        of_class = np.zeros((len(both), len(feature)))
        np.put_along_axis(of_class, fold.level[rows].astype(np.int64), 1.0, axis=1)
        return [np.ones((len(both), 1)), of_class, both[:, *upper]]

    return ZeroRows(
        np.ascontiguousarray(product.swapaxes(1, 2)),
        [_decomposed(partial(of_feature, k), fold.start) for k in range(n_features)],
        _decomposed(of_score, fold.start),
    )


def _counted(n_features: int) -> NDArray:
    """Say how often `Polynomials` count w_k w_l: half of it, of k and l and of l and k."""
    middle = n_features // 2
    counted = np.ones((n_features, n_features))
    counted[:middle, middle:], counted[middle:, :middle] = 2.0, 0.0
    return counted - 0.5 * np.eye(n_features)


def _decomposed(columns: Callable[[slice], list[NDArray]], start: NDArray) -> NDArray:
    """Return R of the QR decomposition of all rows, each as often as it has sentences.

    Some at a time: with 100,000 rows, the columns of all of them take more room than the fold.
    """
    n_columns = sum(part.shape[1] for part in columns(slice(0)))
    found: NDArray = np.zeros((0, n_columns))
    root = np.sqrt(np.diff(start))[:, np.newaxis]
    for first in range(0, len(root), _ROWS):
        rows = slice(first, first + _ROWS)
        part = np.concatenate(columns(rows), axis=1) * root[rows]
        found = np.asarray(np.linalg.qr(np.concatenate([found, part]), mode="r"))
    return found


def _units_first(coefficients: NDArray) -> NDArray:
    """Turn (block, ..., K BLOCK) into (unit, ..., K), units filled up to blocks."""
    parts = coefficients.reshape(*coefficients.shape[:-1], -1, BLOCK)
    moved = np.moveaxis(parts, -1, 1)
    return moved.reshape(-1, *moved.shape[2:])


def _squares_of_zeros(
    zero: ZeroRows,
    alone: NDArray,
    design: LevelDesign,
    polynomials: Polynomials,
) -> NDArray:
    """Sum the squares of sum_j psi as if every position were 0: (unit, F + 1)."""
    of_class, of_feature, of_score, weight = polynomials
    n_units, n_features = weight.shape[:2]
    square = np.zeros((n_units, n_features + 1))
    for k in alone:
        own = of_class[:, design.feature_of_class == k, 0]
        numbers = np.concatenate([own, of_feature[:, k, :1] * weight], axis=1)
        square[:, k] = _squared_norm(numbers @ zero.of_feature[k].T)
    first, second = np.triu_indices(n_features)
    both = of_feature[:, first, 1] * weight[:, second]
    numbers = np.concatenate([of_score[:, :1], of_class[:, :, 3], both], axis=1)
    square[:, n_features] = _squared_norm(numbers @ zero.of_score.T)
    return square


def _squared_norm(values: NDArray) -> NDArray:
    return np.einsum("ij,ij->i", values, values)


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _add_filled(
    start: NDArray,
    end: NDArray,
    sentence: NDArray,
    value: NDArray,
    row: NDArray,
    level: NDArray,
    product: NDArray,
    alone: NDArray,
    of_class: NDArray,
    of_feature: NDArray,
    of_score: NDArray,
    weight: NDArray,
    square: NDArray,
) -> None:
    """Add p(a)^2 - p(0)^2 of the positions that are not 0 to `square` (unit, F + 1).

    The coefficients are those of `Polynomials`, units first.
    """
    n_features = level.shape[1]
    middle = n_features // 2
    first, second, more_of = np.empty(n_features), np.empty(n_features), np.empty(n_features)
    for unit in range(len(start)):
        own, w = of_class[unit], weight[unit]
        of_importance, of_r2 = of_feature[unit], of_score[unit]
        more_of[:] = 0.0
        for j in range(start[unit], end[unit]):
            a, r = value[j], row[sentence[j]]
            chosen, partners = level[r], product[r]
            # sum_j (x_k - u_k) (w.x), of the features of either half in w.x.
            first[:], second[:] = 0.0, 0.0
            for m in range(middle):
                for k in range(n_features):
                    first[k] += partners[m, k] * w[m]
            for m in range(middle, n_features):
                for k in range(n_features):
                    second[k] += partners[m, k] * w[m]
            c0, c1, c2 = of_r2[0], of_r2[1], of_r2[2]
            for k in range(n_features):
                c = chosen[k]
                # Products of the first half with the second stand in (w.x)^2 twice.
                both = first[k] + 2.0 * second[k] if k < middle else second[k]
                c0 += own[c, 3] + of_importance[k, 1] * both
                c1 += own[c, 4]
                c2 += own[c, 5]
            more = a * (c1 + a * (c2 + a * (of_r2[3] + a * of_r2[4])))
            square[unit, n_features] += more * (more + 2.0 * c0)
            for k in range(n_features):
                c = chosen[k]
                at_zero = own[c, 0] + of_importance[k, 0] * (first[k] + second[k])
                more = a * (own[c, 1] + a * own[c, 2])
                more_of[k] += more * (more + 2.0 * at_zero)
        for k in alone:
            square[unit, k] += more_of[k]


@numba.njit(nogil=True, cache=True)
def _sum_sets(
    start: NDArray,
    end: NDArray,
    sentence: NDArray,
    value: NDArray,
    set_of: NDArray,
    sums: NDArray,
) -> None:
    """Add up positions and their squares per set: (block, set, 2 BLOCK)."""
    for unit in range(len(start)):
        own, lane = sums[unit // BLOCK], unit % BLOCK
        for j in range(start[unit], end[unit]):
            a = value[j]
            for s in set_of[sentence[j]]:
                own[s, lane] += a
                own[s, BLOCK + lane] += a * a
