"""Activations of one cell -> importances and scores of every feature: the path through the kernels.

    activations --(distances)--> targets --(one pass over the pairs)--> moments
    moments --(metric)--> weights --(importance)--> importances, errors, scores

Arrays in, arrays out. All outputs of a target are packed into one row, so that a lazy graph has
one task per block of activations; `output_layout` says what stands where.
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk

from mlem_xr.kernels import importance as kernel
from mlem_xr.kernels import metric, moments
from mlem_xr.kernels.conditional import residuals
from mlem_xr.kernels.distances import distances, distances_from_products, standardise
from mlem_xr.kernels.moments import BLOCK
from mlem_xr.pairs import N_FOLDS, PairDesign, pair_design

ABSOLUTE_DIFFERENCE = ("euclidean", "l2", "l1", "manhattan", "cityblock", "minkowski", "chebyshev")
"""Distances that are |a_i - a_j| in one dimension, so that the fused kernel serves them."""


class Settings(NamedTuple):
    """The options of an importance analysis."""

    distance: str
    min_max: bool
    zscore: bool
    conditional: bool | str
    folds: str
    random_state: int
    alphas: tuple[float, ...]
    mae: bool


class Prepared(NamedTuple):
    """What depends on the stimuli alone."""

    design: PairDesign
    rows: Sequence[metric.FoldRegressors]
    """The patterns of each fold as it is trained."""
    permutations: Sequence[kernel.Permutation]
    """The design arrays of the importances of each fold."""


def output_layout(n_features: int, *, mae: bool) -> dict[str, tuple[int, ...]]:
    """Name the outputs of a target in the order in which they are packed, with their shapes.

    Parameters
    ----------
    n_features : int
        Number of features.
    mae : bool
        Whether the mean absolute error is computed.

    Returns
    -------
    dict of str to tuple of int
        Variable to shape.

    Examples
    --------
    >>> output_layout(3, mae=False)["weight"]
    (2, 3)
    """
    layout: dict[str, tuple[int, ...]] = {
        "importance": (n_features,),
        "std_error": (n_features,),
        "p_value": (n_features,),
        "weight": (N_FOLDS, n_features),
        "alpha": (N_FOLDS,),
        "intercept": (N_FOLDS,),
        "r2": (),
        "r": (),
        "mse": (),
    }
    return layout | ({"mae": ()} if mae else {})


def output_size(n_features: int, *, mae: bool) -> int:
    """Return the length of a packed row of outputs."""
    return sum(math.prod(shape) for shape in output_layout(n_features, mae=mae).values())


def explain_layer(activation: NDArray, codes: NDArray, settings: Settings) -> NDArray:
    """Explain the distances over all units of a layer.

    Parameters
    ----------
    activation : ndarray (sentence, unit)
        Finite activations.
    codes : ndarray of int32 (sentence, feature)
        Feature codes.
    settings : Settings
        Options.

    Returns
    -------
    ndarray of float64 (output)
        Packed outputs.
    """

    def matrices() -> Iterator[NDArray]:
        yield distances(activation, distance=settings.distance, zscore=settings.zscore)

    return _explain_distances(matrices, codes, settings)[0]


def explain_units(activation: NDArray, codes: NDArray, settings: Settings) -> NDArray:
    """Explain the distances over each unit alone.

    Parameters
    ----------
    activation : ndarray (sentence, unit)
        Finite activations.
    codes : ndarray of int32 (sentence, feature)
        Feature codes.
    settings : Settings
        Options.

    Returns
    -------
    ndarray of float64 (unit, output)
        Packed outputs.
    """
    scaled = standardise(activation) if settings.zscore else np.asarray(activation, np.float64)
    if settings.distance == "norm_diff":
        scaled = np.abs(scaled)
    elif settings.distance not in ABSOLUTE_DIFFERENCE:

        def matrices() -> Iterator[NDArray]:
            for column in scaled.T:
                yield distances(column[:, np.newaxis], distance=settings.distance)

        return _explain_distances(matrices, codes, settings)
    prepared = _prepare(codes, settings)
    blocks = (scaled[:, b : b + BLOCK] for b in range(0, scaled.shape[1], BLOCK))
    return np.concatenate([_explain_block(block, prepared, settings) for block in blocks])


def explain_top_units(
    activation: NDArray, score: NDArray, codes: NDArray, settings: Settings, k: Sequence[int]
) -> NDArray:
    """Explain the distances over the k units with the largest scores, for every k in one sweep.

    The squared Euclidean distances of the ranked units add up, so that a larger k costs only its
    additional units; other distances are computed anew for each k.

    Parameters
    ----------
    activation : ndarray (sentence, unit)
        Finite activations.
    score : ndarray of float64 (unit)
        Units with larger scores come first; NaN: never.
    codes : ndarray of int32 (sentence, feature)
        Feature codes.
    settings : Settings
        Options.
    k : sequence of int
        Numbers of units, ascending; all units that equal the k-th are in too.

    Returns
    -------
    ndarray of float64 (k, output + 1)
        Packed outputs, and last the smallest score that is in; NaN if no unit has a score.
    """
    ranked = np.flatnonzero(~np.isnan(score))
    ranked = ranked[np.argsort(-score[ranked], kind="stable")]
    if not len(ranked):
        size = output_size(codes.shape[1], mae=settings.mae)
        return np.full((len(k), size + 1), np.nan)
    smallest = score[ranked[np.minimum(k, len(ranked)) - 1]]
    n_chosen = (score >= smallest[:, np.newaxis]).sum(axis=1)
    values = activation.T[ranked[: n_chosen.max()]].T.astype(np.float64)
    scaled = standardise(values) if settings.zscore else values - values.mean(axis=0)

    def matrices() -> Iterator[NDArray]:
        if settings.distance in ("euclidean", "l2"):
            yield from _growing_distances(scaled, n_chosen)
        else:
            for n_units in n_chosen:
                part = (scaled if settings.zscore else values)[:, :n_units]
                yield distances(part, distance=settings.distance)

    return np.column_stack([_explain_distances(matrices, codes, settings), smallest])


def _growing_distances(activation: NDArray, n_units: Sequence[int]) -> Iterator[NDArray]:
    """Yield the Euclidean distances over the first n units, n ascending, in one array.

    Above the diagonal, where the pairs are. More units add their scalar products to those of the
    units before.
    """
    product = np.zeros((len(activation), len(activation)), order="F")
    distance = np.zeros(product.shape)
    done = 0
    for n in n_units:
        added = activation[:, done:n]
        # Its lower triangle, in the order of BLAS, is the upper one of the transposed array.
        product = dsyrk(1.0, added, 1.0, product, lower=True, overwrite_c=True)
        distances_from_products(product.T, distance)
        done = n
        yield distance


def _explain_distances(
    matrices: Callable[[], Iterator[NDArray]], codes: NDArray, settings: Settings
) -> NDArray:
    """Explain matrices of distances, of which one at a time is in memory: (target, output)."""
    prepared = _prepare(codes, settings)
    pairs, scalings, sums = prepared.design.pairs, [], []
    for matrix in matrices():
        scaling = moments.distance_scaling(matrix, min_max=settings.min_max)
        scalings.append(scaling)
        sums.append(moments.distance_moments(matrix, *scaling, *pairs))

    def absolute_error(prediction: NDArray) -> NDArray:
        columns = zip(matrices(), scalings, prediction.T, strict=True)
        return np.stack(
            [
                moments.distance_absolute_error(matrix, *scaling, *pairs, column)
                for matrix, scaling, column in columns
            ],
            axis=1,
        )

    total, total_squared = (np.stack(s, axis=1) for s in zip(*sums, strict=True))
    return _explain_targets((total, total_squared), prepared, settings, absolute_error)


def _explain_block(activation: NDArray, prepared: Prepared, settings: Settings) -> NDArray:
    """Explain a block of units: (unit, output)."""
    pairs = prepared.design.pairs
    target = moments.unit_target(activation, min_max=settings.min_max)
    sums = moments.unit_moments(target, pairs)

    def absolute_error(prediction: NDArray) -> NDArray:
        return moments.unit_absolute_error(target, pairs, prediction)

    outputs = _explain_targets(sums, prepared, settings, absolute_error)
    return outputs[: activation.shape[1]]


def _prepare(codes: NDArray, settings: Settings) -> Prepared:
    """Return what depends on the stimuli alone, computed once per process."""
    with _preparing:
        return _cached_preparation(
            codes.tobytes(),
            codes.shape,
            settings.folds,
            settings.random_state,
            settings.conditional,
        )


_preparing = threading.Lock()


@lru_cache(maxsize=4)
def _cached_preparation(
    code_bytes: bytes,
    shape: tuple[int, int],
    folds: str,
    random_state: int,
    conditional: bool | str,
) -> Prepared:
    codes = np.frombuffer(code_bytes, dtype=np.int32).reshape(shape)
    design = pair_design(codes, folds=folds, random_state=random_state)
    pattern = design.pattern
    heldout = design.n_pairs.sum(axis=1)
    rows = [
        metric.FoldRegressors(
            metric.regressors(pattern, design.n_pairs[1 - fold, 0]),
            metric.regressors(pattern, design.n_pairs[1 - fold, 1]),
            metric.regressors(pattern, heldout[1 - fold]),
        )
        for fold in range(N_FOLDS)
    ]
    permuted = [
        residuals(pattern, count, conditional, random_state) if conditional else pattern
        for count in heldout
    ]
    permutations = [
        kernel.permutation(x, count) for x, count in zip(permuted, heldout, strict=True)
    ]
    return Prepared(design, rows, permutations)


def _explain_targets(
    sums: tuple[NDArray, NDArray],
    prepared: Prepared,
    settings: Settings,
    absolute_error: Callable[[NDArray], NDArray],
) -> NDArray:
    """Go from the moments of a block of targets (group, target) to outputs (target, output)."""
    design = prepared.design
    total, total_squared = (s.reshape(*design.n_pairs.shape, -1) for s in sums)
    # The pairs that a fold holds out are those that the other fold is trained on.
    whole, whole_squared = total.sum(axis=1), total_squared.sum(axis=1)
    alphas = np.asarray(settings.alphas)
    fits, heldouts, scores = [], [], []
    for fold, other in ((0, 1), (1, 0)):
        fit = metric.fit(
            prepared.rows[fold], total[other, 0], total[other, 1], whole[other], alphas
        )
        moments_of_fold = (prepared.permutations[fold].n_pairs, whole[fold], whole_squared[fold])
        held = kernel.heldout(fit, design.pattern, *moments_of_fold)
        fits.append(fit)
        heldouts.append(held)
        scores.append(kernel.scores(held, *moments_of_fold))
    mean, std_error = kernel.importance(fits, prepared.permutations, heldouts)
    outputs = {
        "importance": mean,
        "std_error": std_error,
        "p_value": kernel.p_value(mean, std_error),
        "weight": np.stack([fit.weight for fit in fits], axis=1),
        "alpha": np.stack([fit.alpha for fit in fits], axis=1),
        "intercept": np.stack([fit.intercept for fit in fits], axis=1),
        **{name: np.mean([score[name] for score in scores], axis=0) for name in scores[0]},
    }
    if settings.mae:
        prediction = np.stack([held.prediction for held in heldouts])
        error = _mean_absolute_error(prediction, design, absolute_error)
        outputs["mae"] = np.where(np.isnan(outputs["mse"]), np.nan, error)
    n_targets = len(mean)
    layout = output_layout(design.pattern.shape[1], mae=settings.mae)
    return np.concatenate([outputs[name].reshape(n_targets, -1) for name in layout], axis=1)


def _mean_absolute_error(
    prediction: NDArray, design: PairDesign, absolute_error: Callable[[NDArray], NDArray]
) -> NDArray:
    """Average |y - f| over the held-out pairs of each fold, then over folds: (target)."""
    n_folds, n_subsets, n_patterns = design.n_pairs.shape
    per_group = np.repeat(prediction[:, np.newaxis], n_subsets, axis=1)
    error = absolute_error(per_group.reshape(n_folds * n_subsets * n_patterns, -1))
    per_fold = error.reshape(n_folds, n_subsets * n_patterns, -1).sum(axis=1)
    return (per_fold / design.n_pairs.sum(axis=(1, 2))[:, np.newaxis]).mean(axis=0)
