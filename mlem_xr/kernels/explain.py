"""Activations -> importances and scores of every feature: the path through the kernels.

    activations --(distances)--> targets --(one pass over the pairs)--> moments
    moments --(ridge)--> weights --(permutation)--> importances, errors, scores

The functions take finite activations (sentence, unit), the codes of the features, int32
(sentence, feature) with -1 where undefined, and the options of an analysis of importance as
attributes of `options`. T targets give, by name, float64

    importance, std_error, p_value    (T, feature)
    weight                            (T, fold, feature)
    alpha, intercept                  (T, fold)
    r2, r, mse, variance, and mae if asked for  (T)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk

from mlem_xr.kernels import moments, permutation, ridge
from mlem_xr.kernels.design import PairDesign, pair_design
from mlem_xr.kernels.distances import (
    DISTANCES,
    distance_matrix,
    distances_from_products,
    is_constant,
    standardize,
    without_rounding,
)
from mlem_xr.kernels.targets import BLOCK, TARGETS

Matrices = Callable[[], Iterator[NDArray]]
"""Gives distances (sentence, sentence), one at a time, which may be overwritten."""


def explain_layer(activation: NDArray, codes: NDArray, options: Any) -> dict[str, NDArray]:
    """Explain the distances over all units of a layer: one target, without its axis."""

    def matrices() -> Iterator[NDArray]:
        yield distance_matrix(activation, options.distance, zscore=options.zscore)

    outputs = _explain_distances(matrices, codes, options)
    return {name: values[0] for name, values in outputs.items()}


def explain_units(activation: NDArray, codes: NDArray, options: Any) -> dict[str, NDArray]:
    """Explain the distances over each unit alone: a target per unit."""
    distance, target = DISTANCES[options.distance], TARGETS[options.target]
    if is_constant(activation):
        activation = np.zeros_like(activation)
    activation = without_rounding(activation)
    scaled = standardize(activation) if options.zscore else activation
    if distance.on_line is None or target.of_units is None:

        def matrices() -> Iterator[NDArray]:
            for column in scaled.T:
                yield distance_matrix(column[:, np.newaxis], options.distance)

        return _explain_distances(matrices, codes, options)
    design = _design(codes, options)
    positions = distance.on_line(scaled)
    blocks = [
        _explain_block(positions[:, start : start + BLOCK], design, options)
        for start in range(0, positions.shape[1], BLOCK)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def explain_top_units(
    activation: NDArray, score: NDArray, codes: NDArray, options: Any
) -> dict[str, NDArray]:
    """Explain the distances over the k units with the largest scores, for every k in one sweep.

    `score` is (unit), NaN: never; `options.k` ascends, and all units that equal the k-th are in
    too. The squared Euclidean distances of the ranked units add up, so that a larger k costs only
    its additional units; other distances are computed anew for each k. Returns a target per k, and
    `chosen`, bool (k, unit); nothing if no unit has a score.
    """
    ranked = np.flatnonzero(~np.isnan(score))
    ranked = ranked[np.argsort(-score[ranked], kind="stable")]
    if not len(ranked):
        return {}
    smallest = score[ranked[np.minimum(options.k, len(ranked)) - 1]]
    chosen = score >= smallest[:, np.newaxis]
    n_chosen = chosen.sum(axis=1)
    values = activation.T[ranked[: n_chosen.max()]].T.astype(np.float64)
    scaled = standardize(values) if options.zscore else values - values.mean(axis=0)

    def matrices() -> Iterator[NDArray]:
        if DISTANCES[options.distance].from_products:
            yield from _growing_distances(scaled, n_chosen)
        else:
            for n_units in n_chosen:
                part = (scaled if options.zscore else values)[:, :n_units]
                yield distance_matrix(part, options.distance)

    return _explain_distances(matrices, codes, options) | {"chosen": chosen}


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


def _design(codes: NDArray, options: Any) -> PairDesign:
    return pair_design(codes, folds=options.folds, random_state=options.random_state)


def _explain_distances(matrices: Matrices, codes: NDArray, options: Any) -> dict[str, NDArray]:
    """Explain matrices of distances, of which one at a time is in memory."""
    design = _design(codes, options)

    def targets() -> Iterator[NDArray]:
        for matrix in matrices():
            yield TARGETS[options.target].of_distances(matrix, options.min_max)

    def absolute_error(prediction: NDArray) -> NDArray:
        columns = zip(targets(), prediction.T, strict=True)
        errors = [moments.pair_absolute_error(y, *design.pairs, column) for y, column in columns]
        return np.stack(errors, axis=1)

    sums = [moments.pair_moments(target, *design.pairs) for target in targets()]
    total, total_squared = (np.stack(s, axis=1) for s in zip(*sums, strict=True))
    return _explain_targets(total, total_squared, design, options, absolute_error)


def _explain_block(activation: NDArray, design: PairDesign, options: Any) -> Mapping[str, NDArray]:
    """Explain a block of up to 64 units."""
    of_units = TARGETS[options.target].of_units
    assert of_units is not None
    target = of_units(activation, options.min_max)
    sums = moments.unit_moments(target, design.pairs)

    def absolute_error(prediction: NDArray) -> NDArray:
        return moments.unit_absolute_error(target, design.pairs, prediction)

    outputs = _explain_targets(*sums, design, options, absolute_error)
    return {name: values[: activation.shape[1]] for name, values in outputs.items()}


def _explain_targets(
    total: NDArray,
    total_squared: NDArray,
    design: PairDesign,
    options: Any,
    absolute_error: Callable[[NDArray], NDArray],
) -> dict[str, NDArray]:
    """Go from moments (group, target) to the outputs of every target."""
    total, total_squared = (s.reshape(*design.n_pairs.shape, -1) for s in (total, total_squared))
    # The pairs that a fold holds out are those that the other fold is trained on.
    whole, whole_squared = total.sum(axis=1), total_squared.sum(axis=1)
    permutations = design.permutations(options.conditional)
    fits, heldouts, scores = [], [], []
    for fold, other in ((0, 1), (1, 0)):
        training = (total[other, 0], total[other, 1], whole[other])
        fit = ridge.fit(design.regressors[fold], *training, np.asarray(options.alphas))
        held_out = (design.n_held_out[fold], whole[fold], whole_squared[fold])
        held = permutation.heldout(fit, design.pattern, *held_out)
        fits.append(fit)
        heldouts.append(held)
        scores.append(permutation.scores(held, *held_out))
    mean, std_error = permutation.importance(fits, permutations, heldouts)
    outputs = {
        "importance": mean,
        "std_error": std_error,
        "p_value": permutation.p_value(mean, std_error),
        **{
            name: np.stack([getattr(fit, name) for fit in fits], axis=1)
            for name in ("weight", "alpha", "intercept")
        },
        **{name: np.mean([score[name] for score in scores], axis=0) for name in scores[0]},
    }
    if options.mae:
        prediction = np.stack([held.prediction for held in heldouts])
        error = _mean_absolute_error(prediction, design, absolute_error)
        outputs["mae"] = np.where(np.isnan(outputs["mse"]), np.nan, error)
    return outputs


def _mean_absolute_error(
    prediction: NDArray, design: PairDesign, absolute_error: Callable[[NDArray], NDArray]
) -> NDArray:
    """Average |y - f| over the held-out pairs of each fold, then over folds: (target)."""
    n_folds, n_subsets, n_patterns = design.n_pairs.shape
    per_group = np.repeat(prediction[:, np.newaxis], n_subsets, axis=1)
    error = absolute_error(per_group.reshape(n_folds * n_subsets * n_patterns, -1))
    per_fold = error.reshape(n_folds, n_subsets * n_patterns, -1).sum(axis=1)
    return (per_fold / design.n_pairs.sum(axis=(1, 2))[:, np.newaxis]).mean(axis=0)
