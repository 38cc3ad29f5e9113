"""Level sums of single units, and the influence of each sentence on their importances.

Units are worked on in blocks of 64, so that sums of a block become vectors of the processor. All
sums are float64.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numba
import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels import influence
from mlem_xr.kernels.influence import Items, R2Influence
from mlem_xr.kernels.levels import FoldLevels, LevelDesign, LevelSums, Pool
from mlem_xr.kernels.ridge import Fit
from mlem_xr.kernels.statistics import Statistics
from mlem_xr.kernels.targets import BLOCK

FAST = {"contract", "nnan", "ninf", "nsz"}
"""Fast-math without reassociation, so that a result does not depend on the compiler's mood."""


@numba.njit(nogil=True, cache=True)
def count_filled(activation: NDArray) -> NDArray:
    """Count in how many sentences each unit (sentence, unit) is not 0: int32 (unit)."""
    filled = np.zeros(activation.shape[1], np.int32)
    for row in activation:
        for unit in range(len(row)):
            filled[unit] += row[unit] != 0
    return filled


class UnitSums(NamedTuple):
    """Sums of the positions of blocks of units over the sentences that one fold holds out."""

    n: int
    """Number of sentences."""
    class_sums: NDArray
    """Sums of the positions, then of their squares, per subset and class: float64
    (block, 2, C + F, 2 BLOCK); the last classes are those of undefined levels."""
    power_sums: NDArray
    """Sums of the first four powers, per subset: float64 (block, 2, 4, BLOCK)."""

    n_classes: int

    @classmethod
    def empty(cls, n: int, n_blocks: int, design: LevelDesign) -> "UnitSums":
        """Return room for the sums of so many blocks of units over n sentences."""
        n_classes = design.n_classes + len(design.first_class)
        class_sums = np.zeros((n_blocks, 2, n_classes, 2 * BLOCK))
        return cls(n, class_sums, np.zeros((n_blocks, 2, 4, BLOCK)), design.n_classes)

    def level_sums(self, n_units: int) -> tuple[LevelSums, LevelSums]:
        """Return the sums of the train and of the validation part."""
        n_blocks = len(self.class_sums)
        sums = self.class_sums.reshape(n_blocks, 2, -1, 2, BLOCK)
        classes = units_last(sums, n_units)[:, : self.n_classes]
        powers = units_last(self.power_sums, n_units)
        train, validation = (
            LevelSums(p[0][:, np.newaxis], p[1], c[:, 0, :, np.newaxis], c[:, 1])
            for c, p in zip(classes, powers, strict=True)
        )
        return train, validation

    def sums_of_squares(self, n_units: int) -> NDArray:
        """Return the sums of the squared targets over all pairs: (unit)."""
        first, second, third, fourth = units_last(self.power_sums.sum(axis=1), n_units)
        return self.n * fourth - 4 * first * third + 3 * second**2


def units_last(sums: NDArray, n_units: int) -> NDArray:
    """Turn (block, ..., BLOCK) into (..., unit)."""
    moved = np.moveaxis(sums, 0, -2)
    return moved.reshape(*moved.shape[:-2], len(sums) * BLOCK)[..., :n_units]


class Polynomials(NamedTuple):
    """sum_j psi of the sentences of blocks of units as polynomials of their positions.

    All but for products of features. Several numbers of a class stand one after another in a row,
    so that a loop over lanes knows that they are apart.
    """

    of_class: NDArray
    """Coefficients of the polynomial on the importance of k (constant, linear, quadratic), and what
    the class adds to that on R2: float64 (block, C + F, 6 BLOCK)."""
    of_feature: NDArray
    """Factors of sum_j (x_k - u_k) (w.x): in the constant of the first, and of the second:
    float64 (block, F, 2 BLOCK)."""
    of_score: NDArray
    """Coefficients of the polynomial on R2 without what classes add: float64 (block, 5 BLOCK)."""
    weight: NDArray
    """float64 (block, F, BLOCK)"""


class FoldUnits(Protocol):
    """The units over the sentences that one fold holds out."""

    @property
    def sums(self) -> UnitSums:
        """Return the sums of their positions."""

    def squares(
        self, fold: FoldLevels, design: LevelDesign, polynomials: Polynomials, alone: NDArray
    ) -> NDArray:
        """Sum the squares of sum_j psi over sentences: (F + 1, unit), units filled up to blocks.

        On the importance of the features `alone`, which have no items, and on R2, the last.
        """

    def sums_of_sets(self, pool: Pool) -> NDArray:
        """Sum positions, then their squares, per set of sentences: (block, set, 2 BLOCK)."""


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
    n_units, n_blocks = len(fit.weight), len(units.sums.class_sums)
    n_items = len(design.items.feature)
    polynomials = _polynomials(
        units.sums,
        fold.held_out.n_in_class,
        design,
        held_out.regressors.mean,
        _in_blocks(fit.weight.T, n_blocks),
        _in_blocks(np.stack([fit.intercept, held_out.mean, *r2]), n_blocks),
    )
    alone = np.flatnonzero(design.items.number[0] < 0)
    square = units.squares(fold, design, polynomials, alone)
    pooled = _sums_of_items(units.sums_of_sets(fold.pool), fold.pool, polynomials, n_items)
    n_pooled = np.zeros(n_items)
    np.add.at(n_pooled, fold.pool.item, fold.pool.size)
    return InfluenceSums(units.sums.n, square[:, :n_units], units_last(pooled, n_units), n_pooled)


def _in_blocks(values: NDArray, n_blocks: int) -> NDArray:
    """Turn (K, unit) into (block, K, BLOCK), the last block filled up with zeros."""
    filled = np.zeros((len(values), n_blocks * BLOCK))
    filled[:, : values.shape[1]] = values
    return np.ascontiguousarray(filled.reshape(len(values), n_blocks, BLOCK).swapaxes(0, 1))


def _polynomials(
    units: UnitSums,
    n_in_class: NDArray,
    design: LevelDesign,
    mean: NDArray,
    weight: NDArray,
    per_unit: NDArray,
) -> Polynomials:
    """Prepare the polynomials of blocks of units.

    With X, S, Q the number of partners that differ from a class in its feature k, and the sums of
    their positions and squares, sum_j x_k y = X a^2 - 2 a S + Q. Besides the classes, each feature
    has one more, of what does not define it: X = S = Q = 0. `weight` is (block, F, BLOCK), and
    `per_unit` holds the intercept, the mean target and the factors of the influence on R2.
    """
    n = units.n
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
    return Polynomials(
        np.concatenate(of_class, axis=2), of_feature, np.concatenate(of_score, axis=2)[:, 0], weight
    )


def _counted_means(predicted: NDArray, design: LevelDesign) -> NDArray:
    """Sum u_k w_k (block, F, BLOCK) as often as a class's feature is in products with k.

    Within a half once; of two halves, only products of the first half with the second are taken,
    twice.
    """
    middle = predicted.shape[1] // 2
    first, second = (part.sum(axis=1, keepdims=True) for part in np.split(predicted, [middle], 1))
    in_first = design.feature_of_class[:, np.newaxis] < middle
    return np.where(in_first, first, 2 * first + second)


def _sums_of_items(sums: NDArray, pool: Pool, polynomials: Polynomials, n_items: int) -> NDArray:
    """Sum sum_j psi over the sentences of each item, for features of items: (block, I, BLOCK).

    `sums` are those of the positions, then of their squares, per set: (block, set, 2 BLOCK).
    """
    found = np.zeros((len(sums), n_items, BLOCK))
    if not n_items:
        return found
    of_class, weight = polynomials.of_class, polynomials.weight
    constant, linear, square = np.split(of_class[:, pool.level, : 3 * BLOCK], 3, axis=2)
    first, second = np.split(sums[:, pool.which], 2, axis=2)
    total = pool.size[:, np.newaxis] * constant + linear * first + square * second
    total -= 2 * weight[:, pool.feature] * (pool.product @ weight)
    start = np.flatnonzero(np.diff(pool.item, prepend=-1))
    found[:, pool.item[start]] = np.add.reduceat(total, start, axis=1)
    return found


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
