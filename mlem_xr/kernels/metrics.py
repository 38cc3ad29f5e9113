"""Statistics -> metrics, importances and scores: what follows from them on either road."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels import permutation, ridge
from mlem_xr.kernels.folds import N_FOLDS
from mlem_xr.kernels.permutation import Permuted
from mlem_xr.kernels.ridge import Fit
from mlem_xr.kernels.statistics import FoldStatistics

Outputs = dict[str, NDArray]
"""Results of some targets by name; see `mlem_xr.kernels.explain`."""


class Metrics(NamedTuple):
    """The metrics of both folds, and how well they predict."""

    fits: Sequence[Fit]
    scores: Sequence[dict[str, NDArray]]
    importances: Sequence[NDArray]
    """Of each fold: (T, feature), those of groups last."""
    shares: Sequence[NDArray]
    """How much each fold counts in the importances and in R2: (feature + 1)."""

    @property
    def importance(self) -> NDArray:
        """Return the means over folds, weighted by their pairs: (T, feature)."""
        parts = zip(self.importances, self.shares, strict=True)
        return np.sum([share[:-1] * importance for importance, share in parts], axis=0)


class Groups(NamedTuple):
    """Features that are permuted together."""

    members: NDArray
    """Whether a feature is in a group: bool (group, feature)."""
    permuted: Sequence[Sequence[Permuted]]
    """What is permuted, in each fold, of each group."""


def fit_metrics(
    folds: Sequence[FoldStatistics],
    permuted: Sequence[Permuted],
    options: Any,
    groups: Groups | None = None,
) -> Metrics:
    """Fit the metric of each fold, and score it and its features on what the fold holds out."""
    alphas = np.asarray(options.alphas)
    fits = [ridge.fit(fold.train, fold.validation, fold.refit, alphas) for fold in folds]
    scores = [permutation.scores(fit, fold) for fit, fold in zip(fits, folds, strict=True)]
    n_pairs = [fold.held_out.regressors.n_pairs for fold in folds]
    importances = [
        permutation.importance(fit, sums, n)
        for fit, sums, n in zip(fits, permuted, n_pairs, strict=True)
    ]
    if groups is not None:
        for f, (fit, own, n) in enumerate(zip(fits, groups.permuted, n_pairs, strict=True)):
            of_groups = [
                permutation.group_importance(fit, members, sums, n)
                for members, sums in zip(groups.members, own, strict=True)
            ]
            importances[f] = np.column_stack([importances[f], *of_groups])
    n_features = importances[0].shape[1]
    shares = [np.append(np.full(n_features, n / sum(n_pairs)), 1.0 / N_FOLDS) for n in n_pairs]
    return Metrics(fits, scores, importances, shares)


def outputs_of(metrics: Metrics, std_error: NDArray) -> Outputs:
    """Name the results; of errors (T, feature), or (T, feature + 1) with that of R2."""
    n_features = metrics.importance.shape[1]
    of_importance = std_error[:, :n_features]
    scores = {
        name: np.mean([score[name] for score in metrics.scores], axis=0)
        for name in metrics.scores[0]
    }
    outputs = {
        "importance": metrics.importance,
        "std_error": of_importance,
        "p_value": permutation.p_value(metrics.importance, of_importance),
        **{
            name: np.stack([getattr(fit, name) for fit in metrics.fits], axis=1)
            for name in ("weight", "alpha", "intercept")
        },
        **scores,
    }
    # Groups have no weight of their own.
    no_weights = [(0, 0), (0, 0), (0, n_features - outputs["weight"].shape[2])]
    outputs["weight"] = np.pad(outputs["weight"], no_weights, constant_values=np.nan)
    if std_error.shape[1] > n_features:
        outputs["r2_std_error"] = np.where(np.isnan(scores["r2"]), np.nan, std_error[:, -1])
    return outputs


def joined(blocks: Iterator[Outputs]) -> Outputs:
    """Put the targets of several blocks one after another."""
    found = list(blocks)
    return {name: np.concatenate([block[name] for block in found]) for name in found[0]}
