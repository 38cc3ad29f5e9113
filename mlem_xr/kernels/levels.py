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


# Two designs: a comparison of two options or stimulus sets keeps both, a long session no more.
@lru_cache(maxsize=2)
def _cached_design(code_bytes: bytes, shape: tuple[int, int], random_state: int) -> LevelDesign:
    codes = np.frombuffer(code_bytes, dtype=np.int32).reshape(shape)
    n_levels = codes.max(axis=0) + 1
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
    rows, row = np.unique(level[own], axis=0, return_inverse=True)
    order = np.argsort(row.ravel(), kind="stable")
    sentence, row = own[order], row.ravel()[order]
    subset = subset[sentence]

    def level_set(chosen: NDArray) -> tuple[LevelSet, NDArray]:
        count = np.bincount(row[chosen], minlength=len(rows)).astype(np.float64)
        xx = differing(rows, count, n_classes)
        n = float(count.sum())
        total = np.einsum("r,rkl->kl", count, xx, dtype=np.float64, casting="same_kind") / 2
        in_class = np.zeros(n_classes + 1)
        np.add.at(in_class, rows, count[:, np.newaxis])
        sums = Regressors(n * (n - 1) / 2, np.diag(total).copy(), total)
        return LevelSet(sums, n, in_class[:-1]), xx

    held_out, xx = level_set(np.ones(len(own), bool))
    return FoldLevels(
        sentence=sentence,
        subset=subset,
        start=np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(rows)))]),
        level=rows,
        xx=xx,
        train=level_set(subset == TRAIN)[0],
        validation=level_set(subset == VALIDATION)[0],
        held_out=held_out,
    )


def differing(rows: NDArray, count: NDArray, undefined: int) -> NDArray:
    """Count, for each row, the sentences that differ from it in two features: (R, F, F) float32.

    On the diagonal, in one. `rows` (R, F) are levels, `undefined` where there is none, `count` (R)
    how many sentences there are of each. Differing in k and l: all that define both, less those
    with the same level of k, less those with the same of l, plus those with the same of both.
    """
    n_rows, n_features = rows.shape
    defined = rows != undefined
    result = np.empty((n_rows, n_features, n_features), np.float32)
    for k in range(n_features):
        for j in range(k + 1):
            both = defined[:, k] & defined[:, j]
            weight = np.where(both, count, 0.0)
            same_k, same_j = (np.bincount(rows[:, f], weight)[rows[:, f]] for f in (k, j))
            pair = rows[:, k].astype(np.int64) * (undefined + 1) + rows[:, j]
            index = np.unique(pair, return_inverse=True)[1].ravel()
            same_both = np.bincount(index, weight)[index]
            differ = weight.sum() - same_k - same_j + same_both
            result[:, k, j] = result[:, j, k] = np.where(both, differ, 0.0)
    return result


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

    def __add__(self, other: "LevelSums") -> "LevelSums":  # type: ignore[override]
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
            (fold.held_out, train + validation),
        )
        whole.append([level_statistics(*each, squared, design.first_class) for each in sets])
    return crossed(whole)
