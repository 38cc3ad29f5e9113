"""Weights and statistics -> permutation importance, errors over pairs, p-values and scores.

Shapes: P patterns, F features, T targets.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from mlem_xr.kernels.ridge import Fit
from mlem_xr.kernels.statistics import FoldStatistics, Statistics

_CONSTANT = 1e-12
"""A target whose variance is this small, relative to its mean square, is constant."""

_ROUNDING = 1e-26
"""The same for a prediction, of which only rounding can make a constant one vary; and for a target
beside the mean square in all folds: what is rounding there may be all that one fold has."""


class Permuted(NamedTuple):
    """Sums over the held-out pairs of a fold with what is permuted, z, less its mean u."""

    own: NDArray
    """Sums of (z_k - u_k) (z_l - u_l): (F, F)."""
    product: NDArray
    """Sums of (z_k - u_k) x_l: (F, F)."""
    cross: NDArray
    """Sums of (z_k - u_k) y: (T, F)."""


class PairPermutation(NamedTuple):
    """What permuting z does to a pair of each pattern, on average: design arrays.

    With D = z' - z, z' the value of a random pair of the same fold, D_g = E[D], C_g = E[D^2].
    """

    n_pairs: NDArray
    """Pairs of each pattern, n_g: (P)."""
    shift: NDArray
    """D_g: (F, P)."""
    square: NDArray
    """C_g: (F, P)."""


def permute(value: NDArray, n_pairs: NDArray) -> PairPermutation:
    """Prepare the design arrays of one fold, whose patterns have values (P, F) and pairs (P).

    With mean u and mean square v of z_k over the pairs of the fold, E[D] = u - z_gk and
    E[D^2] = v - 2 u z_gk + z_gk^2.
    """
    n = n_pairs.sum()
    return permute_from(value, n_pairs, n_pairs @ value / n, n_pairs @ value**2 / n)


def permute_from(
    value: NDArray, n_pairs: NDArray, mean: NDArray, mean_square: NDArray
) -> PairPermutation:
    """Prepare the design arrays of some patterns of a fold with mean and mean square of z (F)."""
    square = mean_square - 2 * mean * value + value**2
    shift = np.ascontiguousarray((mean - value).T)
    return PairPermutation(n_pairs, shift, np.ascontiguousarray(square.T))


def features(held_out: Statistics) -> Permuted:
    """Permute the feature distances themselves."""
    gram = held_out.regressors.gram
    return Permuted(gram, gram, held_out.cross)


def residuals(design: PairPermutation, pattern: NDArray, total: NDArray) -> Permuted:
    """Permute a value of each pattern (P, F), over which the targets sum to `total` (P, T)."""
    weighted = design.shift * design.n_pairs
    return Permuted(weighted @ design.shift.T, -weighted @ pattern, -(design.shift @ total).T)


def importance(fit: Fit, permuted: Permuted, n_pairs: float) -> NDArray:
    """Compute the permutation importances on the n held-out pairs of a fold: (T, F).

    The mean increase of the squared error over all permutations of z_k, with residuals r, in the
    unit of the squared target:

        importance_k = 1/n sum over pairs  2 w_k^2 (z_k - u_k)^2 + 2 w_k (z_k - u_k) r
    """
    residual = permuted.cross - fit.weight @ permuted.product.T
    return 2 * fit.weight * (fit.weight * np.diag(permuted.own) + residual) / n_pairs


def group_importance(fit: Fit, members: NDArray, permuted: Permuted, n_pairs: float) -> NDArray:
    """Compute the importance of features that are permuted together: (T).

    Their part c of the prediction, the sum of w_k z_k over the members (F), takes the place of
    w_k z_k:

        importance = 1/n sum over pairs  2 (c - mean c)^2 + 2 (c - mean c) r
    """
    weight = fit.weight * members
    residual = permuted.cross - fit.weight @ permuted.product.T
    square = np.einsum("tk,kl,tl->t", weight, permuted.own, weight)
    return 2 * (square + (weight * residual).sum(axis=1)) / n_pairs


def p_value(mean: NDArray, std_error: NDArray) -> NDArray:
    """Compute 1 - Phi(importance / std_error), and 1 where the feature has no importance."""
    certain = (std_error == 0) | (mean == 0)
    return np.where(certain, 1.0, ndtr(-mean / np.where(certain, 1.0, std_error)))


def scores(fit: Fit, fold: FoldStatistics) -> dict[str, NDArray]:
    """Score the predictions of one fold on its held-out pairs: float64 (T) by name.

    `r2` (coefficient of determination), `r` (Pearson correlation of prediction and target), `mse`
    (mean squared error) and `variance` of the target. NaN for a constant target; `r` also for a
    constant prediction.
    """
    held_out, rows, n = fold.held_out, fold.held_out.regressors, fold.held_out.regressors.n_pairs
    of_all = (held_out.yy + fold.refit.yy) / (n + fold.refit.regressors.n_pairs)
    cross, mean_square = held_out.cross, held_out.yy / n
    variance = mean_square - held_out.mean**2
    varies = variance > np.maximum(_CONSTANT * mean_square, _ROUNDING * of_all)
    variance = np.where(varies, variance, np.nan)
    mean = fit.intercept + fit.weight @ rows.mean
    spread = np.einsum("tf,fg,tg->t", fit.weight, rows.gram, fit.weight) / n
    covariance = np.einsum("tf,tf->t", fit.weight, cross) / n
    mse = variance - 2 * covariance + spread + (held_out.mean - mean) ** 2
    predicts = spread > _ROUNDING * (spread + mean**2)
    product = np.where(predicts, spread * variance, np.nan)
    return {
        "r2": 1.0 - mse / variance,
        "r": covariance / np.sqrt(product),
        "mse": mse,
        "variance": variance,
    }


def error_over_pairs(
    fits: Sequence[Fit],
    permutations: Sequence[PairPermutation],
    moments: Sequence[tuple[NDArray, NDArray]],
    pattern: NDArray,
    mean: NDArray,
) -> NDArray:
    """Compute the original's standard error of importances `mean`, as if pairs were independent.

    `moments` are, per fold, the sums s_g of the targets and q_g of their squares (P, T). With
    predictions f_g, residuals sum to e1_g = s_g - n_g f_g and e2_g = q_g - 2 f_g s_g + n_g f_g^2.
    With a_g = w_k^2 C_g - importance_k and b_g = 2 w_k D_g,
    std_error_k^2 = sum_folds sum_g (n_g a_g^2 - 2 a_g b_g e1_g + b_g^2 e2_g) / n / (n - 1).
    """
    n = sum(design.n_pairs.sum() for design in permutations)
    parts = zip(fits, permutations, moments, strict=True)
    spread = [spread_over_pairs(fit, own, *sums, pattern, mean) for fit, own, sums in parts]
    return error_of_spread(np.sum(spread, axis=0), n)


def spread_over_pairs(
    fit: Fit,
    design: PairPermutation,
    total: NDArray,
    total_squared: NDArray,
    pattern: NDArray,
    mean: NDArray,
) -> NDArray:
    """Sum the squared deviations from importances `mean` over pairs of one fold: (T, F)."""
    prediction = pattern @ fit.weight.T + fit.intercept
    residual = total - design.n_pairs[:, np.newaxis] * prediction
    residual_squared = total_squared - prediction * (total + residual)
    squared = fit.weight**2
    spread = squared**2 * (design.square**2 @ design.n_pairs)
    spread -= 2 * squared * mean * (design.square @ design.n_pairs)
    spread += mean**2 * design.n_pairs.sum()
    product = ((design.square * design.shift) @ residual).T
    spread -= 4 * fit.weight * (squared * product - mean * (design.shift @ residual).T)
    spread += 4 * squared * (design.shift**2 @ residual_squared).T
    return spread


def group_spread_over_pairs(
    fit: Fit,
    members: NDArray,
    design: PairPermutation,
    permuted: Permuted,
    n_fold: float,
    total: NDArray,
    total_squared: NDArray,
    pattern: NDArray,
    mean: NDArray,
) -> NDArray:
    """Do the same as `spread_over_pairs` for features that are permuted together: (T).

    `permuted` is of all n pairs of the fold, `mean` the importances of the group (T).
    """
    weight = fit.weight * members
    prediction = pattern @ fit.weight.T + fit.intercept
    residual = total - design.n_pairs[:, np.newaxis] * prediction
    residual_squared = total_squared - prediction * (total + residual)
    shift = (weight @ design.shift).T
    variance = np.einsum("tk,kl,tl->t", weight, permuted.own, weight) / n_fold
    square = shift**2 + variance - mean
    spread = design.n_pairs @ square**2 - 4 * (square * shift * residual).sum(axis=0)
    return spread + 4 * (shift**2 * residual_squared).sum(axis=0)


def error_of_spread(spread: NDArray, n_pairs: float) -> NDArray:
    """Turn summed squared deviations over n pairs into the standard error of their mean."""
    return np.sqrt(np.maximum(spread, 0.0) / n_pairs / (n_pairs - 1))
