"""Level classes: statistics of squared Euclidean distances without visiting a pair.

The sentences of one level of a feature are a level class. With the number n of sentences of a set
and power sums S_1 ... S_4 of their positions a on a line, the sums over its pairs are

    sum (a_i - a_j)^2 = n S_2 - S_1^2
    sum (a_i - a_j)^4 = n S_4 - 4 S_1 S_3 + 3 S_2^2

A feature distance is all pairs that define the feature, less those within a level; so the sum of
the targets times a feature distance follows from sums over level classes, and the sums over the
partners of a sentence, which errors over sentences need, from its own position and its levels.
Over several axes the squares add up, S_1^2 becomes |S_1|^2, and the sums of fourth powers come from
scalar products.

The sums of x_k x_l over the partners of a sentence depend on its levels of k and l alone. So what a
row of levels predicts is a sum over the two halves of the features, and each half has few distinct
combinations of levels.

Folds are of sentences. Shapes: F features, C classes, R rows (sentences that share all levels),
H combinations of the levels of half of the features, T targets, A axes of a position: a unit has 1,
a layer as many as units.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels.folds import N_FOLDS, TRAIN, VALIDATION, split, too_few
from mlem_xr.kernels.influence import Items, items_of
from mlem_xr.kernels.statistics import FoldStatistics, Regressors, Statistics, crossed


class LevelSet(NamedTuple):
    """What the level sums of a set of sentences need to know."""

    regressors: Regressors
    n_sentences: float
    n_in_class: NDArray
    """Sentences of each class: float64 (C)."""


class Half(NamedTuple):
    """One half of the features."""

    features: slice
    number: NDArray
    """Which combination of its levels each row has: int32 (R)."""
    level: NDArray
    """Class of each feature's level in each combination, as for rows: int32 (H, F of half)."""
    product: NDArray
    """Sums over the partners of a sentence of (x_k - u_k) x_l, where u is the mean of x and l a
    feature of this half, for each level of any k and combination: float64 (Q, F of half)."""
    place: NDArray
    """Where in `product` each row has those of feature k: int32 (R, F)."""
    own_place: NDArray
    """Where each combination has those of the features of this half: int32 (H, F of half)."""


class Pool(NamedTuple):
    """Sentences of a fold that share an item and a level of its feature: E of them.

    Features of the same items have the same sets of sentences, which are numbered once: P ways to
    put the sentences into sets.
    """

    set_of: NDArray
    """Sets that each sentence is in: int32 (n, P)."""
    which: NDArray
    """Number of the set: int64 (E)."""
    feature: NDArray
    """int64 (E)"""
    item: NDArray
    """Ascending: int64 (E)."""
    level: NDArray
    """Class of the feature's level, as for rows: int64 (E)."""
    size: NDArray
    """Number of sentences: float64 (E)."""
    product: NDArray
    """Their sums of (x_k - u_k) x_l over partners, as in `Half`: float64 (E, F)."""

    @property
    def n_sets(self) -> int:
        """Return how many sets there are, of all ways together."""
        return int(self.set_of.max(initial=-1)) + 1


@dataclass(frozen=True, eq=False)
class FoldLevels:
    """The sentences that one fold holds out, sorted by row."""

    sentence: NDArray
    """Which sentences they are: int64 (n)."""
    subset: NDArray
    """Which subset of the other fold's training each is in: int8 (n)."""
    start: NDArray
    """Where each row starts, in `sentence`: int64 (R + 1)."""
    level: NDArray
    """Class of each feature's level, C + k where k is undefined: int32 (R, F)."""
    halves: tuple[Half, ...]
    """The two of them."""
    pool: Pool
    train: LevelSet
    validation: LevelSet
    held_out: LevelSet

    @property
    def row(self) -> NDArray:
        """Return the row of each sentence: int64 (n)."""
        return row_of(self.start)

    def products(self, weight: NDArray) -> NDArray:
        """Sum (x_k - u_k) (w.x) over the partners of a sentence of each row: (R, F, T).

        `weight` is (F, T).
        """
        first, second = self.halves
        total = (first.product @ weight[first.features])[first.place]
        total += (second.product @ weight[second.features])[second.place]
        return total


def row_of(start: NDArray) -> NDArray:
    """Return the row of each sentence, from where rows start: int64 (n)."""
    return np.repeat(np.arange(len(start) - 1), np.diff(start))


@dataclass(frozen=True, eq=False)
class LevelDesign:
    """All that depends on the stimuli alone, a few bytes per sentence and pair of features."""

    first_class: NDArray
    """First class of each feature: int64 (F)."""
    n_classes: int
    items: Items
    folds: Sequence[FoldLevels]

    @property
    def feature_of_class(self) -> NDArray:
        """Feature of each class, then of what does not define each: int64 (C + F)."""
        features = np.arange(len(self.first_class))
        n_levels = np.diff([*self.first_class, self.n_classes])
        return np.concatenate([np.repeat(features, n_levels), features])

    def differing(self, values: NDArray) -> NDArray:
        """Sum over the sentences that differ from those of a class, out of sums per class (C, ...).

        Besides the classes, each feature has one more, of what does not define it: 0.
        """
        of_feature = np.add.reduceat(values, self.first_class, axis=0)
        found = of_feature[self.feature_of_class]
        found[: self.n_classes] -= values
        found[self.n_classes :] = 0.0
        return found


def level_design(codes: NDArray, random_state: int, items: NDArray | None = None) -> LevelDesign:
    """Build the design from codes and items (sentence, feature), once per process.

    Without items, every sentence is one. Raises `Undefined` if a fold has too few sentences to
    train, validate or test.
    """
    codes = np.ascontiguousarray(codes, dtype=np.int32)
    if items is None:
        items = np.broadcast_to(np.arange(len(codes))[:, np.newaxis], codes.shape)
    items = np.ascontiguousarray(items, dtype=np.int32)
    with _building:
        return _cached_design(codes.tobytes(), items.tobytes(), codes.shape, random_state)


_building = threading.Lock()

_ROOM = 8
"""Pairs of levels per row for which there is room for a table."""


# Two designs: a comparison of two options or stimulus sets keeps both, a long session no more.
@lru_cache(maxsize=2)
def _cached_design(
    code_bytes: bytes, item_bytes: bytes, shape: tuple[int, int], random_state: int
) -> LevelDesign:
    codes, drawn = (
        np.frombuffer(table, dtype=np.int32).reshape(shape) for table in (code_bytes, item_bytes)
    )
    items = items_of(drawn)
    # A feature that is defined nowhere has a class without sentences.
    n_levels = np.maximum(codes.max(axis=0) + 1, 1)
    first_class = np.concatenate([[0], np.cumsum(n_levels)[:-1]])
    n_classes = int(n_levels.sum())
    undefined = n_classes + np.arange(codes.shape[1])
    level = np.where(codes < 0, undefined, codes + first_class).astype(np.int32)
    held_out, subset = split(len(codes), random_state)
    folds = []
    for fold in range(N_FOLDS):
        own = np.flatnonzero(held_out == fold)
        sizes = np.bincount(subset[own], minlength=2)
        if sizes.min() < 2:
            raise too_few(len(codes), "sentences")
        folds.append(_fold_levels(own, level, subset, items.number, n_classes))
    return LevelDesign(first_class, n_classes, items, folds)


def _fold_levels(
    own: NDArray, level: NDArray, subset: NDArray, item: NDArray, n_classes: int
) -> FoldLevels:
    middle = level.shape[1] // 2
    features = slice(0, middle), slice(middle, None)
    # In the order of the second half, so that what is looked up of it stays in cache.
    first, second = (_combinations(level[own, part]) for part in features)
    key = second * (first.max() + 1) + first
    order = np.argsort(key, kind="stable")
    sentence, key = own[order], key[order]
    subset = subset[sentence]
    start = np.flatnonzero(np.diff(key, prepend=-1, append=-1))
    rows, row = level[sentence[start[:-1]]], row_of(start)
    count = np.stack(
        [
            np.bincount(row, chosen, minlength=len(rows)).astype(np.float64)
            for chosen in (subset == TRAIN, subset == VALIDATION, np.ones(len(own)))
        ]
    )
    xx, products = differing(np.minimum(rows, n_classes), count, n_classes)
    in_class = [np.bincount(rows.ravel(), n.repeat(rows.shape[1]), n_classes) for n in count]
    train, validation, held_out = (
        LevelSet(Regressors(n * (n - 1) / 2, np.diag(total).copy(), total), n, sums[:n_classes])
        for n, total, sums in zip(count.sum(axis=1).tolist(), products, in_class, strict=True)
    )
    products_of = _Products(xx, held_out.regressors.mean)
    halves = tuple(_half(part, rows, products_of) for part in features)
    pool = _pool(item[sentence], row, rows, products_of)
    return FoldLevels(sentence, subset, start, rows, halves, pool, train, validation, held_out)


class _Products(NamedTuple):
    """Sums over the partners of a sentence of (x_k - u_k) x_l, as they stand in psi."""

    xx: NDArray
    """Of x_k x_l: (R, F, F)."""
    mean: NDArray
    """u: (F)"""

    def of(self, k: int, row: NDArray, features: slice) -> NDArray:
        """Return those of feature k, some rows, and x_l of some features."""
        x = np.einsum("rkk->rk", self.xx)
        return self.xx[row, k, features] - self.mean[k] * x[row, features]


def _half(features: slice, rows: NDArray, products_of: _Products) -> Half:
    number = _combinations(rows[:, features])
    place, products, n = np.empty(rows.shape, np.int32), [], 0
    for k, column in enumerate(rows.T):
        own, example = _numbered(number, column)
        place[:, k] = own + n
        products.append(products_of.of(k, example, features))
        n += len(example)
    _, example = _numbered(number, np.zeros_like(number))
    level, own_place = (np.ascontiguousarray(of_row[example, features]) for of_row in (rows, place))
    return Half(
        features, number.astype(np.int32), level, np.concatenate(products), place, own_place
    )


def _combinations(level: NDArray) -> NDArray:
    """Give each combination of levels a number: int64 (row)."""
    number = np.zeros(len(level), np.int64)
    for column in level.T:
        number, _ = _numbered(number, column)
    return number


def _numbered(first: NDArray, second: NDArray) -> tuple[NDArray, NDArray]:
    """Give pairs of whole numbers a number; return those, and where each pair is first."""
    n_second = int(second.max(initial=0)) + 1
    pair = first * np.int64(n_second) + second
    n_pairs = (int(first.max(initial=0)) + 1) * n_second
    if n_pairs > _ROOM * len(pair):
        pair = np.unique(pair, return_inverse=True)[1].ravel()
        n_pairs = len(pair)
    return _number(pair, n_pairs)


@numba.njit(nogil=True, cache=True)
def _number(values: NDArray, n_values: int) -> tuple[NDArray, NDArray]:
    """Give values below `n_values` a number each, in the order in which they come."""
    number_of, number = np.full(n_values, -1), np.empty(len(values), np.int64)
    first, n = np.empty(len(values), np.int64), 0
    for i in range(len(values)):
        if number_of[values[i]] < 0:
            number_of[values[i]] = n
            first[n] = i
            n += 1
        number[i] = number_of[values[i]]
    return number, first[:n]


def _pool(item: NDArray, row: NDArray, rows: NDArray, products_of: _Products) -> Pool:
    """Put sentences (n, F), whose own items are -1, into sets."""
    ways: dict[bytes, NDArray] = {}
    parts, products = [np.zeros((5, 0), np.int64)], [np.zeros((0, item.shape[1]))]
    for k in np.flatnonzero(item[0] >= 0).tolist():
        level = rows[row, k]
        number, first = _numbered(item[:, k], level)
        n_before = 1 + max((int(way.max()) for way in ways.values()), default=-1)
        way = ways.setdefault(number.tobytes(), number + n_before)
        size, feature = np.bincount(number), np.full(len(first), k)
        part = np.stack([way[first], feature, item[first, k], level[first], size])
        order = np.argsort(number, kind="stable")
        own = products_of.of(k, row[order], slice(None))
        sums = np.add.reduceat(own, np.cumsum(size) - size)
        by_item = np.argsort(item[first, k], kind="stable")
        parts.append(part[:, by_item])
        products.append(sums[by_item])
    which, feature, of_item, level, size = np.concatenate(parts, axis=1)
    set_of = np.stack([np.zeros(len(row)), *ways.values()], axis=1)[:, 1:].astype(np.int32)
    return Pool(
        set_of, which, feature, of_item, level, size.astype(np.float64), np.concatenate(products)
    )


@numba.njit(nogil=True, cache=True)
def center(position: NDArray, subset: NDArray, rounding: NDArray) -> None:
    """Subtract a center from the positions of the sentences of a fold (n, axis), in place.

    Along an axis where those of a subset differ by rounding alone (axis), it is what they all are,
    and theirs become 0: so what is constant in a subset, or in the fold, is exactly so. Elsewhere
    it is the mean, so that squares keep their digits.
    """
    n_axes = position.shape[1]
    low, high = np.full((2, n_axes), np.inf), np.full((2, n_axes), -np.inf)
    total, n = np.zeros((2, n_axes)), np.zeros(2)
    for i in range(len(position)):
        s, own = subset[i], position[i]
        n[s] += 1
        for k in range(n_axes):
            low[s, k] = min(low[s, k], own[k])
            high[s, k] = max(high[s, k], own[k])
            total[s, k] += own[k]
    middle = total[TRAIN] / n[TRAIN]
    for k in range(n_axes):
        first, last, other = low[TRAIN, k], high[TRAIN, k], low[VALIDATION, k]
        if last - first <= rounding[k]:
            middle[k] = first
        # What is far from the others would cost these their digits.
        elif high[VALIDATION, k] - other <= rounding[k] and first <= other <= last:
            middle[k] = other
    # Below 0 where those of a subset are not all the same: none of them becomes 0.
    most = np.where(high - low <= rounding, rounding, -1.0)
    for i in range(len(position)):
        s, own = subset[i], position[i]
        for k in range(n_axes):
            moved = own[k] - middle[k]
            own[k] = moved if abs(moved) > most[s, k] else 0.0


def differing(rows: NDArray, count: NDArray, undefined: int) -> tuple[NDArray, NDArray]:
    """Count the sentences that differ from a row in two features, or in one on the diagonal.

    Those that define both, less those with the same level of the one, less those with the same of
    the other, plus those with the same of both. `rows` (R, F) are levels, `undefined` where there
    is none, `count` (S, R) says how many sentences of each row are in some sets. Returns them for
    the last set, (R, F, F) float32; and, for all sets, their sums over the pairs (S, F, F).
    """
    n_rows, n_features = rows.shape
    local = np.stack([np.unique(column, return_inverse=True)[1] for column in rows.T], axis=1)
    local = np.where(rows == undefined, -1, local)
    n_levels = local.max(axis=0) + 1
    xx = np.empty((n_features, n_features, n_rows), np.float32)
    products = np.empty((len(count), n_features, n_features))
    for k in range(n_features):
        for j in range(k + 1):
            both = local[:, k] * n_levels[j] + local[:, j]
            n_both = n_levels[k] * n_levels[j]
            if n_both > _ROOM * n_rows:
                both = np.unique(both, return_inverse=True)[1].ravel()
                n_both = both.max() + 1
            sums = _differ(local[:, k], local[:, j], both, int(n_both), count, xx[k, j])
            products[:, k, j] = products[:, j, k] = sums
            xx[j, k] = xx[k, j]
    return np.moveaxis(xx, -1, 0), products


@numba.njit(nogil=True, cache=True)
def _differ(
    first: NDArray, second: NDArray, both: NDArray, n_both: int, count: NDArray, out: NDArray
) -> NDArray:
    """Count for two features; `both` numbers pairs of levels. Fills `out`, returns sums: (S)."""
    sums = np.zeros(len(count))
    n_first, n_second = first.max() + 1, second.max() + 1
    for s in range(len(count)):
        whole = 0.0
        of_first, of_second, of_both = np.zeros(n_first), np.zeros(n_second), np.zeros(n_both)
        for r in range(len(first)):
            if first[r] >= 0 and second[r] >= 0:
                n = count[s, r]
                whole += n
                of_first[first[r]] += n
                of_second[second[r]] += n
                of_both[both[r]] += n
        same_in_one = (of_first**2).sum() + (of_second**2).sum()
        sums[s] = (whole**2 - same_in_one + (of_both**2).sum()) / 2
    for r in range(len(first)):
        out[r] = 0.0
        if first[r] >= 0 and second[r] >= 0:
            out[r] = whole - of_first[first[r]] - of_second[second[r]] + of_both[both[r]]
    return sums


class LevelSums(NamedTuple):
    """Power sums of the positions of a set of sentences, per target."""

    first: NDArray
    """Sums of the positions: (T, A)."""
    second: NDArray
    """Sums of the squared norms: (T)."""
    class_first: NDArray
    """Sums of the positions per class: (C, T, A)."""
    class_second: NDArray
    """Sums of the squared norms per class: (C, T)."""

    def joined(self, other: "LevelSums") -> "LevelSums":
        """Take both sets together."""
        return LevelSums(*(a + b for a, b in zip(self, other, strict=True)))


def level_statistics(
    chosen: LevelSet, sums: LevelSums, yy: NDArray, first_class: NDArray
) -> Statistics:
    """Turn level sums into sums over pairs; `yy` are the sums of squared targets (T)."""

    def within(n: NDArray, first: NDArray, second: NDArray) -> NDArray:
        return n[:, np.newaxis] * second - np.einsum("cta,cta->ct", first, first)

    def by_feature(values: NDArray) -> NDArray:
        return np.add.reduceat(values, first_class, axis=0)

    n, first, second = chosen.n_in_class, sums.class_first, sums.class_second
    whole = within(by_feature(n), by_feature(first), by_feature(second))
    xy = (whole - by_feature(within(n, first, second))).T
    y = chosen.n_sentences * sums.second - np.einsum("ta,ta->t", sums.first, sums.first)
    return Statistics(chosen.regressors, y, np.ascontiguousarray(xy), yy)


def fold_statistics(
    design: LevelDesign, sums: Sequence[tuple[LevelSums, LevelSums]], yy: Sequence[NDArray]
) -> list[FoldStatistics]:
    """Turn level sums into what each fold needs.

    `sums` are, per fold, those of the train and of the validation part of the sentences that it
    holds out; `yy` the sums of squared targets over its held-out pairs (T).
    """
    whole = []
    for fold, (train, validation), squared in zip(design.folds, sums, yy, strict=True):
        sets = (
            (fold.train, train),
            (fold.validation, validation),
            (fold.held_out, train.joined(validation)),
        )
        whole.append([level_statistics(*each, squared, design.first_class) for each in sets])
    return crossed(whole)
