"""The road over single pairs: features whose distances differ from pair to pair.

The pairs of one sentence at a time, in one pass, give the statistics. With folds of sentences each
pair is met from both sides, so that the same pass gives each sentence's own sums, which its
influences are functions of; with folds of pairs the errors take a second pass. No array is as long
as the pairs but one byte each for folds of pairs.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels import influence, permutation
from mlem_xr.kernels.features import Features
from mlem_xr.kernels.folds import ACROSS, N_FOLDS, TRAIN, VALIDATION, pair_labels, split, too_few
from mlem_xr.kernels.metrics import Groups, Metrics, Outputs, fit_metrics, outputs_of
from mlem_xr.kernels.statistics import FoldStatistics, Regressors, Statistics, crossed, together
from mlem_xr.kernels.targets import TARGETS

TargetsOf = Callable[[int, NDArray], NDArray]
"""Takes a sentence and its partners; returns targets, float64 (partner, T)."""

_TOGETHER = 1024
"""Pairs worked on together: their targets stay in cache."""


class _Part(NamedTuple):
    """Some pairs of one sentence, all of one subset of one fold."""

    fold: int
    subset: int
    sentence: int
    partner: NDArray


class _Sums(NamedTuple):
    """Sums over the pairs of several sets, whose axes come first."""

    n_pairs: NDArray
    x: NDArray
    """(..., F)"""
    xx: NDArray
    """(..., F, F)"""
    y: NDArray
    """(..., T)"""
    xy: NDArray
    """(..., T, F)"""
    yy: NDArray
    """(..., T)"""

    def of(self, where: tuple[int, int], share: float) -> Statistics:
        """Return a share of the sums of one set."""
        n, x, xx, y, xy, yy = (share * sums[where] for sums in self)
        return Statistics(Regressors(float(n), x, xx), y, xy, yy)


def explain_targets(
    targets: TargetsOf,
    n_targets: int,
    features: Features,
    items: NDArray,
    groups: NDArray,
    options: Any,
) -> Outputs:
    """Explain targets of pairs of sentences by features of any kind."""
    folds, of_sentences = statistics_over_pairs(targets, n_targets, features, options)
    permuted = [permutation.features(fold.held_out) for fold in folds]
    of_groups = Groups(groups, [[own] * len(groups) for own in permuted])
    metrics = fit_metrics(folds, permuted, options, of_groups)
    if options.folds == "sentences":
        error = _errors_over_sentences(of_sentences, folds, metrics, items, groups, options)
    else:
        error = _errors_over_pairs(targets, features, folds, metrics, of_groups, options)
    outputs = outputs_of(metrics, error)
    if options.mae:
        mae = _mean_absolute_error(targets, features, metrics, options)
        outputs["mae"] = np.where(np.isnan(outputs["mse"]), np.nan, mae)
    return outputs


def statistics_over_pairs(
    targets: TargetsOf, n_targets: int, features: Features, options: Any
) -> tuple[list[FoldStatistics], _Sums]:
    """Sum over the pairs of each fold; with folds of sentences over the pairs of each, too."""
    over_sentences = options.folds == "sentences"
    n, n_features = len(features.codes), features.n_features
    of_sets = _nothing((N_FOLDS, ACROSS + 1), n_features, n_targets)
    of_sentences = _nothing((n if over_sentences else 0,), n_features, n_targets)
    for part, x, y in _pairs(targets, features, options):
        sums = (len(x), x.sum(axis=0), x.T @ x, y.sum(axis=0), y.T @ x, (y**2).sum(axis=0))
        for table, own in zip(of_sets, sums, strict=True):
            table[part.fold, part.subset] += own
        if over_sentences:
            for table, own in zip(of_sentences, sums, strict=True):
                table[part.sentence] += own
    if (of_sets.n_pairs[:, [TRAIN, VALIDATION]] == 0).any():
        raise too_few(n, options.folds)
    return _fold_statistics(of_sets, 0.5 if over_sentences else 1.0), of_sentences


def explain_block(
    activation: NDArray, features: Features, items: NDArray, groups: NDArray, options: Any
) -> Outputs:
    """Explain a block of up to 64 units."""
    targets = of_block(activation, options)
    return explain_targets(targets, activation.shape[1], features, items, groups, options)


def of_block(activation: NDArray, options: Any) -> TargetsOf:
    """Take a target from each of up to 64 units."""
    of_units = TARGETS[options.target].of_units
    assert of_units is not None
    target = of_units(activation, options.min_max)
    n_units = activation.shape[1]
    position = target.activation[:, :n_units].astype(np.float64)
    shift, scale = target.shift[:n_units], target.scale[:n_units]

    def targets(sentence: int, partner: NDArray) -> NDArray:
        return (np.abs(position[partner] - position[sentence]) - shift) ** 2 * scale

    return targets


def of_matrix(target: NDArray) -> TargetsOf:
    """Take targets from a matrix (sentence, sentence), read above the diagonal alone."""

    def targets(sentence: int, partner: NDArray) -> NDArray:
        return target[np.minimum(sentence, partner), np.maximum(sentence, partner), np.newaxis]

    return targets


def _nothing(shape: tuple[int, ...], n_features: int, n_targets: int) -> _Sums:
    of_x, of_y = (n_features,), (n_targets,)
    ends = ((), of_x, of_x * 2, of_y, of_y + of_x, of_y)
    return _Sums(*(np.zeros(shape + end) for end in ends))


def _fold_statistics(sums: _Sums, share: float) -> list[FoldStatistics]:
    of_fold = []
    for fold in range(N_FOLDS):
        parts = [sums.of((fold, subset), share) for subset in range(ACROSS + 1)]
        of_fold.append([parts[TRAIN], parts[VALIDATION], together(parts)])
    return crossed(of_fold)


def _pairs(
    targets: TargetsOf, features: Features, options: Any
) -> Iterator[tuple[_Part, NDArray, NDArray]]:
    """Yield the pairs that are held out, with x (pair, F) and y (pair, T).

    With folds of sentences each comes twice, from both of its sentences.
    """
    n = len(features.codes)
    walk = _by_sentences if options.folds == "sentences" else _by_pairs
    for part in walk(n, options.random_state):
        for start in range(0, len(part.partner), _TOGETHER):
            partner = part.partner[start : start + _TOGETHER]
            sentence = np.full(len(partner), part.sentence)
            x = features.distances(sentence, partner)
            yield part._replace(partner=partner), x, targets(part.sentence, partner)


def _by_sentences(n: int, random_state: int) -> Iterator[_Part]:
    held_out, subset = split(n, random_state)
    for sentence in range(n):
        own = held_out == held_out[sentence]
        own[sentence] = False
        for other in (TRAIN, VALIDATION):
            partner = np.flatnonzero(own & (subset == other))
            joint = other if subset[sentence] == other else ACROSS
            yield _Part(int(held_out[sentence]), joint, sentence, partner)


def _by_pairs(n: int, random_state: int) -> Iterator[_Part]:
    label, n_subsets = _labels(n, random_state)
    start = 0
    for sentence in range(n - 1):
        own = label[start : start + n - 1 - sentence]
        start += len(own)
        for one in range(N_FOLDS * n_subsets):
            partner = sentence + 1 + np.flatnonzero(own == one)
            yield _Part(*divmod(one, n_subsets), sentence, partner)


@lru_cache(maxsize=1)
def _labels(n: int, random_state: int) -> tuple[NDArray, int]:
    return pair_labels(n, folds="pairs", random_state=random_state)


def _errors_over_pairs(
    targets: TargetsOf,
    features: Features,
    folds: list[FoldStatistics],
    metrics: Metrics,
    groups: Groups,
    options: Any,
) -> NDArray:
    """Compute the original's errors of the importances: (T, F + G)."""
    mean = metrics.importance
    spread = np.zeros(mean.shape)
    for part, x, y in _pairs(targets, features, options):
        rows = folds[part.fold].held_out.regressors
        permuted = permutation.permute_from(x, np.ones(len(x)), rows.mean, rows.mean_square)
        fit, n_features = metrics.fits[part.fold], features.n_features
        own = permutation.spread_over_pairs(fit, permuted, y, y**2, x, mean[:, :n_features])
        spread[:, :n_features] += own
        for g, (members, sums) in enumerate(
            zip(groups.members, groups.permuted[part.fold], strict=True), n_features
        ):
            spread[:, g] += permutation.group_spread_over_pairs(
                fit, members, permuted, sums, rows.n_pairs, y, y**2, x, mean[:, g]
            )
    n = sum(fold.held_out.regressors.n_pairs for fold in folds)
    return permutation.error_of_spread(spread, n)


def _errors_over_sentences(
    sums: _Sums,
    folds: list[FoldStatistics],
    metrics: Metrics,
    items: NDArray,
    groups: NDArray,
    options: Any,
) -> NDArray:
    """Compute the standard errors of the importances and of R2: (T, F + G + 1)."""
    held_out, _ = split(len(items), options.random_state)
    own = [np.flatnonzero(held_out == fold) for fold in range(N_FOLDS)]
    number = influence.items_of(influence.with_groups(items, groups)).number
    number = influence.with_score(number)
    numbers = [number[sentences] for sentences in own]
    r2 = [influence.of_r2(scores) for scores in metrics.scores]
    errors = []
    for t in range(len(metrics.importance)):
        totals = [
            influence.of_sentences(
                len(own[f]) - 1,
                influence.SentenceSums(
                    sums.x[own[f]],
                    np.einsum("ikk->ik", sums.xx)[own[f]],
                    sums.xx[own[f]] @ metrics.fits[f].weight[t],
                    sums.y[own[f], t],
                    sums.xy[own[f], t],
                    sums.yy[own[f], t],
                ),
                metrics.fits[f],
                t,
                folds[f].held_out,
                r2[f],
                (groups, sums.xx[own[f]]),
            )
            for f in range(N_FOLDS)
        ]
        errors.append(influence.standard_errors(totals, metrics.shares, numbers))
    return np.stack(errors)


def _mean_absolute_error(
    targets: TargetsOf, features: Features, metrics: Metrics, options: Any
) -> NDArray:
    """Average |y - f| over the held-out pairs of each fold, then over folds: (T)."""
    total, n_pairs = np.zeros((N_FOLDS, len(metrics.importance))), np.zeros((N_FOLDS, 1))
    for part, x, y in _pairs(targets, features, options):
        fit = metrics.fits[part.fold]
        total[part.fold] += np.abs(y - fit.intercept - x @ fit.weight.T).sum(axis=0)
        n_pairs[part.fold] += len(x)
    return (total / n_pairs).mean(axis=0)
