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
from mlem_xr.kernels.levels import FoldLevels, LevelDesign, LevelSums, Pool
from mlem_xr.kernels.ridge import Fit
from mlem_xr.kernels.statistics import Statistics
from mlem_xr.kernels.targets import BLOCK

_SPARSE = 0.1
"""Below this share of positions that are not 0, they are added up one by one."""

_FAST = {"contract", "nnan", "ninf", "nsz"}
"""Fast-math without reassociation, so that a result does not depend on the compiler's mood."""


class FoldUnits(NamedTuple):
    """The units over the sentences that one fold holds out."""

    position: NDArray
    """Positions, less a center: float64 (block, n, BLOCK), 0 in lanes without a unit."""
    class_sums: NDArray
    """Sums of the positions, then of their squares, per subset and class: float64
    (block, 2, C + F, 2 BLOCK); the last classes are those of undefined levels."""
    power_sums: NDArray
    """Sums of the first four powers, per subset: float64 (block, 2, 4, BLOCK)."""

    n_classes: int

    def level_sums(self, n_units: int) -> tuple[LevelSums, LevelSums]:
        """Return the sums of the train and of the validation part."""
        n_blocks = len(self.class_sums)
        sums = self.class_sums.reshape(n_blocks, 2, -1, 2, BLOCK)
        classes = _units_last(sums, n_units)[:, : self.n_classes]
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
        n, n_classes = len(fold.sentence), design.n_classes + len(design.first_class)
        own = np.zeros((n_blocks, n, BLOCK))
        _load(position, fold.sentence, center, scale, own)
        class_sums = np.zeros((n_blocks, 2, n_classes, 2 * BLOCK))
        power_sums = np.zeros((n_blocks, 2, 4, BLOCK))
        for block in range(n_blocks):
            sparse = few[block * BLOCK : (block + 1) * BLOCK].all()
            sums = class_sums[block], power_sums[block]
            add = _sum_sparse_levels if sparse else _sum_levels
            add(own[block], fold, *sums)
        folds.append(FoldUnits(own, class_sums, power_sums, design.n_classes))
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


def _sum_levels(
    position: NDArray,
    fold: FoldLevels,
    class_sums: NDArray,
    power_sums: NDArray,
) -> None:
    """Add up a block of units (n, BLOCK) per row of levels, and rows per class.

    For numbers here and there among zeros, `_sum_sparse_levels` does the same.
    """
    first, second = fold.halves
    one, other = (np.zeros((2, len(half.level), 2 * BLOCK)) for half in fold.halves)
    numbers = first.number, second.number
    _sum_rows(position, fold.subset, fold.start, *numbers, one, other, power_sums)
    _sum_classes(one, first.level, class_sums)
    _sum_classes(other, second.level, class_sums)


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _sum_rows(
    position: NDArray,
    subset: NDArray,
    start: NDArray,
    first: NDArray,
    second: NDArray,
    of_first: NDArray,
    of_second: NDArray,
    power_sums: NDArray,
) -> None:
    """Add up rows, and each row to its combinations of levels: (2, H, 2 BLOCK)."""
    for r in range(len(start) - 1):
        for i in range(start[r], start[r + 1]):
            s, a = subset[i], position[i]
            one, other = of_first[s, first[r]], of_second[s, second[r]]
            third, fourth = power_sums[s, 2], power_sums[s, 3]
            for lane in range(BLOCK):
                one[lane] += a[lane]
            for lane in range(BLOCK):
                one[BLOCK + lane] += a[lane] * a[lane]
            for lane in range(BLOCK):
                other[lane] += a[lane]
            for lane in range(BLOCK):
                other[BLOCK + lane] += a[lane] * a[lane]
            for lane in range(BLOCK):
                third[lane] += a[lane] * (a[lane] * a[lane])
            for lane in range(BLOCK):
                fourth[lane] += (a[lane] * a[lane]) * (a[lane] * a[lane])
    for s in range(2):
        for own in of_first[s]:
            for lane in range(BLOCK):
                power_sums[s, 0, lane] += own[lane]
            for lane in range(BLOCK):
                power_sums[s, 1, lane] += own[BLOCK + lane]


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _sum_classes(sums: NDArray, level: NDArray, class_sums: NDArray) -> None:
    """Add sums of combinations of levels (2, H, 2 BLOCK) to those of their classes."""
    for s in range(2):
        for h in range(len(level)):
            own = sums[s, h]
            for c in level[h]:
                total = class_sums[s, c]
                for lane in range(2 * BLOCK):
                    total[lane] += own[lane]


def _sum_sparse_levels(
    position: NDArray, fold: FoldLevels, class_sums: NDArray, power_sums: NDArray
) -> None:
    """Add up the positions of a block of units that are not 0; see `_sum_levels`."""
    _sum_filled(position, fold.subset, fold.start, fold.level, class_sums, power_sums)


@numba.njit(nogil=True, cache=True)
def _sum_filled(
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
    design: LevelDesign,
    fit: Fit,
    held_out: Statistics,
    r2: R2Influence,
) -> InfluenceSums:
    """Sum the influences psi over the partners of each held-out sentence.

    For the sentences of one row of levels, sum_j psi_ij is a polynomial of the position a: the sums
    over partners of y, x_k y and y^2 are polynomials of degree 2, 2 and 4, and those of x_k and
    x_k x_l are numbers of the row.
    """
    n_blocks, n, _ = units.position.shape
    n_units, n_features = fit.weight.shape
    n_items = len(design.items.feature)
    alone = np.flatnonzero(design.items.number[0] < 0)
    per_unit = np.stack([fit.intercept, held_out.mean, *r2])
    square = np.zeros((n_blocks, n_features + 1, BLOCK))
    weight = _in_blocks(fit.weight.T, n_blocks)
    of_class, of_feature, of_score = _polynomials(
        units,
        fold.held_out.n_in_class,
        design,
        held_out.regressors.mean,
        weight,
        _in_blocks(per_unit, n_blocks),
    )
    first, second = fold.halves
    for block in range(n_blocks):
        own, feature = of_class[block], of_feature[block]
        # sum_j (x_k - u_k) (w.x), of the features of either half in w.x.
        predicted = [half.product @ weight[block, half.features] for half in fold.halves]
        _sum_squares(
            units.position[block],
            fold.start,
            fold.level,
            (first.number, second.number),
            (first.place, second.place),
            (
                _of_combinations(own, feature, predicted[0], first.level, first.own_place, 0),
                _of_combinations(
                    own,
                    feature,
                    predicted[1],
                    second.level,
                    second.own_place,
                    second.features.start,
                ),
            ),
            (predicted[0], predicted[1]),
            own,
            feature,
            of_score[block],
            alone,
            square[block],
        )
    pooled = _sums_of_items(units.position, fold.pool, of_class, weight, n_items)
    n_pooled = np.zeros(n_items)
    np.add.at(n_pooled, fold.pool.item, fold.pool.size)
    return InfluenceSums(n, _units_last(square, n_units), _units_last(pooled, n_units), n_pooled)


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _of_combinations(
    of_class: NDArray,
    of_feature: NDArray,
    predicted: NDArray,
    level: NDArray,
    place: NDArray,
    first_feature: int,
) -> NDArray:
    """Sum what levels, and products of them, of half of the features add to that on R2.

    For each combination of levels: (H, 3 BLOCK).
    """
    found = np.zeros((len(level), 3 * BLOCK))
    for h in range(len(level)):
        out = found[h]
        for k in range(level.shape[1]):
            own, w, product = (
                of_class[level[h, k]],
                of_feature[first_feature + k],
                predicted[place[h, k]],
            )
            for lane in range(3 * BLOCK):
                out[lane] += own[3 * BLOCK + lane]
            for lane in range(BLOCK):
                out[lane] += w[BLOCK + lane] * product[lane]
    return found


def _sums_of_items(
    position: NDArray, pool: Pool, of_class: NDArray, weight: NDArray, n_items: int
) -> NDArray:
    """Sum sum_j psi over the sentences of each item, for features of items: (block, I, BLOCK)."""
    found = np.zeros((len(position), n_items, BLOCK))
    if not n_items:
        return found
    sums = np.zeros((len(position), pool.n_sets, 2 * BLOCK))
    _sum_sets(position, pool.set_of, sums)
    constant, linear, square = np.split(of_class[:, pool.level, : 3 * BLOCK], 3, axis=2)
    first, second = np.split(sums[:, pool.which], 2, axis=2)
    total = pool.size[:, np.newaxis] * constant + linear * first + square * second
    total -= 2 * weight[:, pool.feature] * (pool.product @ weight)
    start = np.flatnonzero(np.diff(pool.item, prepend=-1))
    found[:, pool.item[start]] = np.add.reduceat(total, start, axis=1)
    return found


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _sum_sets(position: NDArray, set_of: NDArray, sums: NDArray) -> None:
    """Add up positions and their squares (block, n, BLOCK) per set: (block, set, 2 BLOCK)."""
    for block in range(len(position)):
        for i in range(len(set_of)):
            a = position[block, i]
            for s in set_of[i]:
                own = sums[block, s]
                for lane in range(BLOCK):
                    own[lane] += a[lane]
                for lane in range(BLOCK):
                    own[BLOCK + lane] += a[lane] * a[lane]


def _in_blocks(values: NDArray, n_blocks: int) -> NDArray:
    """Turn (K, unit) into (block, K, BLOCK), the last block filled up with zeros."""
    filled = np.zeros((len(values), n_blocks * BLOCK))
    filled[:, : values.shape[1]] = values
    return np.ascontiguousarray(filled.reshape(len(values), n_blocks, BLOCK).swapaxes(0, 1))


def _polynomials(
    units: FoldUnits,
    n_in_class: NDArray,
    design: LevelDesign,
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
    n = units.position.shape[1]
    sums = units.class_sums[:, :, : design.n_classes].sum(axis=1)
    differ = np.moveaxis(design.differing(np.moveaxis(sums, 1, 0)), 0, 1)
    first, second = differ[..., :BLOCK], differ[..., BLOCK:]
    count = design.differing(n_in_class)[:, np.newaxis]
    feature = design.feature_of_class
    u, w = mean[feature, np.newaxis], weight[:, feature]
    # (block, 1, BLOCK) each
    intercept, y0, residual, target = np.moveaxis(per_unit, 1, 0)[:, :, np.newaxis]
    s1, s2, s3, s4 = np.moveaxis(units.power_sums.sum(axis=1), 1, 0)[:, :, np.newaxis]
    predicted = (mean @ weight)[:, np.newaxis]
    partners = n - 1
    of_others = _counted_means(mean[:, np.newaxis] * weight, design)
    of_products = second - u * s2 - (y0 - predicted) * (count - partners * u)
    square = (1 - 2 * u) * count + partners * u**2
    of_class = [
        2 * w * (of_products + w * square),
        -4 * w * (first - u * s1),
        2 * w * (count - u * n),
        # r^2 has -2 y (b + w.x) + 2 b w.x + (w.x)^2, the last of which has u (w.x) of each feature.
        residual * w * ((2 * intercept + of_others) * count - 2 * second),
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


def _counted_means(predicted: NDArray, design: LevelDesign) -> NDArray:
    """Sum u_k w_k (block, F, BLOCK) as often as a class's feature is in products with k.

    Within a half once; of two halves, only products of the first half with the second are taken,
    twice.
    """
    middle = predicted.shape[1] // 2
    first, second = (part.sum(axis=1, keepdims=True) for part in np.split(predicted, [middle], 1))
    in_first = design.feature_of_class[:, np.newaxis] < middle
    return np.where(in_first, first, 2 * first + second)


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _sum_squares(
    position: NDArray,
    start: NDArray,
    level: NDArray,
    number: tuple[NDArray, NDArray],
    place: tuple[NDArray, NDArray],
    of_combination: tuple[NDArray, NDArray],
    predicted: tuple[NDArray, NDArray],
    of_class: NDArray,
    of_feature: NDArray,
    of_score: NDArray,
    alone: NDArray,
    square: NDArray,
) -> None:
    """Add the squares of sum_j psi of the sentences to `square` (F + 1, BLOCK).

    `position` is (n, BLOCK). Of each half of the features, `number` and `place` are those of
    `mlem_xr.kernels.levels.Half`, `of_combination` is what `_of_combinations` returns, and
    `predicted` (Q, BLOCK) holds sum_j (x_k - u_k) (w.x). `alone` are the features without items;
    the others are those of `_polynomials`.
    """
    n_rows, n_features = level.shape
    (first_number, second_number), (first_place, second_place) = number, place
    (of_first, of_second), (of_first_half, of_second_half) = of_combination, predicted
    power, score = np.empty(4 * BLOCK), np.empty(5 * BLOCK)
    for r in range(n_rows):
        one, other = of_first[first_number[r]], of_second[second_number[r]]
        score[:] = of_score
        for lane in range(3 * BLOCK):
            score[lane] += one[lane] + other[lane]
        # Products of a feature of the first half and one of the second stand in (w.x)^2 twice.
        for k in range(n_features // 2):
            other, w = of_second_half[second_place[r, k]], of_feature[k]
            for lane in range(BLOCK):
                score[lane] += 2.0 * w[BLOCK + lane] * other[lane]
        power[:] = 0.0
        for i in range(start[r], start[r + 1]):
            _add_powers(position[i], power)
        n_sentences = np.float64(start[r + 1] - start[r])
        for k in alone:
            one, other = of_first_half[first_place[r, k]], of_second_half[second_place[r, k]]
            own, w, out = of_class[level[r, k]], of_feature[k], square[k]
            for lane in range(BLOCK):
                p0 = own[lane] + w[lane] * (one[lane] + other[lane])
                p1, p2 = own[BLOCK + lane], own[2 * BLOCK + lane]
                a1, a2 = power[lane], power[BLOCK + lane]
                a3, a4 = power[2 * BLOCK + lane], power[3 * BLOCK + lane]
                # The sum of (p0 + p1 a + p2 a^2)^2.
                out[lane] += (
                    p0 * (p0 * n_sentences + 2.0 * (p1 * a1 + p2 * a2))
                    + p1 * (p1 * a2 + 2.0 * p2 * a3)
                    + p2 * p2 * a4
                )
        out = square[n_features]
        for i in range(start[r], start[r + 1]):
            a = position[i]
            for lane in range(BLOCK):
                value = _quartic(score, a[lane], lane)
                out[lane] += value * value


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _add_powers(a: NDArray, power: NDArray) -> None:
    """Add the first four powers of the positions of a sentence: (4 BLOCK)."""
    for lane in range(BLOCK):
        power[lane] += a[lane]
    for lane in range(BLOCK):
        power[BLOCK + lane] += a[lane] * a[lane]
    for lane in range(BLOCK):
        power[2 * BLOCK + lane] += a[lane] * (a[lane] * a[lane])
    for lane in range(BLOCK):
        power[3 * BLOCK + lane] += (a[lane] * a[lane]) * (a[lane] * a[lane])


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
