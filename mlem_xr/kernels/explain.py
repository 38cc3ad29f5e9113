"""Activations -> importances and scores of every feature: the path through the kernels.

    activations --(distances, one pass over the pairs)--> moments per pattern --+
    activations --(power sums per level class)--> level sums -------------------+--> statistics
    statistics --(ridge)--> weights --(permutation)--> importances, scores --(influence)--> errors

Three roads lead to the statistics. Covariate patterns take any distance, target and folds. Level
classes take squared Euclidean distances, folds of sentences and categorical features, and cost as
much as there are sentences, not pairs; they are taken wherever they give the same. Single pairs are
taken where features have distances that differ from pair to pair, so that no two pairs are alike.

The functions take finite activations (sentence, unit), the `items` that the sentences belong to,
int32 (sentence, feature), as units of the errors, `groups` of features that are permuted together,
bool (group, feature), the options of an analysis of importance as
attributes of `options`, and the arrays of `mlem_xr.kernels.features.Features` by name. T targets
give, by name, float64

    importance, std_error, p_value    (T, feature), groups after the features
    weight                            (T, fold, feature)
    alpha, intercept                  (T, fold)
    r2, r, mse, variance              (T)
    r2_std_error with folds of sentences, mae if asked for  (T)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk

from mlem_xr.kernels import explain_levels, explain_pairs, explain_patterns
from mlem_xr.kernels.distances import (
    distance_matrix,
    distances_from_products,
    distances_of_units,
    find_distance,
    make_equal,
    moved,
    placed,
    prepared,
    rounding_of,
    standardize,
    without_rounding,
)
from mlem_xr.kernels.features import Features, features_of
from mlem_xr.kernels.folds import parts_of
from mlem_xr.kernels.metrics import Outputs, joined
from mlem_xr.kernels.targets import BLOCK, TARGETS

NO_GROUPS = np.empty((0, 0), bool)


def explain_layer(
    activation: NDArray,
    items: NDArray,
    options: Any,
    *,
    groups: NDArray = NO_GROUPS,
    **features: NDArray,
) -> Outputs:
    """Explain the distances over all units of a layer: one target, without its axis."""
    known = _known(features, options)
    in_space = find_distance(options.distance).in_space
    if _on_levels(known, groups, options) and in_space is not None:
        rounding = rounding_of(activation, zscore=options.zscore)
        scaled = prepared(activation, zscore=options.zscore)
        outputs = _explain_position(scaled, rounding, in_space, known, items, options)
    else:
        parts = parts_of(len(activation), options)
        distance = distance_matrix(activation, options.distance, zscore=options.zscore, parts=parts)
        target = TARGETS[options.target].of_distances(distance, options.min_max)
        outputs = _explain_matrices(lambda: iter([target]), known, items, groups, options)
    return {name: values[0] for name, values in outputs.items()}


def explain_units(
    activation: NDArray,
    items: NDArray,
    options: Any,
    *,
    groups: NDArray = NO_GROUPS,
    **features: NDArray,
) -> Outputs:
    """Explain the distances over each unit alone: a target per unit.

    Whether all of them vary by rounding alone, beside the largest, is for the caller to see.
    """
    known = _known(features, options)
    distance, target = find_distance(options.distance), TARGETS[options.target]
    if _on_levels(known, groups, options) and distance.on_line is not None:
        return explain_levels.explain_units(activation, known.codes, items, options)
    rounding = rounding_of(activation, zscore=options.zscore)
    parts = parts_of(len(activation), options)
    scaled = without_rounding(activation, parts=parts)
    if options.zscore:
        scaled = standardize(scaled)
    if distance.on_line is None or target.of_units is None:

        def targets() -> Iterator[NDArray]:
            for matrix in distances_of_units(scaled, rounding, options.distance, parts):
                yield target.of_distances(matrix, options.min_max)

        return _explain_matrices(targets, known, items, groups, options)
    design = explain_patterns.design_of(known, options)
    positions = placed(scaled, rounding, distance.on_line, parts)
    blocks = (positions[:, start : start + BLOCK] for start in range(0, positions.shape[1], BLOCK))
    if design is None:
        return joined(explain_pairs.explain_block(b, known, items, groups, options) for b in blocks)
    return joined(explain_patterns.explain_block(b, design, items, groups, options) for b in blocks)


def explain_top_units(
    activation: NDArray,
    score: NDArray,
    items: NDArray,
    options: Any,
    *,
    groups: NDArray = NO_GROUPS,
    **features: NDArray,
) -> Outputs:
    """Explain the distances over the k units with the largest scores, for every k in one sweep.

    `score` is (unit), NaN: never; `options.k` ascends, and all units that equal the k-th are in
    too. The squared Euclidean distances of the ranked units add up, so that a larger k costs only
    its additional units; other distances are computed anew for each k. Returns a target per k, and
    `chosen`, bool (k, unit); nothing if no unit has a score.
    """
    known = _known(features, options)
    ranked = np.flatnonzero(~np.isnan(score))
    ranked = ranked[np.argsort(-score[ranked], kind="stable")]
    if not len(ranked):
        return {}
    smallest = score[ranked[np.minimum(options.k, len(ranked)) - 1]]
    chosen = score >= smallest[:, np.newaxis]
    n_chosen = chosen.sum(axis=1)
    best = activation.T[ranked[: n_chosen.max()]].T
    rounding = rounding_of(best, zscore=options.zscore)
    parts = parts_of(len(best), options)
    values = without_rounding(best, parts=parts)
    scaled = standardize(values) if options.zscore else values - values.mean(axis=0)
    distance = find_distance(options.distance)
    if _on_levels(known, groups, options) and distance.in_space is not None:
        own = scaled if options.zscore or distance.centered else values
        outputs = joined(
            _explain_position(
                own[:, :n_units], rounding[:n_units], distance.in_space, known, items, options
            )
            for n_units in n_chosen
        )
        return outputs | {"chosen": chosen}

    def matrices() -> Iterator[NDArray]:
        if distance.from_products:
            for distances in _growing_distances(scaled, n_chosen):
                make_equal(distances, best.dtype)
                yield distances
        else:
            for n_units in n_chosen:
                yield distance_matrix(
                    best[:, :n_units], options.distance, zscore=options.zscore, parts=parts
                )

    def targets() -> Iterator[NDArray]:
        for matrix in matrices():
            yield TARGETS[options.target].of_distances(matrix, options.min_max)

    return _explain_matrices(targets, known, items, groups, options) | {"chosen": chosen}


def _known(arrays: Mapping[str, NDArray], options: Any) -> Features:
    return features_of(**arrays, squared=options.scale == "squared")


def _on_levels(features: Features, groups: NDArray, options: Any) -> bool:
    alone = features.are_categorical and not len(groups)
    return alone and explain_levels.on_levels(options)


def _explain_position(
    activation: NDArray,
    rounding: NDArray,
    in_space: Callable[[NDArray], NDArray],
    features: Features,
    items: NDArray,
    options: Any,
) -> Outputs:
    """Explain squared distances in a space on level sums."""
    position = placed(activation, rounding, in_space)
    moves = moved(rounding, in_space)
    return explain_levels.explain_position(position, moves, features.codes, items, options)


def _explain_matrices(
    targets: Callable[[], Iterator[NDArray]],
    features: Features,
    items: NDArray,
    groups: NDArray,
    options: Any,
) -> Outputs:
    """Explain matrices of targets, given one at a time."""
    design = explain_patterns.design_of(features, options)
    if design is not None:
        return explain_patterns.explain_targets(targets, design, items, groups, options)
    return joined(
        explain_pairs.explain_targets(
            explain_pairs.of_matrix(t), 1, features, items, groups, options
        )
        for t in targets()
    )


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
