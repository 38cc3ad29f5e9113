"""The road over level classes: squared Euclidean distances with folds of sentences, no pairs."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels import dense_units, influence, layer_levels, permutation, sparse_units
from mlem_xr.kernels.distances import deviation, extent, find_distance, standardize
from mlem_xr.kernels.folds import N_FOLDS
from mlem_xr.kernels.levels import LevelDesign, fold_statistics, level_design
from mlem_xr.kernels.metrics import Outputs, fit_metrics, joined, outputs_of
from mlem_xr.kernels.targets import BLOCK
from mlem_xr.kernels.unit_levels import (
    FoldUnits,
    count_filled,
    influence_sums,
    standard_errors,
)

_BYTES = 2**25
"""Positions of the dense units that are worked on together."""

_SPARSE_UNITS = 16 * BLOCK
"""Sparse units that are worked on together."""


def on_levels(options: Any) -> bool:
    """Say whether level sums give all that is asked for, of a Euclidean distance."""
    squared = options.target == "square" and not options.min_max
    return options.folds == "sentences" and squared and not options.conditional and not options.mae


def explain_position(
    position: NDArray, rounding: NDArray, codes: NDArray, items: NDArray, options: Any
) -> Outputs:
    """Explain the squared distances of positions (sentence, axis): one target.

    `rounding` says by how much rounding may let each axis vary: (axis).
    """
    design = level_design(codes, options.random_state, items)
    layers = layer_levels.fold_layer(position, rounding, design)
    sums = [(layer.train, layer.validation) for layer in layers]
    yy = [np.array([layer.yy.sum() / 2]) for layer in layers]
    folds = fold_statistics(design, sums, yy)
    metrics = fit_metrics(folds, [permutation.features(fold.held_out) for fold in folds], options)
    totals = [
        layer_levels.influences(
            layers[f],
            design.folds[f],
            design,
            metrics.fits[f],
            folds[f].held_out,
            influence.of_r2(metrics.scores[f]),
        )
        for f in range(N_FOLDS)
    ]
    numbers = [influence.with_score(design.items.number[fold.sentence]) for fold in design.folds]
    error = influence.standard_errors(totals, metrics.shares, numbers)
    return outputs_of(metrics, error[np.newaxis])


def explain_units(activation: NDArray, codes: NDArray, items: NDArray, options: Any) -> Outputs:
    """Explain the squared distances over each unit (sentence, unit), some of them at a time."""
    design = level_design(codes, options.random_state, items)
    on_line = find_distance(options.distance).on_line
    assert on_line is not None
    found = extent(activation)
    # A unit that is constant in all sentences stays so when it is standardized.
    rounding = np.where(found.constant_units, np.inf, found.rounding.astype(np.float64))
    # Compiled loops know no half precision.
    activation = activation.astype(np.promote_types(activation.dtype, np.float32), copy=False)
    filled = count_filled(activation)
    if options.zscore:
        # A zero that is standardized is none.
        filled[:] = len(activation)
    few = sparse_units.mostly_zero(filled, design)
    n_dense = max(BLOCK, _BYTES // (8 * len(activation)) // BLOCK * BLOCK)

    def blocks() -> Iterator[Outputs]:
        for own, n_units in ((~few, n_dense), (few, _SPARSE_UNITS)):
            units = np.flatnonzero(own)
            for start in range(0, len(units), n_units):
                chosen = units[start : start + n_units]
                block, error = _columns(activation, chosen), rounding[chosen]
                if options.zscore:
                    error = error / deviation(block)
                    block = standardize(block)
                position = on_line(block)
                folds: Sequence[FoldUnits]
                if own is few:
                    folds = sparse_units.fold_units(position, filled[chosen], error, design)
                else:
                    folds = dense_units.fold_units(position, error, design)
                yield _explain_block(folds, len(chosen), design, options)

    place = np.argsort(np.argsort(few, kind="stable"))
    return {name: values[place] for name, values in joined(blocks()).items()}


def _columns(activation: NDArray, units: NDArray) -> NDArray:
    """Take some units, which ascend; without a copy if there are none between them."""
    if units[-1] - units[0] == len(units) - 1:
        return activation[:, units[0] : units[-1] + 1]
    return np.take(activation, units, axis=1)


def _explain_block(
    units: Sequence[FoldUnits], n_units: int, design: LevelDesign, options: Any
) -> Outputs:
    sums = [fold.sums.level_sums(n_units) for fold in units]
    yy = [fold.sums.sums_of_squares(n_units) for fold in units]
    folds = fold_statistics(design, sums, yy)
    metrics = fit_metrics(folds, [permutation.features(fold.held_out) for fold in folds], options)
    found = [
        influence_sums(
            units[f],
            design.folds[f],
            design,
            metrics.fits[f],
            folds[f].held_out,
            influence.of_r2(metrics.scores[f]),
        )
        for f in range(N_FOLDS)
    ]
    error = standard_errors(found, metrics.importances, metrics.shares, design.items)
    return outputs_of(metrics, error[:, :n_units].T)
