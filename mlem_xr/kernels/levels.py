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

Folds are of sentences. Shapes: F features, C classes, R rows (sentences that share all levels),
T targets, A axes of a position: a unit has 1, a layer as many as units.
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
from mlem_xr.kernels.statistics import FoldStatistics, Regressors, Statistics, crossed


class LevelSet(NamedTuple):
    """What the level sums of a set of sentences need to know."""

    regressors: Regressors
    n_sentences: float
    n_in_class: NDArray
    """Sentences of each class: float64 (C)."""


@dataclass(frozen=True)
class FoldLevels:
    """The sentences that one fold holds out, sorted by row."""

    sentence: NDArray
    """Which sentences they are: int64 (n)."""
    subset: NDArray
    """Which subset of the other fold's training each is in: int8 (n)."""
    start: NDArray
    """Where each row starts, in `sentence`: int64 (R + 1)."""
    level: NDArray
    """Class of each feature's level, C where undefined: int32 (R, F)."""
    xx: NDArray
    """Sums of x_k x_l over the partners of a sentence: (R, F, F), whole numbers as float32."""
    train: LevelSet
    validation: LevelSet
    held_out: LevelSet

    @property
    def row(self) -> NDArray:
        """Return the row of each sentence: int64 (n)."""
        return np.repeat(np.arange(len(self.level)), np.diff(self.start))


@dataclass(frozen=True)
class LevelDesign:
    """All that depends on the stimuli alone, a few bytes per sentence and pair of features."""

    first_class: NDArray
    """First class of each feature: int64 (F)."""
    n_classes: int
    folds: Sequence[FoldLevels]


def level_design(codes: NDArray, random_state: int) -> LevelDesign:
    """Build the design from feature codes (sentence, feature), once per process.

    Raises `Undefined` if a fold has too few sentences to train, validate or test.
    """
    codes = np.ascontiguousarray(codes, dtype=np.int32)
    with _building:
        return _cached_design(codes.tobytes(), codes.shape, random_state)


_building = threading.Lock()

_ROOM = 8
"""Pairs of levels per row for which there is room for a table."""


# Two designs: a comparison of two options or stimulus sets keeps both, a long session no more.
@lru_cache(maxsize=2)
def _cached_design(code_bytes: bytes, shape: tuple[int, int], random_state: int) -> LevelDesign:
    codes = np.frombuffer(code_bytes, dtype=np.int32).reshape(shape)
    # A feature that is defined nowhere has a class without sentences.
    n_levels = np.maximum(codes.max(axis=0) + 1, 1)
    first_class = np.concatenate([[0], np.cumsum(n_levels)[:-1]])
    n_classes = int(n_levels.sum())
    level = np.where(codes < 0, n_classes, codes + first_class).astype(np.int32)
    held_out, subset = split(len(codes), random_state)
    folds = []
    for fold in range(N_FOLDS):
        own = np.flatnonzero(held_out == fold)
        sizes = np.bincount(subset[own], minlength=2)
        if sizes.min() < 2:
            raise too_few(len(codes), "sentences")
        folds.append(_fold_levels(own, level, subset, n_classes))
    return LevelDesign(first_class, n_classes, folds)


def _fold_levels(own: NDArray, level: NDArray, subset: NDArray, n_classes: int) -> FoldLevels:
    order = np.lexsort(level[own].T)
    sentence = own[order]
    sorted_level, subset = level[sentence], subset[sentence]
    new = np.append(True, (sorted_level[1:] != sorted_level[:-1]).any(axis=1))
    start = np.append(np.flatnonzero(new), len(own))
    rows, row = sorted_level[start[:-1]], np.cumsum(new) - 1
    count = np.stack(
        [
            np.bincount(row, chosen, minlength=len(rows)).astype(np.float64)
            for chosen in (subset == TRAIN, subset == VALIDATION, np.ones(len(own)))
        ]
    )
    xx, products = differing(rows, count, n_classes)
    in_class = np.zeros((len(count), n_classes + 1))
    for sums, one in zip(in_class, count, strict=True):
        np.add.at(sums, rows, one[:, np.newaxis])
    train, validation, held_out = (
        LevelSet(Regressors(n * (n - 1) / 2, np.diag(total).copy(), total), n, sums[:-1])
        for n, total, sums in zip(count.sum(axis=1).tolist(), products, in_class, strict=True)
    )
    return FoldLevels(sentence, subset, start, rows, xx, train, validation, held_out)


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
    xx = np.empty((n_rows, n_features, n_features), np.float32)
    products = np.empty((len(count), n_features, n_features))
    for k in range(n_features):
        for j in range(k + 1):
            both = local[:, k] * n_levels[j] + local[:, j]
            n_both = n_levels[k] * n_levels[j]
            if n_both > _ROOM * n_rows:
                both = np.unique(both, return_inverse=True)[1].ravel()
                n_both = both.max() + 1
            sums = _differ(local[:, k], local[:, j], both, int(n_both), count, xx[:, k, j])
            products[:, k, j] = products[:, j, k] = sums
            xx[:, j, k] = xx[:, k, j]
    return xx, products


@numba.njit(nogil=True, cache=True)
def _differ(
    first: NDArray, second: NDArray, both: NDArray, n_both: int, count: NDArray, out: NDArray
) -> NDArray:
    """Count for two features; `both` numbers pairs of levels. Fills `out`, returns sums: (S)."""
    sums = np.zeros(len(count))
    for s in range(len(count)):
        whole = 0.0
        of_first, of_second = np.zeros(first.max() + 2), np.zeros(second.max() + 2)
        of_both = np.zeros(n_both)
        for r in range(len(first)):
            if first[r] >= 0 and second[r] >= 0:
                n = count[s, r]
                whole += n
                of_first[first[r]] += n
                of_second[second[r]] += n
                of_both[both[r]] += n
        for r in range(len(first)):
            n = 0.0
            if first[r] >= 0 and second[r] >= 0:
                n = whole - of_first[first[r]] - of_second[second[r]] + of_both[both[r]]
            sums[s] += count[s, r] * n / 2
            out[r] = n
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
