"""The waist: the few sums over pairs that fits, scores and importances are functions of.

They come from covariate patterns (`mlem_xr.kernels.moments`), for any distance, or from level
classes (`mlem_xr.kernels.levels`), which no pair is visited for. Shapes: F features, T targets.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-13
"""Relative to the mean target: a smaller covariance is a rounding error."""


class Regressors(NamedTuple):
    """Sums over a set of pairs that depend on the stimuli alone."""

    n_pairs: float
    """Number of pairs."""
    x: NDArray
    """Sums of the feature distances: (F)."""
    xx: NDArray
    """Sums of their products: (F, F)."""

    @property
    def mean(self) -> NDArray:
        """Mean feature distances: (F)."""
        return self.x / self.n_pairs

    @property
    def mean_square(self) -> NDArray:
        """Mean squared feature distances: (F)."""
        return np.diag(self.xx) / self.n_pairs

    @property
    def gram(self) -> NDArray:
        """Sums of (x - mean)(x - mean)': (F, F)."""
        return self.xx - np.outer(self.mean, self.x)


class Statistics(NamedTuple):
    """Sums over a set of pairs, at least one."""

    regressors: Regressors
    y: NDArray
    """Sums of the targets: (T)."""
    xy: NDArray
    """Sums of the products of targets and feature distances: (T, F)."""
    yy: NDArray
    """Sums of the squared targets: (T)."""

    @property
    def mean(self) -> NDArray:
        """Mean targets: (T)."""
        return self.y / self.regressors.n_pairs

    @property
    def cross(self) -> NDArray:
        """Sums of (x - mean)(y - mean): (T, F)."""
        cross = self.xy - np.outer(self.y, self.regressors.mean)
        # A constant target leaves rounding errors, which must not become weights.
        noise = _ROUNDING * np.abs(self.y)
        return np.where(np.abs(cross) < noise[:, np.newaxis], 0.0, cross)


class FoldStatistics(NamedTuple):
    """Sums over the pairs of one fold."""

    train: Statistics
    validation: Statistics
    refit: Statistics
    """Training and validation pairs together."""
    held_out: Statistics


def regressors(pattern: NDArray, n_pairs: NDArray) -> Regressors:
    """Sum over covariate patterns (P, F) with so many pairs each (P)."""
    return Regressors(
        float(n_pairs.sum()), n_pairs @ pattern, (pattern * n_pairs[:, np.newaxis]).T @ pattern
    )


def statistics(
    rows: Regressors, pattern: NDArray, total: NDArray, total_squared: NDArray
) -> Statistics:
    """Sum over covariate patterns (P, F) whose targets and their squares have these sums (P, T)."""
    return Statistics(rows, total.sum(axis=0), total.T @ pattern, total_squared.sum(axis=0))


def together(parts: Sequence[Statistics]) -> Statistics:
    """Take several sets of pairs together, of which some may be empty."""
    rows = Regressors(
        sum(part.regressors.n_pairs for part in parts),
        np.sum([part.regressors.x for part in parts], axis=0),
        np.sum([part.regressors.xx for part in parts], axis=0),
    )
    return Statistics(
        rows,
        np.sum([part.y for part in parts], axis=0),
        np.sum([part.xy for part in parts], axis=0),
        np.sum([part.yy for part in parts], axis=0),
    )


def crossed(held_out: Sequence[Sequence[Statistics]]) -> list[FoldStatistics]:
    """Say what each fold is trained on: the pairs that the other one holds out.

    `held_out` are, per fold, the train pairs, the validation pairs, and all pairs it holds out.
    """
    folds = []
    for own, other in zip(held_out, reversed(held_out), strict=True):
        train, validation, refit = other
        folds.append(FoldStatistics(train, validation, refit, own[2]))
    return folds
