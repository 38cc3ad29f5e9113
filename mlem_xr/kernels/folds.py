"""Which fold holds a pair or a sentence out, and what it is for in the training of the other."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels.errors import Undefined

N_FOLDS = 2
"""Cross-validation folds; a fold is trained on what is held out in the other one."""

TRAIN, VALIDATION, ACROSS = 0, 1, 2
"""Subsets of a training set. `ACROSS`: pairs of a training and a validation sentence, which are
used when the metric is refit on both."""

_TRAIN_SIZE = 0.8


def split(n: int, random_state: int) -> tuple[NDArray, NDArray]:
    """Split n pairs or sentences in the original's way.

    scikit-learn's `KFold(2, shuffle=True)`; inside each training set
    `train_test_split(train_size=0.8)` sets validation aside, both with `random_state`. Returns the
    fold that holds each out, and its subset (train or validation) in the other fold: int8 (n).
    """
    held_out, subset = np.ones(n, np.int8), np.empty(n, np.int8)
    held_out[_shuffled(n, random_state)[: -(-n // N_FOLDS)]] = 0
    for fold in range(N_FOLDS):
        training = np.flatnonzero(held_out != fold)
        order = _shuffled(len(training), random_state)
        n_validation = len(training) - int(_TRAIN_SIZE * len(training))
        subset[training] = TRAIN
        subset[training[order[:n_validation]]] = VALIDATION
    return held_out, subset


def parts_of(n: int, options: Any) -> list[NDArray]:
    """List the sentences that are compared with each other alone, in folds of sentences.

    Those that each fold holds out, and those of them that the other one is trained on.
    """
    if options.folds == "pairs":
        return []
    held_out, subset = split(n, options.random_state)
    folds = [held_out == fold for fold in range(N_FOLDS)]
    return [np.flatnonzero(part) for own in folds for part in (own, own & (subset == TRAIN))]


def _shuffled(n: int, random_state: int) -> NDArray:
    """Shuffle the numbers below n as scikit-learn does, which takes a second to import."""
    return np.random.RandomState(random_state).permutation(n)  # noqa: NPY002


def pair_labels(n_sentences: int, *, folds: str, random_state: int) -> tuple[NDArray, int]:
    """Assign every pair, in upper-triangle order, to a fold and a subset.

    `pairs`: the pairs are split. `sentences`: the sentences are, and pairs of sentences of
    different folds are left out. Returns int8 (pair): fold x n_subsets + subset, -1 for pairs that
    are left out; and the number of subsets: 2 of pairs, 3 of sentences.
    """
    n_pairs = n_sentences * (n_sentences - 1) // 2
    if folds == "pairs":
        fold, subset = split(n_pairs, random_state)
        return 2 * fold + subset, 2
    fold, subset = split(n_sentences, random_state)
    label = np.empty(n_pairs, np.int8)
    start = 0
    for i in range(n_sentences - 1):
        row = np.where(subset[i] == subset[i + 1 :], subset[i], ACROSS) + 3 * fold[i]
        stop = start + len(row)
        label[start:stop] = np.where(fold[i] == fold[i + 1 :], row, -1)
        start = stop
    return label, 3


def too_few(n_sentences: int, folds: str) -> Undefined:
    """Say that a fold has no pairs to train, validate or test."""
    return Undefined(
        f"folds: {n_sentences} sentences leave a fold of {folds!r} without training or validation "
        "pairs; expected more sentences, or folds='pairs'"
    )
