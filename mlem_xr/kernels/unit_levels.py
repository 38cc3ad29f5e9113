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
from mlem_xr.kernels.influence import Items, R2Influence
from mlem_xr.kernels.levels import FoldLevels, LevelDesign, LevelSums
from mlem_xr.kernels.ridge import Fit
from mlem_xr.kernels.statistics import Statistics
from mlem_xr.kernels.targets import BLOCK

_SPARSE = 0.1
"""Below this share of positions that are not 0, they are added up one by one."""

_ROWS = 128
"""Rows of levels worked on together, so that what they predict stays in cache."""

_FAST = {"contract", "nnan", "ninf", "nsz"}
"""Fast-math without reassociation, so that a result does not depend on the compiler's mood."""


class FoldUnits(NamedTuple):
    """The units over the sentences that one fold holds out."""

    position: NDArray
    """Positions, less a center: float64 (block, n, BLOCK), 0 in lanes without a unit."""
    class_sums: NDArray
    """Sums of the positions, then of their squares, per subset and class: float64
    (block, 2, C + 1, 2 BLOCK); the last class is that of undefined levels."""
    power_sums: NDArray
    """Sums of the first four powers, per subset: float64 (block, 2, 4, BLOCK)."""

    def level_sums(self, n_units: int) -> tuple[LevelSums, LevelSums]:
        """Return the sums of the train and of the validation part."""
        n_blocks, _, n_classes, _ = self.class_sums.shape
        sums = self.class_sums.reshape(n_blocks, 2, n_classes, 2, BLOCK)
        classes = _units_last(sums, n_units)[:, :-1]
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
    return moved.reshape(*moved.shape[:-2], len(sums) * BLOCK)[..., :n_units]


def fold_units(position: NDArray, constant: NDArray, design: LevelDesign) -> list[FoldUnits]:
    """Sum positions (sentence, unit) over the level classes of both folds.

    They are centered, which changes no difference, so that squares keep their digits; a unit that
    is mostly 0 is not, so that its zeros stay. `constant` says which units are the same in all
    sentences, but for rounding: bool (unit).
    """
    n_units = position.shape[1]
    total, n_filled = np.zeros(n_units), np.zeros(n_units)
    _sum_up(position, total, n_filled)
    mostly_zero = n_filled < len(position) / 2
    center = np.where(mostly_zero, 0.0, total / len(position))
    scale = np.where(constant, 0.0, 1.0)
    n_blocks = -(-n_units // BLOCK)
    few = n_filled < _SPARSE * len(position)
    folds = []
    for fold in design.folds:
        n, n_classes = len(fold.sentence), design.n_classes + 1
        own = np.zeros((n_blocks, n, BLOCK))
        _load(position, fold.sentence, center, scale, own)
        class_sums = np.zeros((n_blocks, 2, n_classes, 2 * BLOCK))
        power_sums = np.zeros((n_blocks, 2, 4, BLOCK))
        for block in range(n_blocks):
            sparse = few[block * BLOCK : (block + 1) * BLOCK].all()
            add = _sum_sparse_levels if sparse else _sum_levels
            sums = class_sums[block], power_sums[block]
            add(own[block], fold.subset, fold.start, fold.level, *sums)
        folds.append(FoldUnits(own, class_sums, power_sums))
    return folds


@numba.njit(nogil=True, cache=True)
def _sum_up(position: NDArray, total: NDArray, n_filled: NDArray) -> None:
    """Sum the positions (sentence, unit), and count those that are not 0: (unit)."""
    for row in position:
        for unit in range(len(row)):
            total[unit] += row[unit]
        for unit in range(len(row)):
            n_filled[unit] += row[unit] != 0.0


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

    For numbers here and there among zeros, `_sum_sparse_levels` does the same.
    """
    n_rows, n_features = level.shape
    row_sums = np.zeros((2, 2 * BLOCK))
    filled = np.zeros(2, np.bool_)
    for r in range(n_rows):
        for i in range(start[r], start[r + 1]):
            s = subset[i]
            own, a = row_sums[s], position[i]
            third, fourth = power_sums[s, 2], power_sums[s, 3]
            filled[s] = True
            for lane in range(BLOCK):
                own[lane] += a[lane]
                own[BLOCK + lane] += a[lane] * a[lane]
            for lane in range(BLOCK):
                third[lane] += a[lane] * (a[lane] * a[lane])
            for lane in range(BLOCK):
                fourth[lane] += (a[lane] * a[lane]) * (a[lane] * a[lane])
        for s in range(2):
            if not filled[s]:
                continue
            own = row_sums[s]
            for k in range(n_features):
                sums = class_sums[s, level[r, k]]
                for lane in range(2 * BLOCK):
                    sums[lane] += own[lane]
            first, second = power_sums[s, 0], power_sums[s, 1]
            for lane in range(BLOCK):
                first[lane] += own[lane]
            for lane in range(BLOCK):
                second[lane] += own[BLOCK + lane]
            own[:] = 0.0
            filled[s] = False


@numba.njit(nogil=True, cache=True)
def _sum_sparse_levels(
    position: NDArray,
    subset: NDArray,
    start: NDArray,
    level: NDArray,
    class_sums: NDArray,
    power_sums: NDArray,
) -> None:
    """Add up the positions of a block of units that are not 0; see `_sum_levels`."""
    n_rows, n_features = level.shape
    for r in range(n_rows):
        for i in range(start[r], start[r + 1]):
            s = subset[i]
            for lane in range(BLOCK):
                a = position[i, lane]
                if a == 0.0:
                    continue
                b = a * a
                for k in range(n_features):
                    c = level[r, k]
                    class_sums[s, c, lane] += a
                    class_sums[s, c, BLOCK + lane] += b
                power_sums[s, 0, lane] += a
                power_sums[s, 1, lane] += b
                power_sums[s, 2, lane] += a * b
                power_sums[s, 3, lane] += b * b


class InfluenceSums(NamedTuple):
    """Influences of the sentences that a fold holds out, on the importances, then on R2."""

    n: int
    """Number of sentences."""
    square: NDArray
    """Squares of what psi sums to over partners, summed over the sentences, except for features of
    items: (F + 1, unit)."""
    pooled: NDArray
    """What it sums to over the sentences of each item: (I, unit)."""
    n_pooled: NDArray
    """Sentences of each item: (I)."""


def influence_sums(
    units: FoldUnits,
    fold: FoldLevels,
    first_class: NDArray,
    fit: Fit,
    held_out: Statistics,
    r2: R2Influence,
    items: Items,
) -> InfluenceSums:
    """Sum the influences psi over the partners of each held-out sentence.

    For the sentences of one row of levels, sum_j psi_ij is a polynomial of the position a: the sums
    over partners of y, x_k y and y^2 are polynomials of degree 2, 2 and 4, and those of x_k and
    x_k x_l are numbers of the row.
    """
    n_blocks, n, _ = units.position.shape
    n_units, n_features = fit.weight.shape
    mean = held_out.regressors.mean
    per_unit = np.stack([fit.intercept, held_out.mean, *r2])
    square = np.zeros((n_blocks, n_features + 1, BLOCK))
    number = items.number[fold.sentence]
    pooled = np.zeros((n_blocks, len(items.feature), BLOCK))
    weight = _in_blocks(fit.weight.T, n_blocks)
    of_class, of_feature, of_score = _polynomials(
        units, fold.held_out.n_in_class, first_class, mean, weight, _in_blocks(per_unit, n_blocks)
    )
    for start in range(0, len(fold.level), _ROWS):
        rows = slice(start, start + _ROWS)
        # Sums over partners of (x_k - u_k) x_l, as they stand in psi.
        xx = fold.xx[rows].astype(np.float64)
        xx -= mean[:, np.newaxis] * np.einsum("rkk->rk", fold.xx[rows])[:, np.newaxis]
        for block in range(n_blocks):
            _sum_squares(
                units.position[block],
                fold.start[start : start + _ROWS + 1],
                fold.level[rows],
                xx.reshape(-1, n_features) @ weight[block],
                of_class[block],
                of_feature[block],
                of_score[block],
                number,
                square[block],
                pooled[block],
            )
    n_pooled = np.bincount(number[number >= 0], minlength=len(items.feature))
    return InfluenceSums(n, _units_last(square, n_units), _units_last(pooled, n_units), n_pooled)


def _in_blocks(values: NDArray, n_blocks: int) -> NDArray:
    """Turn (K, unit) into (block, K, BLOCK), the last block filled up with zeros."""
    filled = np.zeros((len(values), n_blocks * BLOCK))
    filled[:, : values.shape[1]] = values
    return np.ascontiguousarray(filled.reshape(len(values), n_blocks, BLOCK).swapaxes(0, 1))


def _polynomials(
    units: FoldUnits,
    n_in_class: NDArray,
    first_class: NDArray,
    mean: NDArray,
    weight: NDArray,
    per_unit: NDArray,
) -> tuple[NDArray, NDArray, NDArray]:
    """Prepare the polynomials of sum_j psi of blocks of units, but for products of features.

    With X, S, Q the number of partners that differ from a class in its feature k, and the sums of
    their positions and squares, sum_j x_k y = X a^2 - 2 a S + Q. Besides the classes, each feature
    has one more, of what does not define it: X = S = Q = 0. Several of them stand one after another
    in a row, so that a loop over lanes knows that they are apart.

    Returns
    -------
    of_class : ndarray of float64 (block, C + F, 6 BLOCK)
        Coefficients of the polynomial on the importance of k (constant, linear, quadratic), and
        what the class adds to that on R2.
    of_feature : ndarray of float64 (block, F, 2 BLOCK)
        Factors of sum_j (x_k - u_k) (w.x): in the constant of the first, and of the second.
    of_score : ndarray of float64 (block, 5 BLOCK)
        Coefficients of the polynomial on R2 without what classes add.
    """
    n_classes, n_features = len(n_in_class), len(first_class)
    feature = np.repeat(np.arange(n_features), np.diff([*first_class, n_classes]))
    n = units.position.shape[1]

    def differing(values: NDArray) -> NDArray:
        """Sum over sentences that differ from those of a class (block, C + F, BLOCK)."""
        found = np.add.reduceat(values, first_class, axis=1)[:, feature] - values
        return np.pad(found, [(0, 0), (0, n_features), (0, 0)])

    sums = units.class_sums.sum(axis=1)[:, :-1]
    first, second = differing(sums[..., :BLOCK]), differing(sums[..., BLOCK:])
    count = differing(n_in_class[np.newaxis, :, np.newaxis])
    feature = np.concatenate([feature, np.arange(n_features)])
    u, w = mean[feature, np.newaxis], weight[:, feature]
    # (block, 1, BLOCK) each
    intercept, y0, residual, target = np.moveaxis(per_unit, 1, 0)[:, :, np.newaxis]
    s1, s2, s3, s4 = np.moveaxis(units.power_sums.sum(axis=1), 1, 0)[:, :, np.newaxis]
    predicted = (mean @ weight)[:, np.newaxis]
    partners = n - 1
    of_products = second - u * s2 - (y0 - predicted) * (count - partners * u)
    square = (1 - 2 * u) * count + partners * u**2
    of_class = [
        2 * w * (of_products + w * square),
        -4 * w * (first - u * s1),
        2 * w * (count - u * n),
        # r^2 has -2 y (b + w.x) + 2 b w.x + (w.x)^2, the last of which has u (w.x) of each feature.
        residual * w * ((2 * intercept + predicted) * count - 2 * second),
        4 * residual * w * first,
        -2 * residual * w * count,
    ]
    of_y, of_yy = -2 * (residual * intercept + target * y0), residual + target
    of_score = [
        partners * (residual * intercept**2 + target * y0**2) + of_y * s2 + of_yy * s4,
        -2 * of_y * s1 - 4 * of_yy * s3,
        of_y * n + 6 * of_yy * s2,
        -4 * of_yy * s1,
        of_yy * n,
    ]
    of_feature = np.concatenate([-2 * weight, residual * weight], axis=2)
    return np.concatenate(of_class, axis=2), of_feature, np.concatenate(of_score, axis=2)[:, 0]


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _sum_squares(
    position: NDArray,
    start: NDArray,
    level: NDArray,
    predicted: NDArray,
    of_class: NDArray,
    of_feature: NDArray,
    of_score: NDArray,
    number: NDArray,
    square: NDArray,
    pooled: NDArray,
) -> None:
    """Add the squares of sum_j psi of the sentences of some rows, for a block of units.

    `position` is (n, BLOCK), `start` and `level` are of these rows, `predicted` (row x F, BLOCK)
    holds sum_j (x_k - u_k) (w.x), and `number` (n, F) the items; `square` (F + 1, BLOCK) is added
    to or, for features of items, `pooled` (I, BLOCK); the others are those of `_polynomials`.
    """
    n_rows, n_features = level.shape
    n_classes = len(of_class) - n_features
    power, score = np.empty(4 * BLOCK), np.empty(5 * BLOCK)
    for r in range(n_rows):
        n_sentences = np.float64(start[r + 1] - start[r])
        power[:] = 0.0
        for i in range(start[r], start[r + 1]):
            a = position[i]
            for lane in range(BLOCK):
                b = a[lane] * a[lane]
                power[lane] += a[lane]
                power[BLOCK + lane] += b
                power[2 * BLOCK + lane] += a[lane] * b
                power[3 * BLOCK + lane] += b * b
        score[:] = of_score
        for k in range(n_features):
            own = of_class[level[r, k] if level[r, k] < n_classes else n_classes + k]
            w, product, out = of_feature[k], predicted[r * n_features + k], square[k]
            if number[0, k] < 0:
                for lane in range(BLOCK):
                    p0 = own[lane] + w[lane] * product[lane]
                    p1, p2 = own[BLOCK + lane], own[2 * BLOCK + lane]
                    a1, a2 = power[lane], power[BLOCK + lane]
                    a3, a4 = power[2 * BLOCK + lane], power[3 * BLOCK + lane]
                    # The sum of (p0 + p1 a + p2 a^2)^2.
                    out[lane] += (
                        p0 * (p0 * n_sentences + 2.0 * (p1 * a1 + p2 * a2))
                        + p1 * (p1 * a2 + 2.0 * p2 * a3)
                        + p2 * p2 * a4
                    )
            else:
                for i in range(start[r], start[r + 1]):
                    a, total = position[i], pooled[number[i, k]]
                    for lane in range(BLOCK):
                        p0 = own[lane] + w[lane] * product[lane]
                        p1, p2 = own[BLOCK + lane], own[2 * BLOCK + lane]
                        total[lane] += p0 + a[lane] * (p1 + a[lane] * p2)
            for lane in range(BLOCK):
                score[lane] += own[3 * BLOCK + lane] + w[BLOCK + lane] * product[lane]
                score[BLOCK + lane] += own[4 * BLOCK + lane]
                score[2 * BLOCK + lane] += own[5 * BLOCK + lane]
        out = square[n_features]
        for i in range(start[r], start[r + 1]):
            a = position[i]
            for lane in range(BLOCK):
                value = _quartic(score, a[lane], lane)
                out[lane] += value * value


@numba.njit(nogil=True, cache=True, fastmath=_FAST, inline="always")
def _quartic(coefficient: NDArray, a: float, lane: int) -> float:
    c3, c4 = coefficient[3 * BLOCK + lane], coefficient[4 * BLOCK + lane]
    c1, c2 = coefficient[BLOCK + lane], coefficient[2 * BLOCK + lane]
    return coefficient[lane] + a * (c1 + a * (c2 + a * (c3 + a * c4)))


def standard_errors(
    sums: Sequence[InfluenceSums],
    importances: Sequence[NDArray],
    shares: Sequence[NDArray],
    items: Items,
) -> NDArray:
    """Compute standard errors from `influence_sums` of both folds: (F + 1, unit).

    `importances` (unit, F) are those of each fold, which are the means of psi; on R2 it has mean 0.
    `shares` are those of `mlem_xr.kernels.influence.standard_errors`.
    """
    square = np.zeros_like(sums[0].square)
    pooled = np.zeros_like(sums[0].pooled)
    for part, importance, share in zip(sums, importances, shares, strict=True):
        mean = np.append(importance.T, np.zeros((1, len(importance))), axis=0)
        factor = 2 * share[:, np.newaxis] / part.n
        spread = np.maximum(part.square / (part.n - 1) ** 2 - part.n * mean**2, 0.0)
        square += factor**2 * spread
        expected = part.n_pooled[:, np.newaxis] * mean[items.feature]
        pooled += factor[items.feature] * (part.pooled / (part.n - 1) - expected)
    n_units = np.full(len(square), float(sum(part.n for part in sums)))
    of_items, n_items = np.unique(items.feature, return_counts=True)
    for k, n in zip(of_items, n_items, strict=True):
        square[k] = (pooled[items.feature == k] ** 2).sum(axis=0)
        n_units[k] = n
    return influence.root(square, n_units, len(sums))
