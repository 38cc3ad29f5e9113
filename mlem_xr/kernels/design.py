"""Feature codes -> the design of all pairs: covariate patterns, folds and subsets.

The prediction of a metric depends on a pair only through its row of feature distances. n sentences
have n (n - 1) / 2 pairs but few distinct rows, the covariate patterns; every analysis of pairs
becomes an analysis of patterns.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels.conditional import residuals
from mlem_xr.kernels.errors import Undefined
from mlem_xr.kernels.moments import SortedPairs
from mlem_xr.kernels.patterns import pair_patterns, sort_pairs
from mlem_xr.kernels.permutation import Permutation, permute
from mlem_xr.kernels.ridge import FoldRegressors, regressors

N_FOLDS = 2
"""Cross-validation folds; a fold is trained on the pairs that are held out in the other one."""

_TRAIN_SIZE = 0.8
_TRAIN, _VALIDATION, _ACROSS = 0, 1, 2


@dataclass(frozen=True)
class PairDesign:
    """All that depends on the stimuli alone, a few bytes per pair."""

    pattern: NDArray
    """Feature distances of each covariate pattern: float64 (pattern, feature)."""
    n_pairs: NDArray
    """Pairs per (fold, subset, pattern): float64. A pair's fold is the one that holds it out; its
    subset is its part in the training of the other fold: train, validation or, for
    folds="sentences" alone, a training with a validation sentence (used when the metric is refit
    on both)."""
    pairs: SortedPairs
    """The pairs, sorted by (fold, subset, pattern)."""
    random_state: int
    """Seed of the splits, and of the forests of conditional permutations."""
    _permutations: dict[bool | str, list[Permutation]] = field(default_factory=dict)

    @cached_property
    def n_held_out(self) -> NDArray:
        """Pairs that each fold holds out: (fold, pattern)."""
        return self.n_pairs.sum(axis=1)

    @cached_property
    def regressors(self) -> Sequence[FoldRegressors]:
        """The patterns of each fold as it is trained."""
        return [
            FoldRegressors(
                regressors(self.pattern, self.n_pairs[1 - fold, _TRAIN]),
                regressors(self.pattern, self.n_pairs[1 - fold, _VALIDATION]),
                regressors(self.pattern, self.n_held_out[1 - fold]),
            )
            for fold in range(N_FOLDS)
        ]

    def permutations(self, conditional: bool | str) -> Sequence[Permutation]:
        """Return what permuting does in each fold, to the features or to their residuals."""
        with _building:
            if conditional not in self._permutations:
                self._permutations[conditional] = [
                    permute(self._permuted(count, conditional), count) for count in self.n_held_out
                ]
            return self._permutations[conditional]

    def _permuted(self, count: NDArray, conditional: bool | str) -> NDArray:
        if not conditional:
            return self.pattern
        return residuals(self.pattern, count, conditional, self.random_state)


def pair_design(codes: NDArray, *, folds: str = "pairs", random_state: int = 0) -> PairDesign:
    """Build the design of all pairs from feature codes (sentence, feature), once per process.

    Workers call this with the small table; nothing of the size of the pairs travels between them.
    It takes 4 bytes per pair below 65,536 sentences. Raises `Undefined` if a fold has too few pairs
    to train, validate or test.
    """
    codes = np.ascontiguousarray(codes, dtype=np.int32)
    with _building:
        return _cached_design(codes.tobytes(), codes.shape, folds, random_state)


_building = threading.Lock()


# Two designs: a comparison of two options or stimulus sets keeps both, a long session no more.
@lru_cache(maxsize=2)
def _cached_design(
    code_bytes: bytes, shape: tuple[int, int], folds: str, random_state: int
) -> PairDesign:
    codes = np.frombuffer(code_bytes, dtype=np.int32).reshape(shape)
    n = len(codes)
    pattern, index = pair_patterns(codes)
    label = fold_labels(n, folds=folds, random_state=random_state)
    n_subsets = 2 if folds == "pairs" else 3
    group = np.where(label >= 0, label.astype(np.int32) * len(pattern) + index, -1)
    del index, label
    kept = int(np.count_nonzero(group >= 0))
    unsigned = np.uint16 if n <= np.iinfo(np.uint16).max else np.uint32
    first, second = np.empty(kept, unsigned), np.empty(kept, unsigned)
    start = sort_pairs(group, N_FOLDS * n_subsets * len(pattern), first, second, n)
    count = np.diff(start).reshape(N_FOLDS, n_subsets, len(pattern)).astype(np.float64)
    if (count.sum(axis=2)[:, [_TRAIN, _VALIDATION]] == 0).any():
        raise Undefined(
            f"folds: {n} sentences leave a fold of {folds!r} without training or validation "
            f"pairs; expected more sentences, or folds='pairs'"
        )
    pairs = SortedPairs(first, second, start)
    return PairDesign(pattern.astype(np.float64), count, pairs, random_state)


def fold_labels(n_sentences: int, *, folds: str, random_state: int) -> NDArray:
    """Assign every pair to the fold that holds it out and to its subset in the other fold.

    `pairs`: scikit-learn's `KFold(2, shuffle=True)` over pairs in upper-triangle order; inside each
    training set `train_test_split(train_size=0.8)` sets validation pairs aside, both with
    `random_state`. `sentences`: the same over sentences; pairs of sentences of different folds are
    left out. Returns int8 (pair): fold x n_subsets + subset, -1 for pairs left out. There are 2
    subsets (train, validation) of pairs, and 3 of sentences (the third: one training and one
    validation sentence).
    """
    if folds == "pairs":
        return _split(n_sentences * (n_sentences - 1) // 2, 2, random_state)
    label = _split(n_sentences, 3, random_state)
    fold, subset = np.divmod(label, 3)
    pair_label = np.empty(n_sentences * (n_sentences - 1) // 2, np.int8)
    start = 0
    for i in range(n_sentences - 1):
        row = np.where(subset[i] == subset[i + 1 :], subset[i], _ACROSS) + 3 * fold[i]
        stop = start + len(row)
        pair_label[start:stop] = np.where(fold[i] == fold[i + 1 :], row, -1)
        start = stop
    return pair_label


def _split(n: int, n_subsets: int, random_state: int) -> NDArray:
    from sklearn.model_selection import KFold, train_test_split

    label = np.empty(n, np.int8)
    splitter = KFold(N_FOLDS, shuffle=True, random_state=random_state)
    for fold, (training, _) in enumerate(splitter.split(np.empty((n, 0), np.int8))):
        train, validation = train_test_split(
            training, train_size=_TRAIN_SIZE, random_state=random_state
        )
        heldout_elsewhere = (1 - fold) * n_subsets
        label[train] = heldout_elsewhere + _TRAIN
        label[validation] = heldout_elsewhere + _VALIDATION
    return label
