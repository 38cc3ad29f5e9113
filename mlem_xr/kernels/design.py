"""Features -> the design of all pairs: covariate patterns, folds and subsets.

The prediction of a metric depends on a pair only through its row of feature distances. n sentences
have n (n - 1) / 2 pairs but few distinct rows, the covariate patterns; every analysis of pairs
becomes an analysis of patterns.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels.conditional import residuals
from mlem_xr.kernels.features import Features
from mlem_xr.kernels.folds import N_FOLDS, TRAIN, VALIDATION, pair_labels, too_few
from mlem_xr.kernels.moments import SortedPairs
from mlem_xr.kernels.patterns import pair_patterns, sort_pairs
from mlem_xr.kernels.permutation import PairPermutation, permute
from mlem_xr.kernels.statistics import Regressors, regressors


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
    _permutations: dict[Any, list[PairPermutation]] = field(default_factory=dict)

    @cached_property
    def n_held_out(self) -> NDArray:
        """Pairs that each fold holds out: (fold, pattern)."""
        return self.n_pairs.sum(axis=1)

    @cached_property
    def regressors(self) -> Sequence[tuple[Regressors, Regressors, Regressors]]:
        """Sums over the train pairs, the validation pairs, and all pairs that a fold holds out."""
        return [
            (
                regressors(self.pattern, self.n_pairs[fold, TRAIN]),
                regressors(self.pattern, self.n_pairs[fold, VALIDATION]),
                regressors(self.pattern, self.n_held_out[fold]),
            )
            for fold in range(N_FOLDS)
        ]

    def permutations(
        self, conditional: bool | str, group: tuple[bool, ...] | None = None
    ) -> Sequence[PairPermutation]:
        """Return what permuting does in each fold, to the features or to their residuals.

        `group` says which features are permuted together: none of them predicts another one then.
        """
        key = (conditional, group if conditional else None)
        with _building:
            if key not in self._permutations:
                self._permutations[key] = [
                    permute(self._permuted(count, *key), count) for count in self.n_held_out
                ]
            return self._permutations[key]

    def _permuted(
        self, count: NDArray, conditional: bool | str, group: tuple[bool, ...] | None
    ) -> NDArray:
        if not conditional:
            return self.pattern
        together = None if group is None else np.array(group)
        return residuals(self.pattern, count, conditional, self.random_state, together)


def pair_design(
    features: Features, *, folds: str = "pairs", random_state: int = 0, most: int | None = None
) -> PairDesign | None:
    """Build the design of all pairs, once per process.

    Workers call this with the small table; nothing of the size of the pairs travels between them.
    It takes 4 bytes per pair below 65,536 sentences. None if there are no patterns, or more than
    `most`. Raises `Undefined` if a fold has too few pairs to train, validate or test.
    """
    with _building:
        return _cached_design(features, folds, random_state, most)


_building = threading.Lock()


# Two designs: a comparison of two options or stimulus sets keeps both, a long session no more.
@lru_cache(maxsize=2)
def _cached_design(
    features: Features, folds: str, random_state: int, most: int | None
) -> PairDesign | None:
    found = pair_patterns(features, most)
    if found is None:
        return None
    (pattern, index), n = found, len(features.codes)
    label, n_subsets = pair_labels(n, folds=folds, random_state=random_state)
    group = np.where(label >= 0, label.astype(np.int32) * len(pattern) + index, -1)
    del index, label
    kept = int(np.count_nonzero(group >= 0))
    unsigned = np.uint16 if n <= np.iinfo(np.uint16).max else np.uint32
    first, second = np.empty(kept, unsigned), np.empty(kept, unsigned)
    start = sort_pairs(group, N_FOLDS * n_subsets * len(pattern), first, second, n)
    count = np.diff(start).reshape(N_FOLDS, n_subsets, len(pattern)).astype(np.float64)
    if (count.sum(axis=2)[:, [TRAIN, VALIDATION]] == 0).any():
        raise too_few(n, folds)
    pairs = SortedPairs(first, second, start)
    return PairDesign(pattern, count, pairs, random_state)
