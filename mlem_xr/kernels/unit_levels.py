"""Level sums of single units, and the influence of each sentence on their importances.

Units are worked on in blocks of 64, so that sums of a block become vectors of the processor. All
sums are float64.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels import influence
from mlem_xr.kernels.influence import R2Influence
from mlem_xr.kernels.levels import FoldLevels, LevelDesign, LevelSums
from mlem_xr.kernels.ridge import Fit
from mlem_xr.kernels.statistics import Statistics
from mlem_xr.kernels.targets import BLOCK

LANES = 8
"""Units of a block whose zeros are skipped together."""

_ROWS = 128
"""Rows of levels worked on together, so that what they predict stays in cache."""

_FAST = {"contract", "nnan", "ninf", "nsz"}
"""Fast-math without reassociation, so that a result does not depend on the compiler's mood."""


class FoldUnits(NamedTuple):
    """The units over the sentences that one fold holds out."""

    position: NDArray
    """Positions, less a center: float64 (block, n, BLOCK), 0 in lanes without a unit."""
    class_sums: NDArray
    """Sums of the positions and of their squares, per subset and class: float64
    (block, 2, C + 1, 2, BLOCK); the last class is that of undefined levels."""
    power_sums: NDArray
    """Sums of the first four powers, per subset: float64 (block, 2, 4, BLOCK)."""

    def level_sums(self, n_units: int) -> tuple[LevelSums, LevelSums]:
        """Return the sums of the train and of the validation part."""
        classes = _units_last(self.class_sums, n_units)[:, :-1]
        powers = _units_last(self.power_sums, n_units)
        train, validation = (
            LevelSums(p[0][:, np.newaxis], p[1], c[:, 0, :, np.newaxis], c[:, 1])
            for c, p in zip(classes, powers, strict=True)
        )
        return train, validation

    def sums_of_squares(self, n_units: int) -> NDArray:
        """Return the sums of the squared targets over all pairs: (unit)."""
        first, second, third, fourth = _units_last(self.power_sums.sum(axis=1), n_units)
        return self.position.shape[1] * fourth - 4 * first * third + 3 * second**2


def _units_last(sums: NDArray, n_units: int) -> NDArray:
    """Turn (block, ..., BLOCK) into (..., unit)."""
    moved = np.moveaxis(sums, 0, -2)
    return moved.reshape(*moved.shape[:-2], -1)[..., :n_units]


def fold_units(position: NDArray, constant: NDArray, design: LevelDesign) -> list[FoldUnits]:
    """Sum positions (sentence, unit) over the level classes of both folds.

    They are centered, which changes no difference, so that squares keep their digits; a unit that
    is mostly 0 is not, so that its zeros stay. `constant` says which units are the same in all
    sentences, but for rounding: bool (unit).
    """
    n_units = position.shape[1]
    mostly_zero = np.count_nonzero(position, axis=0) < len(position) / 2
    center = np.where(mostly_zero, 0.0, position.mean(axis=0, dtype=np.float64))
    scale = np.where(constant, 0.0, 1.0)
    n_blocks = -(-n_units // BLOCK)
    folds = []
    for fold in design.folds:
        n, n_classes = len(fold.sentence), design.n_classes + 1
        own = np.zeros((n_blocks, n, BLOCK))
        _load(position, fold.sentence, center, scale, own)
        class_sums = np.zeros((n_blocks, 2, n_classes, 2, BLOCK))
        power_sums = np.zeros((n_blocks, 2, 4, BLOCK))
        for block in zip(own, class_sums, power_sums, strict=True):
            _sum_levels(block[0], fold.subset, fold.start, fold.level, *block[1:])
        folds.append(FoldUnits(own, class_sums, power_sums))
    return folds


@numba.njit(nogil=True, cache=True)
def _load(
    position: NDArray, sentence: NDArray, center: NDArray, scale: NDArray, out: NDArray
) -> None:
    """Fill `out` (block, n, BLOCK) with the centered positions of these sentences."""
    n_units = position.shape[1]
    for i in range(len(sentence)):
        row = position[sentence[i]]
        for block in range(len(out)):
            first = block * BLOCK
            for unit in range(first, min(first + BLOCK, n_units)):
                out[block, i, unit - first] = (row[unit] - center[unit]) * scale[unit]


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _sum_levels(
    position: NDArray,
    subset: NDArray,
    start: NDArray,
    level: NDArray,
    class_sums: NDArray,
    power_sums: NDArray,
) -> None:
    """Add up a block of units (n, BLOCK) per row of levels, and rows per class.

    Sentences at which all lanes are 0 cost nothing.
    """
    n_rows, n_features = level.shape
    row_sums = np.zeros((2, 2, LANES))
    filled = np.zeros(2, np.bool_)
    for first in range(0, BLOCK, LANES):
        for r in range(n_rows):
            for i in range(start[r], start[r + 1]):
                zero = True
                for lane in range(LANES):
                    zero &= position[i, first + lane] == 0.0
                if zero:
                    continue
                s = subset[i]
                filled[s] = True
                for lane in range(LANES):
                    a = position[i, first + lane]
                    b = a * a
                    row_sums[s, 0, lane] += a
                    row_sums[s, 1, lane] += b
                    power_sums[s, 2, first + lane] += a * b
                    power_sums[s, 3, first + lane] += b * b
            for s in range(2):
                if not filled[s]:
                    continue
                for k in range(n_features):
                    c = level[r, k]
                    for lane in range(LANES):
                        class_sums[s, c, 0, first + lane] += row_sums[s, 0, lane]
                    for lane in range(LANES):
                        class_sums[s, c, 1, first + lane] += row_sums[s, 1, lane]
                for lane in range(LANES):
                    power_sums[s, 0, first + lane] += row_sums[s, 0, lane]
                    power_sums[s, 1, first + lane] += row_sums[s, 1, lane]
                    row_sums[s, 0, lane] = 0.0
                    row_sums[s, 1, lane] = 0.0
                filled[s] = False


class InfluenceSums(NamedTuple):
    """Influences of the sentences that a fold holds out, on the importances, then on R2."""

    n: int
    """Number of sentences."""
    square: NDArray
    """Squares of what psi sums to over partners, summed over the sentences: (F + 1, unit)."""
    totals: NDArray
    """That itself, for each sentence, or for none: (block, n or 0, F + 1, BLOCK)."""


def influence_sums(
    units: FoldUnits,
    fold: FoldLevels,
    first_class: NDArray,
    fit: Fit,
    held_out: Statistics,
    r2: R2Influence,
    *,
    each: bool,
) -> InfluenceSums:
    """Sum the influences psi over the partners of each held-out sentence, `each` one if asked.

    For the sentences of one row of levels, sum_j psi_ij is a polynomial of the position a: the sums
    over partners of y, x_k y and y^2 are polynomials of degree 2, 2 and 4, and those of x_k and
    x_k x_l are numbers of the row.
    """
    n_blocks, n, _ = units.position.shape
    n_units, n_features = fit.weight.shape
    mean = held_out.regressors.mean
    per_unit = np.stack([fit.intercept, held_out.mean, *r2])
    square = np.zeros((n_blocks, n_features + 1, BLOCK))
    totals = np.zeros((n_blocks, n if each else 0, n_features + 1, BLOCK))
    for block in range(n_blocks):
        own = slice(block * BLOCK, (block + 1) * BLOCK)
        weight = _filled(fit.weight[own].T)
        polynomials = _polynomials(
            units.class_sums[block].sum(axis=0),
            units.power_sums[block].sum(axis=0),
            fold.held_out.n_in_class,
            first_class,
            mean,
            weight,
            _filled(per_unit[:, own]),
            n,
        )
        for start in range(0, len(fold.level), _ROWS):
            rows = slice(start, start + _ROWS)
            xx = fold.xx[rows].reshape(-1, n_features).astype(np.float64)
            _sum_squares(
                units.position[block],
                fold.start[start : start + _ROWS + 1],
                fold.level[rows],
                xx @ weight,
                mean,
                weight,
                *polynomials,
                square[block],
                totals[block],
            )
    return InfluenceSums(n, _units_last(square, n_units), totals)


def _filled(values: NDArray) -> NDArray:
    """Fill the last block (..., unit) up with zeros."""
    missing = BLOCK - values.shape[-1]
    return np.ascontiguousarray(np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)]))


def _polynomials(
    class_sums: NDArray,
    power_sums: NDArray,
    n_in_class: NDArray,
    first_class: NDArray,
    mean: NDArray,
    weight: NDArray,
    per_unit: NDArray,
    n: int,
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Prepare all of the polynomials that does not depend on rows of levels, for a block of units.

    With X, S, Q the number of partners that differ from a class in its feature k, and the sums of
    their positions and squares, sum_j x_k y = X a^2 - 2 a S + Q. Besides the classes, each feature
    has one more, of what does not define it: X = S = Q = 0.

    Returns
    -------
    importance : ndarray of float64 (C + F, 3, BLOCK)
        Coefficients of sum_j psi on the importance, but for the products of feature distances.
    weighted : ndarray of float64 (C + F, 3, BLOCK)
        w_k X, w_k Q and w_k S.
    score : ndarray of float64 (5, BLOCK)
        Coefficients of sum_j psi on R2, but for what a feature predicts.
    per_unit : ndarray of float64 (4, BLOCK)
        As given: intercepts, mean targets, and the factors of the influence on R2.
    """
    n_classes, n_features = len(n_in_class), len(first_class)
    feature = np.repeat(np.arange(n_features), np.diff([*first_class, n_classes]))

    def differing(values: NDArray) -> NDArray:
        """Sum over the sentences that differ from those of each class; 0 for the undefined."""
        found = np.add.reduceat(values, first_class, axis=0)[feature] - values
        return np.concatenate([found, np.zeros((n_features, *values.shape[1:]))])

    count = differing(n_in_class)[:, np.newaxis]
    first, second = differing(class_sums[:-1, 0]), differing(class_sums[:-1, 1])
    feature = np.concatenate([feature, np.arange(n_features)])
    u, w = mean[feature, np.newaxis], weight[feature]
    intercept, y0, residual, target = per_unit
    s1, s2, s3, s4 = power_sums
    partners = n - 1
    linear = second - u * s2 - (y0 - mean @ weight) * (count - partners * u)
    square = (1 - 2 * u) * count + partners * u**2
    importance = [
        2 * w * (linear + w * square),
        -4 * w * (first - u * s1),
        2 * w * (count - u * n),
    ]
    of_y, of_yy = -2 * (residual * intercept + target * y0), residual + target
    score = [
        partners * (residual * intercept**2 + target * y0**2) + of_y * s2 + of_yy * s4,
        -2 * of_y * s1 - 4 * of_yy * s3,
        of_y * n + 6 * of_yy * s2,
        -4 * of_yy * s1,
        of_yy * n,
    ]
    weighted = np.stack([w * count, w * second, w * first], axis=1)
    return np.stack(importance, axis=1), weighted, np.stack(score), per_unit


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _sum_squares(
    position: NDArray,
    start: NDArray,
    level: NDArray,
    predicted: NDArray,
    mean: NDArray,
    weight: NDArray,
    importance: NDArray,
    weighted: NDArray,
    score: NDArray,
    per_unit: NDArray,
    square: NDArray,
    totals: NDArray,
) -> None:
    """Add the squares of sum_j psi of the sentences of some rows, for a block of units.

    `position` is (n, BLOCK), `start` and `level` are of these rows, `predicted` (row x F, BLOCK)
    holds sum_j x_k (w.x), `square` (F + 1, BLOCK) is added to and `totals` (n or 0, F + 1, BLOCK)
    filled; the others are those of `_polynomials`. Loops over lanes write to one array each, so
    that they become vectors.
    """
    n_rows, n_features = level.shape
    n_classes = len(importance) - n_features
    p1, p2, p3, p4 = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    fitted, of_squares, of_line = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    twice, constant = np.empty(BLOCK), np.empty(BLOCK)
    e0, e1, e2 = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    e3, e4 = score[3], score[4]
    intercept, residual = per_unit[0], per_unit[2]
    score_square = square[n_features]
    for r in range(n_rows):
        n_sentences = np.float64(start[r + 1] - start[r])
        p1[:] = 0.0
        p2[:] = 0.0
        p3[:] = 0.0
        p4[:] = 0.0
        for i in range(start[r], start[r + 1]):
            a = position[i]
            for lane in range(BLOCK):
                p1[lane] += a[lane]
            for lane in range(BLOCK):
                p2[lane] += a[lane] * a[lane]
            for lane in range(BLOCK):
                p3[lane] += a[lane] * a[lane] * a[lane]
            for lane in range(BLOCK):
                p4[lane] += a[lane] * a[lane] * (a[lane] * a[lane])
        fitted[:] = 0.0
        of_squares[:] = 0.0
        of_line[:] = 0.0
        twice[:] = 0.0
        for k in range(n_features):
            c = level[r, k] if level[r, k] < n_classes else n_classes + k
            own, w, product = weighted[c], weight[k], predicted[r * n_features + k]
            for lane in range(BLOCK):
                fitted[lane] += own[0, lane]
            for lane in range(BLOCK):
                of_squares[lane] += own[1, lane]
            for lane in range(BLOCK):
                of_line[lane] += own[2, lane]
            for lane in range(BLOCK):
                twice[lane] += w[lane] * product[lane]
        for k in range(n_features):
            c = level[r, k] if level[r, k] < n_classes else n_classes + k
            base, linear, quadratic = importance[c, 0], importance[c, 1], importance[c, 2]
            w, product, u = weight[k], predicted[r * n_features + k], mean[k]
            out = square[k]
            for lane in range(BLOCK):
                constant[lane] = base[lane] - 2.0 * w[lane] * (product[lane] - u * fitted[lane])
            for lane in range(BLOCK):
                b, d = linear[lane], quadratic[lane]
                out[lane] += constant[lane] * (
                    constant[lane] * n_sentences + 2.0 * (b * p1[lane] + d * p2[lane])
                ) + (b * b * p2[lane] + d * (2.0 * b * p3[lane] + d * p4[lane]))
            if len(totals):
                for i in range(start[r], start[r + 1]):
                    for lane in range(BLOCK):
                        x = position[i, lane]
                        totals[i, k, lane] = constant[lane] + x * (
                            linear[lane] + x * quadratic[lane]
                        )
        for lane in range(BLOCK):
            e0[lane] = score[0, lane] + residual[lane] * (
                twice[lane] - 2.0 * of_squares[lane] + 2.0 * intercept[lane] * fitted[lane]
            )
        for lane in range(BLOCK):
            e1[lane] = score[1, lane] + 4.0 * residual[lane] * of_line[lane]
        for lane in range(BLOCK):
            e2[lane] = score[2, lane] - 2.0 * residual[lane] * fitted[lane]
        for i in range(start[r], start[r + 1]):
            a = position[i]
            for lane in range(BLOCK):
                value = e0[lane] + a[lane] * (
                    e1[lane] + a[lane] * (e2[lane] + a[lane] * (e3[lane] + a[lane] * e4[lane]))
                )
                score_square[lane] += value * value
            if len(totals):
                for lane in range(BLOCK):
                    x = a[lane]
                    totals[i, n_features, lane] = e0[lane] + x * (
                        e1[lane] + x * (e2[lane] + x * (e3[lane] + x * e4[lane]))
                    )


def standard_errors(
    sums: Sequence[InfluenceSums],
    importances: Sequence[NDArray],
    shares: Sequence[NDArray],
    drawn: Sequence[NDArray] | None,
) -> NDArray:
    """Compute standard errors from `influence_sums` of both folds: (F + 1, unit).

    `importances` (unit, F) are those of each fold, which are the means of psi; on R2 it has mean 0.
    `shares` and `drawn` are those of `mlem_xr.kernels.influence.standard_errors`; where `drawn`
    is given, the sums have to be those of each sentence.
    """
    if drawn is not None:
        each = [np.moveaxis(part.totals, 3, 1) for part in sums]
        units = zip(*(totals.reshape(-1, *totals.shape[2:]) for totals in each), strict=True)
        errors = [influence.standard_errors(unit, shares, drawn) for unit in units]
        return np.stack(errors, axis=1)
    square = np.zeros_like(sums[0].square)
    for part, importance, share in zip(sums, importances, shares, strict=True):
        mean = np.append(importance.T, np.zeros((1, len(importance))), axis=0)
        spread = np.maximum(part.square / (part.n - 1) ** 2 - part.n * mean**2, 0.0)
        square += (2 * share[:, np.newaxis] / part.n) ** 2 * spread
    return influence.root(square, sum(part.n for part in sums), len(sums))
