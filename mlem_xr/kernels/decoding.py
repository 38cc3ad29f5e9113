"""Activations of one layer -> how well a linear classifier reads each feature from them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels.distances import prepared
from mlem_xr.kernels.logistic import Classifier, Problem, newton, scores

N_FOLDS = 3
"""Folds of the cross-validation, and of the one inside each training set that picks the penalty."""

MIN_PER_CLASS = 5
"""Fewest sentences of a class: each training set then has one of them for every inner fold."""

PENALTY_INVERSES = np.logspace(-4, 4, 10)
"""The values of C that scikit-learn's `LogisticRegressionCV` tries by default."""


def decode(activation: NDArray, codes: NDArray, options: Any) -> dict[str, NDArray]:
    """Score a linear classifier of each feature by stratified cross-validation.

    `activation` is finite, `codes` are the classes, int (sentence, feature); `options` has `zscore`
    and `random_state`, the seed of the folds. Returns what `summarize` does, NaN where a feature is
    not `decodable`.
    """
    scaled = prepared(activation, zscore=options.zscore)
    nothing = np.full(N_FOLDS, np.nan)
    auc = [
        fold_auc(scaled, label, random_state=options.random_state) if decodable(label) else nothing
        for label in codes.T
    ]
    return summarize(np.array(auc))


def classes(codes: NDArray, measure: NDArray) -> NDArray:
    """Return what is told apart of each feature: int (sentence, feature).

    `codes` are levels, -1 where undefined. Numbers, the columns of `measure` that are not all NaN,
    become small ones (0) and large ones (1), cut where the halves are most equal.
    """
    found = np.array(codes)
    for k in np.flatnonzero(~np.isnan(measure).all(axis=0)):
        value = measure[:, k]
        levels, count = np.unique(value[~np.isnan(value)], return_counts=True)
        below = np.cumsum(count)[:-1]
        if len(below):
            cut = levels[np.argmin(np.abs(2 * below - count.sum()))]
            found[:, k] = np.where(np.isnan(value), -1, value > cut)
    return found


def decodable(label: NDArray) -> bool:
    """Return whether there are two classes or more, each with `MIN_PER_CLASS` sentences."""
    count = np.unique(label, return_counts=True)[1]
    return len(count) > 1 and bool(count.min() >= MIN_PER_CLASS)


def summarize(auc: NDArray) -> dict[str, NDArray]:
    """Go from the AUC of each fold (feature, fold) to (feature) by name.

    `auc`: mean; `std` with n - 1 degrees of freedom; `std_error` = std / sqrt(n); `p_value` =
    2 (1 - Phi(|auc - 0.5| / std_error)), which is 1 where that is 0 / 0.
    """
    from scipy.stats import norm

    mean, deviation = auc.mean(axis=1), auc.std(axis=1, ddof=1)
    error = deviation / np.sqrt(auc.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = 2 * norm.sf(np.abs((mean - 0.5) / error))
    p_value = np.where(np.isnan(p_value) & ~np.isnan(mean), 1.0, p_value)
    return {"auc": mean, "std": deviation, "std_error": error, "p_value": p_value}


def fold_auc(activation: NDArray, label: NDArray, *, random_state: int) -> NDArray:
    """Compute the AUC of a `decodable` feature in each held-out fold: float64 (fold).

    One against the rest, weighted by the size of the classes.
    """
    from sklearn.model_selection import StratifiedKFold

    n, n_units = activation.shape
    # Nearly all fits are on the training part of a training set.
    n_train = n * (N_FOLDS - 1) ** 2 // N_FOLDS**2
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=random_state)
    auc = []
    gram = activation @ activation.T if n_train <= n_units else None
    for train, test in folds.split(label, label):
        part = None if gram is None else gram[np.ix_(train, train)]
        classifier = train_classifier(activation[train], part, label[train])
        auc.append(weighted_auc(scores(classifier, activation[test]), label[test]))
    return np.array(auc)


def train_classifier(activation: NDArray, gram: NDArray | None, label: NDArray) -> Classifier:
    """Choose the penalty by cross-validation, then train on all sentences.

    Classes weigh the same; of penalties with the largest mean AUC the largest wins. `gram` holds
    the inner products of the sentences, to work on them; None: work on units.
    """
    from sklearn.model_selection import StratifiedKFold

    classes, index, count = np.unique(label, return_inverse=True, return_counts=True)
    columns = classes if len(classes) > 2 else classes[1:]
    member = (label[:, np.newaxis] == columns).astype(np.float64)
    problem = Problem(activation, gram, member, (len(label) / (len(classes) * count))[index])
    paths, auc = [], []
    for train, validation in StratifiedKFold(N_FOLDS).split(label, label):
        path = _penalty_path(_part(problem, train))
        found = [scores(classifier, activation[validation]) for classifier in path]
        auc.append([weighted_auc(score, label[validation]) for score in found])
        paths.append(path)
    best = int(np.argmax(np.sum(auc, axis=0)))
    chosen = zip(*(path[best] for path in paths), strict=True)
    start = Classifier(*(np.mean(parts, axis=0) for parts in chosen))
    return newton(problem, PENALTY_INVERSES[best], start)


def weighted_auc(score: NDArray, label: NDArray) -> float:
    """Average the area under the ROC curve of each class against the rest, by the classes' size.

    From ranks: (sum of the ranks of the class - m (m + 1) / 2) / (m (n - m)), with m sentences of
    the class among n. `score` (sentence, output) is of the second of two classes, or of every one.
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
