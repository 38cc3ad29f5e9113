"""Level sums of units that are seldom 0, and the influence of each sentence on their importances.

Units are worked on in blocks of 64, so that sums of a block become vectors of the processor.
"""

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels.levels import FoldLevels, LevelDesign, Pool, center
from mlem_xr.kernels.targets import BLOCK
from mlem_xr.kernels.unit_levels import FAST, Polynomials, UnitSums, units_last


class DenseUnits(NamedTuple):
    """The units over the sentences that one fold holds out."""

    position: NDArray
    """Positions, less their `center`: float64 (block, n, BLOCK), 0 in lanes without a unit."""
    sums: UnitSums

    def squares(
        self, fold: FoldLevels, design: LevelDesign, polynomials: Polynomials, alone: NDArray
    ) -> NDArray:
        """Sum the squares of sum_j psi; see `FoldUnits`."""
        square = np.zeros((len(self.position), fold.level.shape[1] + 1, BLOCK))
        for block, out in enumerate(square):
            of_block = Polynomials(*(part[block] for part in polynomials))
            _add_squares(self.position[block], fold, of_block, alone, out)
        return units_last(square, len(square) * BLOCK)

    def sums_of_sets(self, pool: Pool) -> NDArray:
        """Sum positions and squares per set of sentences; see `FoldUnits`."""
        sums = np.zeros((len(self.position), pool.n_sets, 2 * BLOCK))
        _sum_sets(self.position, pool.set_of, sums)
        return sums


def fold_units(position: NDArray, rounding: NDArray, design: LevelDesign) -> list[DenseUnits]:
    """Sum positions (sentence, unit) over the level classes of both folds.

    They are centered in each fold, which changes no difference. `rounding` says by how much
    rounding may let each unit vary: (unit).
    """
    n_blocks = -(-position.shape[1] // BLOCK)
    of_lane = np.zeros((n_blocks, BLOCK))
    of_lane.flat[: len(rounding)] = rounding
    folds = []
    for fold in design.folds:
        n = len(fold.sentence)
        own, sums = np.zeros((n_blocks, n, BLOCK)), UnitSums.empty(n, n_blocks, design)
        _load(position, fold.sentence, own)
        for block in range(n_blocks):
            center(own[block], fold.subset, of_lane[block])
            _sum_levels(own[block], fold, sums.class_sums[block], sums.power_sums[block])
        folds.append(DenseUnits(own, sums))
    return folds


@numba.njit(nogil=True, cache=True)
def _load(position: NDArray, sentence: NDArray, out: NDArray) -> None:
    """Fill `out` (block, n, BLOCK) with the positions of these sentences."""
    n_units = position.shape[1]
    for i in range(len(sentence)):
        row = position[sentence[i]]
        for block in range(len(out)):
            first = block * BLOCK
            for unit in range(first, min(first + BLOCK, n_units)):
                out[block, i, unit - first] = row[unit]


def _sum_levels(
    position: NDArray,
    fold: FoldLevels,
    class_sums: NDArray,
    power_sums: NDArray,
) -> None:
    """Add up a block of units (n, BLOCK) per row of levels, and rows per class."""
    first, second = fold.halves
    one, other = (np.zeros((2, len(half.level), 2 * BLOCK)) for half in fold.halves)
    numbers = first.number, second.number
    _sum_rows(position, fold.subset, fold.start, *numbers, one, other, power_sums)
    _sum_classes(one, first.level, class_sums)
    _sum_classes(other, second.level, class_sums)


@numba.njit(nogil=True, cache=True, fastmath=FAST)
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


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _sum_classes(sums: NDArray, level: NDArray, class_sums: NDArray) -> None:
    """Add sums of combinations of levels (2, H, 2 BLOCK) to those of their classes."""
    for s in range(2):
        for h in range(len(level)):
            own = sums[s, h]
            for c in level[h]:
                total = class_sums[s, c]
                for lane in range(2 * BLOCK):
                    total[lane] += own[lane]


def _add_squares(
    position: NDArray, fold: FoldLevels, polynomials: Polynomials, alone: NDArray, square: NDArray
) -> None:
    """Add up the squares of a block of units (n, BLOCK): (F + 1, BLOCK)."""
    of_class, of_feature, of_score, weight = polynomials
    first, second = fold.halves
    # sum_j (x_k - u_k) (w.x), of the features of either half in w.x.
    one, other = (half.product @ weight[half.features] for half in fold.halves)
    of_one, of_other = (
        _of_combinations(
            of_class, of_feature, own, half.level, half.own_place, half.features.start or 0
        )
        for half, own in ((first, one), (second, other))
    )
    _sum_squares(
        position,
        fold.start,
        fold.level,
        (first.number, second.number),
        (first.place, second.place),
        (of_one, of_other),
        (one, other),
        of_class,
        of_feature,
        of_score,
        alone,
        square,
    )


@numba.njit(nogil=True, cache=True, fastmath=FAST)
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


@numba.njit(nogil=True, cache=True, fastmath=FAST)
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


@numba.njit(nogil=True, cache=True, fastmath=FAST)
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
    the others are those of `Polynomials`.
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


@numba.njit(nogil=True, cache=True, fastmath=FAST)
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


@numba.njit(nogil=True, cache=True, fastmath=FAST, inline="always")
def _quartic(coefficient: NDArray, a: float, lane: int) -> float:
    c3, c4 = coefficient[3 * BLOCK + lane], coefficient[4 * BLOCK + lane]
    c1, c2 = coefficient[BLOCK + lane], coefficient[2 * BLOCK + lane]
    return coefficient[lane] + a * (c1 + a * (c2 + a * (c3 + a * c4)))
