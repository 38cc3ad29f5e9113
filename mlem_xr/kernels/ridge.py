"""Statistics -> weights: non-negative ridge regression with intercept, batched over targets.

Shapes: F features, T targets.
"""

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels.statistics import Statistics

_Sums = tuple[NDArray, NDArray, NDArray, NDArray, float, NDArray, NDArray, NDArray, NDArray]

_TOLERANCE = 1e-12
"""Relative to the largest right-hand side: below it, a gradient counts as zero."""


@numba.njit(nogil=True, cache=True)
def _solve_subset(
    gram: NDArray, ridge: float, cross: NDArray, passive: NDArray, lower: NDArray, weight: NDArray
) -> None:
    """Solve (gram + ridge I) w = cross on the passive features by elimination; 0 elsewhere.

    Rows are eliminated from the right, so that the inner loops are independent of each other; a
    positive definite matrix needs no pivots.
    """
    n_features = len(cross)
    members = np.empty(n_features, np.int64)
    m = 0
    for k in range(n_features):
        weight[k] = 0.0
        if passive[k]:
            members[m] = k
            m += 1
    for a in range(m):
        weight[members[a]] = cross[members[a]]
        for b in range(a + 1):
            lower[a, b] = gram[members[a], members[b]]
        lower[a, a] += ridge
    for a in range(m - 1, -1, -1):
        inverse = 1.0 / lower[a, a]
        right = weight[members[a]] * inverse
        for b in range(a):
            factor = lower[a, b] * inverse
            weight[members[b]] -= right * lower[a, b]
            for c in range(b + 1):
                lower[b, c] -= factor * lower[a, c]
        lower[a, a] = inverse
    for a in range(m):
        value = weight[members[a]]
        for b in range(a):
            value -= lower[a, b] * weight[members[b]]
        weight[members[a]] = value * lower[a, a]


@numba.njit(nogil=True, cache=True)
def nonnegative_ridge(
    gram: NDArray, ridge: float, cross: NDArray, passive: NDArray, lower: NDArray, weight: NDArray
) -> None:
    """Minimize w'(gram + ridge I)w / 2 - cross'w over w >= 0 by block principal pivoting.

    `passive` holds the guess of the features with w > 0 (a warm start) and is left at the answer.
    All features that violate the optimality conditions change sides at once; if that stops
    helping, only the last of them does, which ends after finitely many steps (Kim & Park 2011,
    https://doi.org/10.1137/110821172).
    """
    n_features = len(cross)
    tolerance = _TOLERANCE * np.max(np.abs(cross))
    fewest, patience = n_features + 1, 3
    while True:
        _solve_subset(gram, ridge, cross, passive, lower, weight)
        violations, last = 0, -1
        for k in range(n_features):
            slope = ridge * weight[k] - cross[k]
            for c in range(n_features):
                slope += gram[k, c] * weight[c]
            if (passive[k] and weight[k] < 0.0) or (not passive[k] and slope < -tolerance):
                violations += 1
                last = k
                lower[k, k] = -1.0
            else:
                lower[k, k] = 1.0
        if violations == 0:
            return
        if violations < fewest:
            fewest, patience = violations, 3
        else:
            patience -= 1
        if patience >= 0:
            for k in range(n_features):
                if lower[k, k] < 0.0:
                    passive[k] = not passive[k]
        else:
            passive[last] = not passive[last]


@numba.njit(nogil=True, cache=True)
def _fit_targets(
    train_gram: NDArray,
    train_cross: NDArray,
    validation_gram: NDArray,
    validation_cross: NDArray,
    validation_count: float,
    feature_shift: NDArray,
    target_shift: NDArray,
    refit_gram: NDArray,
    refit_cross: NDArray,
    alphas: NDArray,
) -> tuple[NDArray, NDArray]:
    """Choose a penalty for every target and fit with it.

    With train, validation and refit pairs centered on their own means, G their Gram matrices and c
    their cross products, w minimizes w'Gw + alpha |w|^2 - 2 c'w over w >= 0 on the training pairs.
    The validation error of w is, but for the sum of squared targets, which no alpha changes,

        w'G_v w - 2 c_v'w + n_v (target_shift - feature_shift'w)^2

    Parameters
    ----------
    train_gram, validation_gram, refit_gram : ndarray of float64 (F, F)
        Sums over pairs of (x - mean)(x - mean)'.
    train_cross, validation_cross, refit_cross : ndarray of float64 (T, F)
        Sums over pairs of (x - mean)(y - mean).
    validation_count : float
        Number of validation pairs, n_v.
    feature_shift : ndarray of float64 (F)
        Mean feature distances of the validation pairs less those of the training pairs.
    target_shift : ndarray of float64 (T)
        The same of the targets.
    alphas : ndarray of float64 (alpha)
        Positive penalties, ascending; the first of equally good ones wins.

    Returns
    -------
    chosen : ndarray of int64 (T)
        Position of the chosen penalty.
    weights : ndarray of float64 (T, F)
        Of the fit on the refit pairs.
    """
    n_targets, n_features = train_cross.shape
    chosen = np.zeros(n_targets, np.int64)
    weights = np.zeros((n_targets, n_features))
    weight = np.zeros(n_features)
    passive = np.zeros(n_features, np.bool_)
    lower = np.zeros((n_features, n_features))
    for t in range(n_targets):
        passive[:] = train_cross[t] > 0.0
        smallest = np.inf
        for a in range(len(alphas)):
            nonnegative_ridge(train_gram, alphas[a], train_cross[t], passive, lower, weight)
            # The validation error less the sum of squared targets, which no alpha changes.
            offset = target_shift[t]
            error = 0.0
            for k in range(n_features):
                offset -= feature_shift[k] * weight[k]
                product = -2.0 * validation_cross[t, k]
                for c in range(n_features):
                    product += validation_gram[k, c] * weight[c]
                error += product * weight[k]
            error += validation_count * offset * offset
            if error < smallest:
                smallest = error
                chosen[t] = a
        nonnegative_ridge(refit_gram, alphas[chosen[t]], refit_cross[t], passive, lower, weight)
        weights[t] = weight
    return chosen, weights


@numba.njit(nogil=True, cache=True)
def _fit_subsets(
    members: NDArray,
    train_gram: NDArray,
    train_cross: NDArray,
    validation_gram: NDArray,
    validation_cross: NDArray,
    validation_count: float,
    feature_shift: NDArray,
    target_shift: NDArray,
    refit_gram: NDArray,
    refit_cross: NDArray,
    alphas: NDArray,
) -> tuple[NDArray, NDArray]:
    """Fit one target with some of the features only: `_fit_targets` on the members of each subset.

    `members` is bool (S, F); the other arguments are those of `_fit_targets` with T = 1. Returns
    the position of the chosen penalty (S), 0 for a subset without members, and the weights (S, F).
    """
    chosen = np.zeros(len(members), np.int64)
    weights = np.zeros(members.shape)
    for s in range(len(members)):
        own = np.flatnonzero(members[s])
        if len(own) == 0:
            continue
        choice, weight = _fit_targets(
            train_gram[own][:, own],
            train_cross[:, own],
            validation_gram[own][:, own],
            validation_cross[:, own],
            validation_count,
            feature_shift[own],
            target_shift,
            refit_gram[own][:, own],
            refit_cross[:, own],
            alphas,
        )
        chosen[s] = choice[0]
        weights[s, own] = weight[0]
    return chosen, weights


class Fit(NamedTuple):
    """A fitted metric per target."""

    weight: NDArray
    """Non-negative weights: (T, F)."""
    intercept: NDArray
    """Intercepts: (T)."""
    alpha: NDArray
    """Chosen penalties: (T)."""


def fit(train: Statistics, validation: Statistics, refit: Statistics, alphas: NDArray) -> Fit:
    """Fit the metric of one fold for all targets.

    Minimizes |y - b - Xw|^2 + alpha |w|^2 over b and w >= 0 on the training pairs for every alpha,
    picks the alpha with the smallest squared error on the validation pairs (the smaller one wins a
    tie), and refits with it on the training and validation pairs together. `alphas` are positive
    and ascend.
    """
    chosen, weight = _fit_targets(*_sums(train, validation, refit), alphas)
    return Fit(weight, refit.mean - weight @ refit.regressors.mean, alphas[chosen])


def fit_subsets(
    train: Statistics,
    validation: Statistics,
    refit: Statistics,
    alphas: NDArray,
    members: NDArray,
) -> Fit:
    """Fit the metric of one fold for one target, as `fit` does, with each subset of the features.

    `members`, bool (S, F), says which features each subset has; the weights of the others are 0,
    and a subset without any predicts the mean. Returns a metric per subset: S in the place of T.
    """
    chosen, weight = _fit_subsets(members, *_sums(train, validation, refit), alphas)
    return Fit(weight, refit.mean - weight @ refit.regressors.mean, alphas[chosen])


def _sums(train: Statistics, validation: Statistics, refit: Statistics) -> _Sums:
    """Return what `_fit_targets` takes, but for the penalties."""
    return (
        train.regressors.gram,
        train.cross,
        validation.regressors.gram,
        validation.cross,
        validation.regressors.n_pairs,
        validation.regressors.mean - train.regressors.mean,
        validation.mean - train.mean,
        refit.regressors.gram,
        refit.cross,
    )
