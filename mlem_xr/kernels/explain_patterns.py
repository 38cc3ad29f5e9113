"""The road over covariate patterns: any distance, target and folds, one pass over the pairs."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels import influence, moments, permutation
from mlem_xr.kernels.design import PairDesign, pair_design
from mlem_xr.kernels.errors import Undefined
from mlem_xr.kernels.features import Features
from mlem_xr.kernels.folds import N_FOLDS, TRAIN, VALIDATION, split
from mlem_xr.kernels.metrics import Groups, Metrics, Outputs, fit_metrics, outputs_of
from mlem_xr.kernels.patterns import worthwhile
from mlem_xr.kernels.permutation import PairPermutation
from mlem_xr.kernels.statistics import FoldStatistics, crossed, statistics
from mlem_xr.kernels.targets import TARGETS

Targets = Callable[[], Iterator[NDArray]]
"""Gives targets one at a time."""


def design_of(features: Features, options: Any) -> PairDesign | None:
    """Return the design of all pairs, which is made once per process.

    None where there are no patterns, or so many that single pairs are as good.
    """
    most = None if options.conditional else worthwhile(len(features.codes))
    found = pair_design(features, folds=options.folds, random_state=options.random_state, most=most)
    if found is None and options.conditional:
        raise Undefined(
            "conditional: found features of too many different distances; expected features that "
            "have few, so that many pairs are alike"
        )
    return found


class _PairSums(NamedTuple):
    """Moments of T targets per group (fold, subset, pattern), and what gives the targets again."""

    total: NDArray
    """Sums of the targets: (group, T)."""
    total_squared: NDArray
    """Sums of their squares: (group, T)."""
    absolute_error: Callable[[NDArray], NDArray]
    """Predictions (group, T) -> sums of |y - f|: (group, T)."""
    targets: Targets
    """Gives each target of the sorted pairs: (pair)."""


def explain_targets(
    targets: Targets, design: PairDesign, items: NDArray, groups: NDArray, options: Any
) -> Outputs:
    """Explain matrices of targets, of which one at a time is in memory."""

    def absolute_error(prediction: NDArray) -> NDArray:
        columns = zip(targets(), prediction.T, strict=True)
        errors = [moments.pair_absolute_error(y, *design.pairs, column) for y, column in columns]
        return np.stack(errors, axis=1)

    def of_pairs() -> Iterator[NDArray]:
        for target in targets():
            yield target[design.pairs.first, design.pairs.second]

    sums = [moments.pair_moments(target, *design.pairs) for target in targets()]
    total, total_squared = (np.stack(s, axis=1) for s in zip(*sums, strict=True))
    return _explain_sums(
        _PairSums(total, total_squared, absolute_error, of_pairs), design, items, groups, options
    )


def explain_block(
    activation: NDArray, design: PairDesign, items: NDArray, groups: NDArray, options: Any
) -> Outputs:
    """Explain a block of up to 64 units."""
    of_units = TARGETS[options.target].of_units
    assert of_units is not None
    target = of_units(activation, options.min_max)
    n_units = activation.shape[1]

    def absolute_error(prediction: NDArray) -> NDArray:
        return moments.unit_absolute_error(target, design.pairs, prediction)

    def of_pairs() -> Iterator[NDArray]:
        for unit in range(n_units):
            yield moments.targets_of_unit(target, design.pairs, unit)

    sums = moments.unit_moments(target, design.pairs)
    pair_sums = _PairSums(*sums, absolute_error, of_pairs)
    outputs = _explain_sums(pair_sums, design, items, groups, options)
    return {name: values[:n_units] for name, values in outputs.items()}


def _explain_sums(
    sums: _PairSums, design: PairDesign, items: NDArray, groups: NDArray, options: Any
) -> Outputs:
    """Go from moments to the outputs of every target."""
    pattern = design.pattern
    total, total_squared = (
        s.reshape(*design.n_pairs.shape, -1) for s in (sums.total, sums.total_squared)
    )
    whole, whole_squared = total.sum(axis=1), total_squared.sum(axis=1)
    folds = fold_statistics(total, total_squared, design)
    permutations = design.permutations(options.conditional)
    permuted = [
        permutation.residuals(permutations[f], pattern, whole[f])
        if options.conditional
        else permutation.features(folds[f].held_out)
        for f in range(N_FOLDS)
    ]
    of_groups = [design.permutations(options.conditional, tuple(own)) for own in groups.tolist()]
    sums_of_groups = [
        [permutation.residuals(own[f], pattern, whole[f]) for own in of_groups]
        for f in range(N_FOLDS)
    ]
    together = Groups(groups, sums_of_groups)
    metrics = fit_metrics(folds, permuted, options, together)
    if options.folds == "pairs":
        held_out = list(zip(whole, whole_squared, strict=True))
        error = _errors_over_pairs(
            design, folds, metrics, permutations, of_groups, together, held_out
        )
    else:
        of_groups_by_members = list(zip(groups, of_groups, strict=True))
        error = _errors_over_sentences(
            sums, design, folds, metrics, items, of_groups_by_members, options
        )
    outputs = outputs_of(metrics, error)
    if options.mae:
        prediction = np.stack([pattern @ fit.weight.T + fit.intercept for fit in metrics.fits])
        mae = _mean_absolute_error(prediction, design, sums.absolute_error)
        outputs["mae"] = np.where(np.isnan(outputs["mse"]), np.nan, mae)
    return outputs


def fold_statistics(
    total: NDArray, total_squared: NDArray, design: PairDesign
) -> list[FoldStatistics]:
    """Sum moments (fold, subset, pattern, T) over the patterns of each fold."""
    of_fold = []
    for fold, rows in enumerate(design.regressors):
        y, yy = (
            (values[fold, TRAIN], values[fold, VALIDATION], values[fold].sum(axis=0))
            for values in (total, total_squared)
        )
        parts = zip(rows, y, yy, strict=True)
        of_fold.append([statistics(part[0], design.pattern, *part[1:]) for part in parts])
    return crossed(of_fold)


def _errors_over_pairs(
    design: PairDesign,
    folds: Sequence[FoldStatistics],
    metrics: Metrics,
    permutations: Sequence[PairPermutation],
    of_groups: Sequence[Sequence[PairPermutation]],
    groups: Groups,
    held_out: Sequence[tuple[NDArray, NDArray]],
) -> NDArray:
    """Compute the original's errors of the importances: (T, feature + group)."""
    pattern, mean = design.pattern, metrics.importance
    n_features, n_pairs = pattern.shape[1], float(design.n_held_out.sum())
    columns = [
        permutation.error_over_pairs(
            metrics.fits, permutations, held_out, pattern, mean[:, :n_features]
        )
    ]
    for g, (members, own) in enumerate(zip(groups.members, of_groups, strict=True)):
        spread = [
            permutation.group_spread_over_pairs(
                metrics.fits[f],
                members,
                own[f],
                groups.permuted[f][g],
                folds[f].held_out.regressors.n_pairs,
                *held_out[f],
                pattern,
                mean[:, n_features + g],
            )
            for f in range(N_FOLDS)
        ]
        columns.append(permutation.error_of_spread(np.sum(spread, axis=0), n_pairs))
    return np.column_stack(columns)


def _errors_over_sentences(
    sums: _PairSums,
    design: PairDesign,
    folds: Sequence[FoldStatistics],
    metrics: Metrics,
    items: NDArray,
    groups: Sequence[tuple[NDArray, Sequence[PairPermutation]]],
    options: Any,
) -> NDArray:
    """Compute the standard errors of the importances and of R2: (T, feature + group + 1)."""
    n_subsets = design.n_pairs.shape[1]
    permutations = design.permutations(options.conditional)
    r2 = [influence.of_r2(scores) for scores in metrics.scores]
    held_out, _ = split(len(items), options.random_state)
    own = [np.flatnonzero(held_out == f) for f in range(N_FOLDS)]
    members = np.array([own for own, _ in groups], bool).reshape(-1, items.shape[1])
    number = influence.items_of(influence.with_groups(items, members)).number
    numbers = [influence.with_score(number[sentences]) for sentences in own]
    errors = np.zeros((metrics.importance.shape[0], metrics.importance.shape[1] + 1))
    for t, target in enumerate(sums.targets()):
        parts = [
            influence.of_patterns(
                metrics.fits[f],
                t,
                folds[f].held_out,
                permutations[f],
                design.pattern,
                r2[f],
                [(own, permuted[f]) for own, permuted in groups],
            )
            for f in range(N_FOLDS)
        ]
        constant, linear, square = (
            np.concatenate([values for values in each for _ in range(n_subsets)])
            for each in zip(*parts, strict=True)
        )
        totals = np.zeros((len(items), errors.shape[1]))
        first, second, start = design.pairs
        moments.pair_influences(target, first, second, start, constant, linear, square, totals)
        errors[t] = influence.standard_errors([totals[s] for s in own], metrics.shares, numbers)
    return errors


def _mean_absolute_error(
    prediction: NDArray, design: PairDesign, absolute_error: Callable[[NDArray], NDArray]
) -> NDArray:
    """Average |y - f| over the held-out pairs of each fold, then over folds: (target)."""
    n_folds, n_subsets, n_patterns = design.n_pairs.shape
    per_group = np.repeat(prediction[:, np.newaxis], n_subsets, axis=1)
    error = absolute_error(per_group.reshape(n_folds * n_subsets * n_patterns, -1))
    per_fold = error.reshape(n_folds, n_subsets * n_patterns, -1).sum(axis=1)
    return (per_fold / design.n_pairs.sum(axis=(1, 2))[:, np.newaxis]).mean(axis=0)
