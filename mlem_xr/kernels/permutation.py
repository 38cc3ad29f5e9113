"""Weights and moments -> permutation importance, standard errors, p-values and scores.

Shapes: P patterns, F features, T targets. All of it is matrix products of design arrays
(feature x pattern) with target arrays (pattern x target).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from mlem_xr.kernels.ridge import Fit

_CONSTANT = 1e-12
"""A target whose variance is this small, relative to its mean square, is constant."""

_ROUNDING = 1e-26
"""The same for a prediction, of which only rounding can make a constant one vary."""


class Permutation(NamedTuple):
    """What permuting a feature does to a pair of each pattern, on average: design arrays.

    With D = x' - x, x' the feature of a random pair of the same fold, D_g = E[D], C_g = E[D^2].
    """

    n_pairs: NDArray
    """Pairs of each pattern, n_g: (P)."""
    shift: NDArray
    """D_g: (F, P)."""
    square: NDArray
    """C_g: (F, P)."""


class Heldout(NamedTuple):
    """Predictions and residuals on the held-out pairs of one fold."""

    prediction: NDArray
    """f_g = b + w.x_g: (P, T)."""
    residual: NDArray
    """e1_g, the sum of residuals: (P, T)."""
    residual_squared: NDArray
    """e2_g, the sum of squared residuals: (P, T)."""


def permute(regressor: NDArray, count: NDArray) -> Permutation:
    """Prepare the design arrays of one fold.

    `regressor` (P, F) is what is permuted: the feature distances, or their residuals given the
    other features; `count` (P) the held-out pairs of each pattern. With mean u and mean square v of
    x_k over the pairs of the fold, E[D] = u - x_gk and E[D^2] = v - 2 u x_gk + x_gk^2.
    """
    n = count.sum()
    mean = count @ regressor / n
    mean_square = count @ regressor**2 / n
    square = mean_square - 2 * mean * regressor + regressor**2
    return Permutation(
        count, np.ascontiguousarray((mean - regressor).T), np.ascontiguousarray(square.T)
    )


def heldout(
    fit: Fit, pattern: NDArray, count: NDArray, total: NDArray, total_squared: NDArray
) -> Heldout:
    """Predict the held-out pairs of one fold.

    e1_g = s_g - n_g f_g and e2_g = q_g - 2 f_g s_g + n_g f_g^2, with pairs n_g (P) and, per target,
    sums s_g of the targets and q_g of their squares (P, T).
    """
    prediction = pattern @ fit.weight.T + fit.intercept
    expected = count[:, np.newaxis] * prediction
    residual = total - expected
    residual_squared = total_squared - prediction * (total + residual)
    return Heldout(prediction, residual, residual_squared)


def importance(
    fits: Sequence[Fit], permutations: Sequence[Permutation], heldouts: Sequence[Heldout]
) -> tuple[NDArray, NDArray]:
    """Compute the permutation importance of every feature and its standard error: (T, F).

    importance_k = (1/n) sum_folds sum_g (w_k^2 C_g n_g - 2 w_k D_g e1_g), the mean increase of the
    squared error over all permutations, in the unit of the squared target. With
    a_g = w_k^2 C_g - importance_k and b_g = 2 w_k D_g,
    std_error_k^2 = sum_folds sum_g (n_g a_g^2 - 2 a_g b_g e1_g + b_g^2 e2_g) / n / (n - 1).
    """
    n = sum(design.n_pairs.sum() for design in permutations)
    increase = 0.0
    for fit, design, held in zip(fits, permutations, heldouts, strict=True):
        squares = design.square @ design.n_pairs
        increase = increase + fit.weight**2 * squares
        increase -= 2 * fit.weight * (design.shift @ held.residual).T
    mean: NDArray = np.asarray(increase) / n

    spread = 0.0
    for fit, design, held in zip(fits, permutations, heldouts, strict=True):
        squared = fit.weight**2
        spread = spread + squared**2 * (design.square**2 @ design.n_pairs)
        spread -= 2 * squared * mean * (design.square @ design.n_pairs)
        spread += mean**2 * design.n_pairs.sum()
        product = ((design.square * design.shift) @ held.residual).T
        spread -= 4 * fit.weight * (squared * product - mean * (design.shift @ held.residual).T)
        spread += 4 * squared * (design.shift**2 @ held.residual_squared).T
    return mean, np.sqrt(np.maximum(spread, 0.0) / n / (n - 1))


def p_value(mean: NDArray, std_error: NDArray) -> NDArray:
    """Compute 1 - Phi(importance / std_error), and 1 where the standard error is 0."""
    certain = std_error == 0
    return np.where(certain, 1.0, ndtr(-mean / np.where(certain, 1.0, std_error)))


def scores(
    held: Heldout, count: NDArray, total: NDArray, total_squared: NDArray
) -> dict[str, NDArray]:
    """Score the predictions of one fold on its held-out pairs: float64 (T) by name.

    `r2` (coefficient of determination), `r` (Pearson correlation of prediction and target), `mse`
    (mean squared error) and `variance` of the target. NaN for a constant target; `r` also for a
    constant prediction.
    """
    n = count.sum()
    mean = total.sum(axis=0) / n
    mean_square = total_squared.sum(axis=0) / n
    variance = mean_square - mean**2
    varies = variance > _CONSTANT * mean_square
    variance = np.where(varies, variance, np.nan)
    mse = np.where(varies, held.residual_squared.sum(axis=0) / n, np.nan)
    centered = held.prediction - count @ held.prediction / n
    spread = count @ centered**2 / n
    predicts = spread > _ROUNDING * (count @ held.prediction**2 / n)
    covariance = np.einsum("pt,pt->t", centered, total) / n
    product = np.where(predicts, spread * variance, np.nan)
    return {
        "r2": 1.0 - mse / variance,
        "r": covariance / np.sqrt(product),
        "mse": mse,
        "variance": variance,
    }
