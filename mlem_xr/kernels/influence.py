"""Influence of each sentence on importances and R2 -> their standard errors over sentences.

Pairs that share a sentence are related, so an importance or R2 on held-out pairs is a U-statistic
of the held-out sentences. Each pair has an influence psi, and with the mean of psi over the
partners of sentence i (Hoeffding 1948, https://doi.org/10.1214/aoms/1177730196),

    std_error^2 = 4/n Var_i( mean over j of psi_ij )

With what is permuted z, its mean u, and residuals r of mean r0; with the mean squared residual m
and the targets' mean y0 and variance v,

    of importance_k    psi = 2 w_k^2 (z_k - u_k)^2 + 2 w_k (z_k - u_k) (r - r0)
    of R2              psi = (m (y - y0)^2 / v - r^2) / v

so that estimating u, r0, y0 and v on the same pairs is part of the error. It is an error of the
metric as it was fitted, on fresh sentences. Shapes: P patterns, F features, T targets.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels.permutation import PairPermutation
from mlem_xr.kernels.ridge import Fit
from mlem_xr.kernels.statistics import Statistics


class R2Influence(NamedTuple):
    """psi of R2 as `residual` r^2 + `target` (y - y0)^2, for each target (T); 0 without R2."""

    residual: NDArray
    target: NDArray


def of_r2(scores: dict[str, NDArray]) -> R2Influence:
    """Prepare the influence on R2 of targets that have these scores (T)."""
    m, v = scores["mse"], scores["variance"]
    return R2Influence(np.nan_to_num(-1 / v), np.nan_to_num(m / v**2))


class Quadratic(NamedTuple):
    """Influences as functions of the target of a pair, a + b y + c y^2, of each pattern.

    On the importances, then on R2: (P, F + 1).
    """

    constant: NDArray
    linear: NDArray
    square: NDArray
    """Of R2 alone: (P)."""


def of_patterns(
    fit: Fit,
    t: int,
    held_out: Statistics,
    permuted: PairPermutation,
    pattern: NDArray,
    r2: R2Influence,
    groups: Sequence[tuple[NDArray, PairPermutation]] = (),
) -> Quadratic:
    """Express the influences of a fold's pairs on the importances and R2 of target t.

    `groups` are the members of each (F), and what is permuted; they come after the features.
    """
    weight, y0 = fit.weight[t], held_out.mean[t]
    prediction = fit.intercept[t] + pattern @ weight
    r0 = y0 - fit.intercept[t] - weight @ held_out.regressors.mean
    deviation = -permuted.shift.T * weight
    of_groups = [-(weight * members) @ own.shift for members, own in groups]
    deviation = np.column_stack([deviation, *of_groups])
    constant = 2 * deviation * (deviation - (prediction + r0)[:, np.newaxis])
    residual, target = r2.residual[t], r2.target[t]
    return Quadratic(
        np.column_stack([constant, residual * prediction**2 + target * y0**2]),
        np.column_stack([2 * deviation, -2 * (residual * prediction + target * y0)]),
        np.full(len(pattern), residual + target),
    )


class SentenceSums(NamedTuple):
    """Sums over the partners of each sentence (n), of one target."""

    x: NDArray
    """(n, F)"""
    square: NDArray
    """Of x^2: (n, F)."""
    product: NDArray
    """Of x (w.x), with the weights of the target: (n, F)."""
    y: NDArray
    """(n)"""
    xy: NDArray
    """(n, F)"""
    yy: NDArray
    """(n)"""


def of_sentences(
    partners: int,
    sums: SentenceSums,
    fit: Fit,
    t: int,
    held_out: Statistics,
    r2: R2Influence,
    groups: tuple[NDArray, NDArray] | None = None,
) -> NDArray:
    """Sum the influences on the importances and R2 of target t over partners: (n, F + 1).

    `groups` are the members of features that are permuted together (G, F), which come after the
    features, and the sums of x_k x_l over partners (n, F, F).
    """
    x, square, product, y, xy, yy = sums
    weight, intercept = fit.weight[t], fit.intercept[t]
    u, y0 = held_out.regressors.mean, held_out.mean[t]
    fitted = x @ weight
    residual = (xy - intercept * x - product) - np.outer(y - partners * intercept - fitted, u)
    mean_residual = y0 - intercept - u @ weight
    squares = square - 2 * u * x + partners * u**2
    along = 2 * weight * (residual - mean_residual * (x - partners * u))
    importance = along + 2 * weight**2 * squares
    if groups is not None:
        members, xx = groups
        # Sums of (x_k - u_k) (x_l - u_l), of which a group takes a square out.
        both = xx - x[:, :, np.newaxis] * u - (x[:, :, np.newaxis] * u).transpose(0, 2, 1)
        both = (both + partners * np.outer(u, u)) * np.outer(weight, weight)
        of_groups = [
            along[:, own].sum(axis=1) + 2 * both[:, own][:, :, own].sum(axis=(1, 2))
            for own in members
        ]
        importance = np.column_stack([importance, *of_groups])
    squared = (
        yy
        - 2 * (intercept * y + xy @ weight)
        + partners * intercept**2
        + 2 * intercept * fitted
        + product @ weight
    )
    deviation = yy - 2 * y0 * y + partners * y0**2
    score = r2.residual[t] * squared + r2.target[t] * deviation
    return np.column_stack([importance, score])


class Items(NamedTuple):
    """Items that are the units of the errors of some features."""

    number: NDArray
    """Which of all items of all features each sentence has: int32 (sentence, F); -1 where every
    sentence is a unit of its own."""
    feature: NDArray
    """Feature of each item: (I)."""


def items_of(drawn: NDArray) -> Items:
    """Give the items of all features numbers of their own, from those per feature (sentence, F)."""
    number = np.full(drawn.shape, -1, np.int32)
    feature: list[int] = []
    for k, column in enumerate(drawn.T):
        found, inverse = np.unique(column, return_inverse=True)
        if len(found) < len(column):
            number[:, k] = inverse + len(feature)
            feature += [k] * len(found)
    return Items(number, np.array(feature, np.int64))


def with_groups(items: NDArray, members: NDArray) -> NDArray:
    """Add the items of groups of features (G, F) to those of features: (sentence, F + G).

    A group's units are the items that all its features belong to; else the sentences.
    """
    columns = [items]
    for own in members:
        shared = items[:, own]
        alike = (shared == shared[:, :1]).all()
        columns.append(shared[:, 0] if alike else np.arange(len(items)))
    return np.column_stack(columns).astype(items.dtype)


def with_score(number: NDArray) -> NDArray:
    """Add a column for R2, whose units are always the sentences: (sentence, F + 1)."""
    return np.pad(number, [(0, 0), (0, 1)], constant_values=-1)


def standard_errors(
    totals: Sequence[NDArray], shares: Sequence[NDArray], numbers: Sequence[NDArray]
) -> NDArray:
    """Compute standard errors from the sums of psi over the partners of each sentence.

    Parameters
    ----------
    totals : sequence of ndarray of float64 (sentence, K)
        Per fold, of its held-out sentences.
    shares : sequence of ndarray (K)
        How much each fold counts in the mean over folds.
    numbers : sequence of ndarray of int (sentence, K)
        Per fold, the items that are the units of the error; -1: every sentence is its own.

    Returns
    -------
    ndarray of float64 (K)
        With n units, the squared sums of their influences are multiplied by n / (n - folds).
    """
    parts = []
    for total, share in zip(totals, shares, strict=True):
        n = len(total)
        mean = total / (n - 1)
        parts.append(2 * share / n * (mean - mean.mean(axis=0)))
    influence, number = np.concatenate(parts), np.concatenate(numbers)
    square = np.einsum("ik,ik->k", influence, influence)
    n_units = np.full(len(square), float(len(influence)))
    for k in np.flatnonzero(number[0] >= 0):
        unit = np.unique(number[:, k], return_inverse=True)[1]
        pooled = np.bincount(unit, influence[:, k])
        square[k], n_units[k] = pooled @ pooled, len(pooled)
    return root(square, n_units, len(totals))


def root(square: NDArray, n_units: NDArray, n_folds: int) -> NDArray:
    """Take the root of summed squares (K, ...) of the influences of so many units (K).

    A mean was taken in every fold; with no more units than folds, there is no error: NaN.
    """
    free = np.where(n_units > n_folds, n_units - n_folds, np.nan)
    factor = np.sqrt(n_units / free).reshape(-1, *[1] * (square.ndim - 1))
    return factor * np.sqrt(square)
