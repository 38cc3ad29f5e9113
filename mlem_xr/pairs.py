"""Pairs of sentences -> covariate patterns, folds and subsets, from the features alone.

The prediction of a metric depends on a pair only through its row of feature distances. n sentences
have n (n - 1) / 2 pairs but few distinct rows, the covariate patterns; every analysis of pairs
becomes an analysis of patterns.
"""

import threading
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mlem_xr.kernels.moments import SortedPairs
from mlem_xr.kernels.patterns import MAX_FEATURES, pair_patterns, sort_pairs
from mlem_xr.schema import InputError, check_features, choose
from mlem_xr.stimuli.table import to_codes

FOLDS = ("pairs", "sentences")
"""What is split into folds."""

N_FOLDS = 2
"""Cross-validation folds; a fold is trained on the pairs that are held out in the other one."""

_TRAIN_SIZE = 0.8
_TRAIN, _VALIDATION, _ACROSS = 0, 1, 2


class PairDesign(NamedTuple):
    """All that the analyses need to know about the pairs, a few bytes per pair."""

    pattern: NDArray
    """Feature distances of each covariate pattern: float64 (pattern, feature)."""
    n_pairs: NDArray
    """Pairs per (fold, subset, pattern): float64. A pair's fold is the one that holds it out; its
    subset is its part in the training of the other fold: train, validation or, for
    folds="sentences" alone, a training with a validation sentence (used when the metric is refit
    on both)."""
    pairs: SortedPairs
    """The pairs, sorted by (fold, subset, pattern)."""


def feature_codes(data: xr.Dataset, features: Iterable[str] | None = None) -> xr.DataArray:
    """Enumerate the levels of each feature.

    Parameters
    ----------
    data : xr.Dataset
        Stimuli or activations: one coordinate over `sentence` per feature.
    features : iterable of str, optional
        The features to use, in this order; all of them by default.

    Returns
    -------
    xr.DataArray
        int32 (sentence, feature); -1 where undefined.

    Raises
    ------
    InputError
        If there is no feature, an unknown one, or more than 64.

    Examples
    --------
    >>> table = xr.Dataset(coords={"number": ("sentence", ["sg", "pl", "sg"])})
    >>> feature_codes(table).values.ravel().tolist()
    [0, 1, 0]
    """
    names = check_features(data, features)
    if len(names) > MAX_FEATURES:
        raise InputError(
            f"features: {len(names)} found; expected at most {MAX_FEATURES}: choose some of them"
        )
    codes = np.stack([to_codes(data[name].values)[0] for name in names], axis=1)
    return xr.DataArray(codes, dims=("sentence", "feature"), coords={"feature": names})


def pattern_counts(
    data: xr.Dataset, *, features: Iterable[str] | None = None
) -> tuple[NDArray, NDArray]:
    """Count the pairs of each covariate pattern.

    Parameters
    ----------
    data : xr.Dataset
        Stimuli or activations.
    features : iterable of str, optional
        The features to use; all of them by default.

    Returns
    -------
    pattern : ndarray of uint8 (pattern, feature)
        The distinct rows of feature distances.
    count : ndarray of int64 (pattern)
        Pairs with that row; they add up to n (n - 1) / 2.

    Examples
    --------
    >>> table = xr.Dataset(coords={"number": ("sentence", ["sg", "pl", "sg"])})
    >>> pattern_counts(table)
    (array([[0],
           [1]], dtype=uint8), array([1, 2]))
    """
    pattern, index = pair_patterns(feature_codes(data, features).values)
    return pattern, np.bincount(index, minlength=len(pattern))


def feature_distances(
    stimuli: xr.Dataset, *, features: Iterable[str] | None = None
) -> xr.DataArray:
    """Compute the feature distances of every pair of sentences.

    1 if both sentences define the feature and differ in it, else 0. n (n - 1) / 2 x F bytes: the
    analyses never need this table; it is there to look at.

    Parameters
    ----------
    stimuli : xr.Dataset
        Stimuli or activations: one coordinate over `sentence` per feature.
    features : iterable of str, optional
        The features to use, in this order; all of them by default.

    Returns
    -------
    xr.DataArray
        uint8 (pair, feature), pairs in upper-triangle order; coordinates `first_sentence` and
        `second_sentence` (pair) label the two sentences.

    Raises
    ------
    InputError
        If there is no feature, or an unknown one.

    Examples
    --------
    >>> table = xr.Dataset(coords={"number": ("sentence", ["sg", "pl", None])})
    >>> feature_distances(table).values.ravel().tolist()
    [1, 0, 0]
    """
    codes = feature_codes(stimuli, features)
    pattern, index = pair_patterns(codes.values)
    label = stimuli["sentence"].values
    first, second = np.triu_indices(len(codes), 1)
    return xr.DataArray(
        pattern[index],
        dims=("pair", "feature"),
        coords={
            "feature": codes["feature"],
            "first_sentence": ("pair", label[first]),
            "second_sentence": ("pair", label[second]),
        },
        name="feature_distance",
    )


def feature_correlation(
    stimuli: xr.Dataset, *, features: Iterable[str] | None = None
) -> xr.DataArray:
    """Correlate the feature distances over all pairs of sentences.

    The Pearson correlation of two features' distances (0 or 1), from the counts of the covariate
    patterns: no array of the size of the pairs x features is made.

    Parameters
    ----------
    stimuli : xr.Dataset
        Stimuli or activations: one coordinate over `sentence` per feature.
    features : iterable of str, optional
        The features to use, in this order; all of them by default.

    Returns
    -------
    xr.DataArray
        float64 (feature, other_feature), between -1 and 1; NaN for a feature that differs in no
        pair or in every pair.

    Raises
    ------
    InputError
        If there is no feature, or an unknown one.

    Examples
    --------
    >>> table = xr.Dataset(
    ...     coords={"a": ("sentence", [0, 0, 1, 1]), "b": ("sentence", [0, 0, 1, 1])}
    ... )
    >>> feature_correlation(table).values.round(6).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    names = check_features(stimuli, features)
    pattern, count = pattern_counts(stimuli, features=names)
    centred = pattern - count @ pattern / count.sum()
    covariance = (centred * count[:, np.newaxis]).T @ centred
    deviation = np.sqrt(np.diag(covariance))
    deviation = np.where(deviation > 0, deviation, np.nan)
    correlation = np.clip(covariance / np.outer(deviation, deviation), -1.0, 1.0)
    return xr.DataArray(
        correlation,
        dims=("feature", "other_feature"),
        coords={"feature": names, "other_feature": names},
        name="feature_correlation",
    )


def fold_labels(n_sentences: int, *, folds: str, random_state: int) -> NDArray:
    """Assign every pair to the fold that holds it out and to its subset in the other fold.

    Parameters
    ----------
    n_sentences : int
        Number of sentences.
    folds : {"pairs", "sentences"}
        `pairs`: scikit-learn's `KFold(2, shuffle=True)` over pairs in upper-triangle order; inside
        each training set `train_test_split(train_size=0.8)` sets validation pairs aside. Both with
        `random_state`. `sentences`: the same over sentences; pairs of sentences of different folds
        are left out.
    random_state : int
        Seed of both splits.

    Returns
    -------
    ndarray of int8 (pair)
        fold x n_subsets + subset, in upper-triangle order; -1: left out. There are 2 subsets
        (train, validation) of pairs, and 3 of sentences (the third: one training and one
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


def pair_design(codes: NDArray, *, folds: str = "pairs", random_state: int = 0) -> PairDesign:
    """Build the design of all pairs from the table of feature codes, once per process.

    Workers call this with the small table; nothing of the size of the pairs travels between them.

    Parameters
    ----------
    codes : ndarray of int32 (sentence, feature)
        As `feature_codes` returns them.
    folds : {"pairs", "sentences"}
        What is split into folds.
    random_state : int
        Seed of the splits.

    Returns
    -------
    PairDesign
        Patterns, counts and sorted pairs; 4 bytes per pair below 65,536 sentences.

    Raises
    ------
    InputError
        If `folds` is unknown, or a fold has too few pairs to train, validate or test.

    Examples
    --------
    >>> design = pair_design(np.array([[0], [1], [0], [1], [1]], dtype=np.int32))
    >>> int(design.n_pairs.sum())
    10
    """
    choose("folds", folds, FOLDS)
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
    _check_counts(n, folds, count)
    return PairDesign(pattern.astype(np.float64), count, SortedPairs(first, second, start))


def _check_counts(n: int, folds: str, count: NDArray) -> None:
    pairs = count.sum(axis=2)[:, [_TRAIN, _VALIDATION]]
    if (pairs == 0).any():
        raise InputError(
            f"folds: {n} sentences leave a fold of {folds!r} without training or validation "
            f"pairs; expected more sentences, or folds='pairs'"
        )
