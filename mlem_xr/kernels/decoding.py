"""Activations of one layer -> how well a linear classifier reads one feature from them."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels.distances import standardise
from mlem_xr.kernels.logistic import Classifier, Problem, newton, probability

N_FOLDS = 3
"""Folds of the cross-validation, and of the one inside each training set that picks the penalty."""

MIN_PER_CLASS = 5
"""Fewest sentences of a class: each training set then has one of them for every inner fold."""

PENALTY_INVERSES = np.logspace(-4, 4, 10)
"""The values of C that scikit-learn's `LogisticRegressionCV` tries by default."""

OUTPUTS = ("auc", "std", "std_error", "p_value")
"""What `decoding` returns, in this order."""


def decoding(
    activation: NDArray, label: NDArray, *, zscore: bool = False, random_state: int = 0
) -> NDArray:
    """Score a linear classifier of one feature by stratified cross-validation.

    Parameters
    ----------
    activation : ndarray (sentence, unit)
        Finite activations.
    label : ndarray of int (sentence)
        Class of each sentence.
    zscore : bool
        Whether to standardise every unit first.
    random_state : int
        Seed of the folds.

    Returns
    -------
    ndarray of float64 (output)
        The `OUTPUTS`; NaN if the feature is not `decodable`.

    Examples
    --------
    >>> label = np.arange(30) % 2
    >>> decoding(label[:, np.newaxis] + np.zeros((30, 2)), label).tolist()
    [1.0, 0.0, 0.0, 0.0]
    """
    if not decodable(label):
        return np.full(len(OUTPUTS), np.nan)
    activation = standardise(activation) if zscore else np.asarray(activation, dtype=np.float64)
    return summarise(fold_auc(activation, label, random_state=random_state))


def decodable(label: NDArray) -> bool:
    """Return whether there are two classes or more, each with `MIN_PER_CLASS` sentences."""
    count = np.unique(label, return_counts=True)[1]
    return len(count) > 1 and bool(count.min() >= MIN_PER_CLASS)


def summarise(auc: NDArray) -> NDArray:
    """Go from the AUC of each fold to the `OUTPUTS`.

    Parameters
    ----------
    auc : ndarray of float64 (fold)
        Area under the curve in each fold.

    Returns
    -------
    ndarray of float64 (output)
        Mean; std with n - 1 degrees of freedom; std_error = std / sqrt(n); and
        p = 2 (1 - Phi(|auc - 0.5| / std_error)), which is 1 where that is 0 / 0.

    Examples
    --------
    >>> summarise(np.array([0.5, 0.5, 0.5])).tolist()
    [0.5, 0.0, 0.0, 1.0]
    """
    from scipy.stats import norm

    mean, deviation = auc.mean(), auc.std(ddof=1)
    error = deviation / np.sqrt(len(auc))
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = 2 * norm.sf(abs(np.divide(mean - 0.5, error)))
    return np.array([mean, deviation, error, 1.0 if np.isnan(p_value) else p_value])


def fold_auc(activation: NDArray, label: NDArray, *, random_state: int) -> NDArray:
    """Compute the AUC in each held-out fold of a classifier trained on the others.

    Parameters
    ----------
    activation : ndarray of float64 (sentence, unit)
        Finite activations.
    label : ndarray of int (sentence)
        A `decodable` feature.
    random_state : int
        Seed of the folds.

    Returns
    -------
    ndarray of float64 (fold)
        One-against-rest AUC, weighted by the size of the classes.
    """
    from sklearn.model_selection import StratifiedKFold

    n, n_units = activation.shape
    # Nearly all fits are on the training part of a training set.
    n_train = n * (N_FOLDS - 1) ** 2 // N_FOLDS**2
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=random_state)
    auc = []
    with _one_blas_thread():
        gram = activation @ activation.T if n_train <= n_units else None
        for train, test in folds.split(label, label):
            part = None if gram is None else gram[np.ix_(train, train)]
            classifier = train_classifier(activation[train], part, label[train])
            auc.append(weighted_auc(probability(classifier, activation[test]), label[test]))
    return np.array(auc)


def train_classifier(activation: NDArray, gram: NDArray | None, label: NDArray) -> Classifier:
    """Choose the penalty by cross-validation, then train on all sentences.

    Parameters
    ----------
    activation : ndarray of float64 (sentence, unit)
        Training activations.
    gram : ndarray of float64 (sentence, sentence) or None
        Their inner products, to work on them; None: work on units.
    label : ndarray of int (sentence)
        Class of each sentence; classes weigh the same.

    Returns
    -------
    Classifier
        Trained with the penalty that has the largest mean AUC, the largest of those in a tie.
    """
    from sklearn.model_selection import StratifiedKFold

    classes, index, count = np.unique(label, return_inverse=True, return_counts=True)
    columns = classes if len(classes) > 2 else classes[1:]
    member = (label[:, np.newaxis] == columns).astype(np.float64)
    problem = Problem(activation, gram, member, (len(label) / (len(classes) * count))[index])
    paths, auc = [], []
    for train, validation in StratifiedKFold(N_FOLDS).split(label, label):
        path = _penalty_path(_part(problem, train))
        predictions = [probability(classifier, activation[validation]) for classifier in path]
        auc.append([weighted_auc(p, label[validation]) for p in predictions])
        paths.append(path)
    best = int(np.argmax(np.sum(auc, axis=0)))
    chosen = zip(*(path[best] for path in paths), strict=True)
    start = Classifier(*(np.mean(parts, axis=0) for parts in chosen))
    return newton(problem, PENALTY_INVERSES[best], start)


def weighted_auc(score: NDArray, label: NDArray) -> float:
    """Average the area under the ROC curve of each class against the rest, by the classes' size.

    From ranks: (sum of the ranks of the class - m (m + 1) / 2) / (m (n - m)), with m sentences of
    the class among n.

    Parameters
    ----------
    score : ndarray of float64 (sentence, output)
        Of the second of two classes, or of every class.
    label : ndarray of int (sentence)
        Class of each sentence.

    Returns
    -------
    float
        Between 0 and 1.

    Examples
    --------
    >>> weighted_auc(np.array([[0.1], [0.4], [0.35], [0.8]]), np.array([0, 0, 1, 1]))
    0.75
    """
    from scipy.stats import rankdata

    member = label[:, np.newaxis] == np.unique(label)[-score.shape[1] :]
    count = member.sum(axis=0)
    rank_sum = np.where(member, rankdata(score, axis=0), 0.0).sum(axis=0)
    area = (rank_sum - count * (count + 1) / 2) / (count * (len(label) - count))
    return float(np.average(area, weights=count))


def _part(problem: Problem, rows: NDArray) -> Problem:
    activation, gram, member, weight = problem
    inner = None if gram is None else gram[np.ix_(rows, rows)]
    return Problem(activation[rows], inner, member[rows], weight[rows])


def _penalty_path(problem: Problem) -> list[Classifier]:
    """Train with each penalty, from the largest to the smallest, each starting at the last."""
    shape = problem.activation.shape[1], problem.member.shape[1]
    path = [Classifier(np.zeros(shape), np.zeros(shape[1]))]
    for penalty_inverse in PENALTY_INVERSES:
        path.append(newton(problem, penalty_inverse, path[-1]))
    return path[1:]


_counting = threading.Lock()
_limits: list[Any] = []


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread: several lose more time waiting than they gain on small matrices.

    The limit belongs to the whole process: the first of the concurrent tasks sets it, the last one
    lifts it. Each does so from a thread that ends at once, because threadpoolctl obeys one living
    thread at a time.
    """
    from threadpoolctl import threadpool_limits

    with _counting:
        set_limit = partial(threadpool_limits, 1, user_api="blas")
        _limits.append(_limits[0] if _limits else _aside(set_limit))
    try:
        yield
    finally:
        with _counting:
            limit = _limits.pop()
            if not _limits:
                _aside(limit.restore_original_limits)


def _aside(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(function).result()
