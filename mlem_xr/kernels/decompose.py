"""Activations -> parts of R2: every subset of the features, their shares, and the feature ceiling.

    activations --(distances, one pass over the pairs)--> moments per covariate pattern
    moments --(sums of a fold)--> statistics --(ridge, per subset)--> R2 of every subset --> shares
    moments --(means per pattern)--> R2 of the best function of the feature distances: the ceiling

The ceiling needs the patterns; so all goes over them, also where importances go over level sums.
Where features have so many distances that there are none, all but the ceiling comes from single
pairs.
Shapes: F features, S subsets, T targets, P patterns.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import comb

from mlem_xr.kernels import explain_pairs, moments, permutation, ridge
from mlem_xr.kernels.design import PairDesign, pair_design
from mlem_xr.kernels.distances import (
    distance_matrix,
    distances_of_units,
    find_distance,
    placed,
    prepared,
    rounding_of,
)
from mlem_xr.kernels.explain_patterns import fold_statistics
from mlem_xr.kernels.features import Features, features_of
from mlem_xr.kernels.folds import parts_of
from mlem_xr.kernels.metrics import Outputs, joined
from mlem_xr.kernels.statistics import FoldStatistics, Statistics
from mlem_xr.kernels.targets import BLOCK, TARGETS

MOST_EXACT = 14
"""Features of which all subsets are fitted: 16,384."""


def is_sampled(n_features: int, options: Any) -> bool:
    """Say whether orders of the features are drawn, instead of all of them counted."""
    return options.method == "sampled" or n_features > MOST_EXACT


def decompose(activation: NDArray, options: Any, **features: NDArray) -> Outputs:
    """Decompose the R2 of a layer, or of each of its units.

    Takes finite activations (sentence, unit), the options as attributes, and the arrays of
    `mlem_xr.kernels.features.Features` by name. T targets, one without its axis for
    ``per="layer"``, give, by name, float64

        r2                                (T, S), of `named_subsets`
        share, unique, alone, common      (T, F)
        share_std_error                   (T, F), where orders are drawn
        r2_ceiling                        (T, 2): lower, upper
    """
    known = features_of(**features, squared=options.scale == "squared")
    design = pair_design(known, folds=options.folds, random_state=options.random_state)
    if design is None:
        parts = _without_patterns(activation, known, options)
    elif options.per == "layer":
        parts = iter(
            [
                _decompose(
                    moments.pair_moments(_target(activation, options), *design.pairs),
                    design,
                    options,
                )
            ]
        )
    else:
        parts = (
            _decompose(sums, design, options) for sums in _of_units(activation, design, options)
        )
    outputs = joined(parts)
    return outputs if options.per == "unit" else {name: v[0] for name, v in outputs.items()}


def _target(activation: NDArray, options: Any) -> NDArray:
    parts = parts_of(len(activation), options)
    distance = distance_matrix(activation, options.distance, zscore=options.zscore, parts=parts)
    return TARGETS[options.target].of_distances(distance, options.min_max)


def _without_patterns(activation: NDArray, features: Features, options: Any) -> Iterator[Outputs]:
    """Decompose some targets at a time; without patterns, there is no ceiling: NaN."""
    for targets, n_targets in _targets_of_pairs(activation, options):
        folds, _ = explain_pairs.statistics_over_pairs(targets, n_targets, features, options)
        outputs, _ = _parts_of_r2(folds, features.n_features, options)
        yield outputs | {"r2_ceiling": np.full((n_targets, 2), np.nan)}


def _targets_of_pairs(
    activation: NDArray, options: Any
) -> Iterator[tuple[explain_pairs.TargetsOf, int]]:
    """Yield what gives the targets of pairs, and how many targets: of a layer, or of its units."""
    if options.per == "layer":
        yield explain_pairs.of_matrix(_target(activation, options)), 1
        return
    distance, target = find_distance(options.distance), TARGETS[options.target]
    rounding = rounding_of(activation, zscore=options.zscore)
    parts = parts_of(len(activation), options)
    scaled = prepared(activation, zscore=options.zscore, parts=parts)
    if distance.on_line is None or target.of_units is None:
        for matrix in distances_of_units(scaled, rounding, options.distance, parts):
            yield explain_pairs.of_matrix(target.of_distances(matrix, options.min_max)), 1
        return
    position = placed(scaled, rounding, distance.on_line, parts)
    for start in range(0, position.shape[1], BLOCK):
        block = position[:, start : start + BLOCK]
        yield explain_pairs.of_block(block, options), block.shape[1]


def _of_units(
    activation: NDArray, design: PairDesign, options: Any
) -> Iterator[tuple[NDArray, NDArray]]:
    """Yield the sums of y and of y^2 of some units at a time: (group, T)."""
    distance, target = find_distance(options.distance), TARGETS[options.target]
    rounding = rounding_of(activation, zscore=options.zscore)
    parts = parts_of(len(activation), options)
    scaled = prepared(activation, zscore=options.zscore, parts=parts)
    if distance.on_line is None or target.of_units is None:
        for matrix in distances_of_units(scaled, rounding, options.distance, parts):
            y = target.of_distances(matrix, options.min_max)
            yield moments.pair_moments(y, *design.pairs)
        return
    position = placed(scaled, rounding, distance.on_line, parts)
    for start in range(0, position.shape[1], BLOCK):
        block = position[:, start : start + BLOCK]
        sums = moments.unit_moments(target.of_units(block, options.min_max), design.pairs)
        total, total_squared = (s[:, : block.shape[1]] for s in sums)
        yield total, total_squared


def _decompose(sums: tuple[NDArray, NDArray], design: PairDesign, options: Any) -> Outputs:
    """Go from the moments of targets, (group) or (group, T), to the outputs."""
    # (fold, subset, pattern, T)
    total, total_squared = (s.reshape(*design.n_pairs.shape, -1) for s in sums)
    folds = fold_statistics(total, total_squared, design)
    outputs, variance = _parts_of_r2(folds, design.pattern.shape[1], options)
    ceiling = _ceiling(total.sum(axis=1), design.n_held_out, folds, variance)
    return outputs | {"r2_ceiling": ceiling}


def _parts_of_r2(
    folds: Sequence[FoldStatistics], n_features: int, options: Any
) -> tuple[Outputs, NDArray]:
    """Fit every subset: all outputs but the ceiling, and the variance of the targets (fold, T)."""
    sampled = is_sampled(n_features, options)
    plan = _plan(n_features, options.n_draws if sampled else None, options.random_state)
    alphas = np.asarray(options.alphas)
    scores = [_score_subsets(fold, plan.members, alphas) for fold in folds]
    r2, variance = (np.stack(values) for values in zip(*scores, strict=True))
    mean = r2.mean(axis=0)
    return {"r2": mean[:, : plan.n_named], **_parts(mean, plan)}, variance


def _score_subsets(
    fold: FoldStatistics, members: NDArray, alphas: NDArray
) -> tuple[NDArray, NDArray]:
    """Fit and score a metric per target and subset: R2 (T, S), variance of the target (T)."""
    n_targets = len(fold.held_out.y)
    r2, variance = np.empty((n_targets, len(members))), np.empty(n_targets)
    for t in range(n_targets):
        own = FoldStatistics(*(_only(sums, t) for sums in fold))
        fit = ridge.fit_subsets(own.train, own.validation, own.refit, alphas, members)
        scores = permutation.scores(fit, own)
        r2[t], variance[t] = scores["r2"], scores["variance"].item()
    return r2, variance


def _only(sums: Statistics, t: int) -> Statistics:
    """Return the sums of one target."""
    own = slice(t, t + 1)
    return Statistics(sums.regressors, sums.y[own], sums.xy[own], sums.yy[own])


def _ceiling(
    total: NDArray, n_pairs: NDArray, folds: Sequence[FoldStatistics], variance: NDArray
) -> NDArray:
    """Score the mean target of each pattern as its prediction: R2 (T, 2), means over the folds.

    Upper: the means of the held-out pairs themselves, y_g. Lower: the means f_g of the pairs that
    the fold is trained on, or of all of these where the pattern has none there. With shares p_g of
    the held-out pairs,

        upper = sum_g p_g (y_g - mean y)^2 / variance
        lower = upper - sum_g p_g (f_g - y_g)^2 / variance

    `total` are the sums of the targets (fold, P, T), `n_pairs` the pairs (fold, P), `variance` that
    of the held-out targets (fold, T).
    """
    r2 = []
    for f, fold in enumerate(folds):
        there, known = n_pairs[f] > 0, n_pairs[1 - f] > 0
        share = n_pairs[f, there] / n_pairs[f].sum()
        own = total[f, there] / n_pairs[f, there, np.newaxis]
        learned = np.tile(fold.refit.mean, (len(known), 1))
        learned[known] = total[1 - f, known] / n_pairs[1 - f, known, np.newaxis]
        upper = share @ (own - fold.held_out.mean) ** 2
        lower = upper - share @ (learned[there] - own) ** 2
        r2.append(np.stack([lower, upper], axis=1) / variance[f, :, np.newaxis])
    return np.mean(r2, axis=0)


class _Plan(NamedTuple):
    """Which subsets of the features are fitted, and what is made of their R2."""

    members: NDArray
    """The features of each: bool (S, F)."""
    n_named: int
    """So many of them, the first ones, are `named_subsets`."""
    before: NDArray
    """Subsets that each feature joins: positions (draw, F)."""
    after: NDArray
    """The same with the feature."""
    weight: NDArray
    """How much each of these gains counts in the feature's share: (draw, F)."""
    only: NDArray
    """Subset of each feature alone: positions (F)."""
    others: NDArray
    """Subset of all features but each: positions (F)."""
    sampled: bool


def named_subsets(n_features: int, sampled: bool) -> list[tuple[int, ...]]:
    """List the subsets whose R2 is returned, by size: all of them.

    Where orders are drawn: those with no feature, one, all but one, and all.
    """
    sizes = {0, 1, n_features - 1, n_features} if sampled else range(n_features + 1)
    return [subset for size in sorted(sizes) for subset in combinations(range(n_features), size)]


@lru_cache(maxsize=2)
def _plan(n_features: int, n_draws: int | None, random_state: int) -> _Plan:
    """Plan the exact shares, or those of some drawn orders, each followed by its reverse."""
    bit = np.uint64(1) << np.arange(n_features, dtype=np.uint64)
    whole, sampled = bit.sum(dtype=np.uint64), n_draws is not None
    named = named_subsets(n_features, sampled)
    masks = np.array([bit[list(subset)].sum(dtype=np.uint64) for subset in named], np.uint64)
    if n_draws is None:
        before = np.stack([masks[(masks & one) == 0] for one in bit], axis=1)
        # Of all orders, those in which just these features come before it.
        weight = 1 / (n_features * comb(n_features - 1, np.bitwise_count(before)))
    else:
        rng = np.random.default_rng(random_state)
        drawn = rng.permuted(np.tile(np.arange(n_features), (n_draws, 1)), axis=1)
        orders = np.stack([drawn, drawn[:, ::-1]], axis=1).reshape(-1, n_features)
        joined = np.bitwise_or.accumulate(bit[orders], axis=1)
        before = np.take_along_axis(joined, np.argsort(orders, axis=1), axis=1) ^ bit
        weight = np.full(before.shape, 1 / len(orders))
    masks = np.concatenate([masks, np.setdiff1d([before, before | bit], masks)])
    order = np.argsort(masks)

    def position(mask: NDArray) -> NDArray:
        return order[np.searchsorted(masks, mask, sorter=order)]

    return _Plan(
        members=(masks[:, np.newaxis] & bit) != 0,
        n_named=len(named),
        before=position(before),
        after=position(before | bit),
        weight=weight,
        only=position(bit),
        others=position(whole ^ bit),
        sampled=sampled,
    )


def _parts(r2: NDArray, plan: _Plan) -> Outputs:
    """Say what each feature adds to the R2 of the subsets (T, S), by name: (T, F)."""
    none, whole = r2[:, :1], r2[:, plan.n_named - 1 : plan.n_named]
    unique, alone = whole - r2[:, plan.others], r2[:, plan.only] - none
    shares, errors = [], []
    for before, after, weight in zip(plan.before.T, plan.after.T, plan.weight.T, strict=True):
        gain = r2[:, after] - r2[:, before]
        shares.append(gain @ weight)
        if plan.sampled:
            # An order and its reverse go together; the draws of such pairs are independent.
            pairs = gain.reshape(len(gain), -1, 2).mean(axis=2)
            errors.append(pairs.std(axis=1, ddof=1) / np.sqrt(pairs.shape[1]))
    parts = {"share": shares} | ({"share_std_error": errors} if plan.sampled else {})
    return {
        **{name: np.stack(values, axis=1) for name, values in parts.items()},
        "unique": unique,
        "alone": alone,
        "common": alone - unique,
    }
