"""The road over level classes: squared Euclidean distances with folds of sentences, no pairs."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels import influence, layer_levels, permutation, unit_levels
from mlem_xr.kernels.distances import constant_units, find_distance, standardize
from mlem_xr.kernels.folds import N_FOLDS
from mlem_xr.kernels.levels import LevelDesign, fold_statistics, level_design
from mlem_xr.kernels.metrics import Outputs, fit_metrics, joined, outputs_of
from mlem_xr.kernels.targets import BLOCK

_BYTES = 2**25
"""Positions of the units that are worked on together."""


def on_levels(options: Any) -> bool:
    """Say whether level sums give all that is asked for, of a Euclidean distance."""
    squared = options.target == "square" and not options.min_max
    return options.folds == "sentences" and squared and not options.conditional and not options.mae


def explain_position(position: NDArray, codes: NDArray, items: NDArray, options: Any) -> Outputs:
    """Explain the squared distances of positions (sentence, axis): one target."""
    design = level_design(codes, options.random_state, items)
    layers = layer_levels.fold_layer(position, design)
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
    constant = constant_units(activation)
    n_units = max(BLOCK, _BYTES // (8 * len(activation)) // BLOCK * BLOCK)

    def blocks() -> Iterator[Outputs]:
        for start in range(0, activation.shape[1], n_units):
            block = activation[:, start : start + n_units]
            position = on_line(standardize(block) if options.zscore else block)
            own = constant[start : start + n_units]
            yield _explain_block(position, own, design, options)

    return joined(blocks())


def _explain_block(
    position: NDArray, constant: NDArray, design: LevelDesign, options: Any
) -> Outputs:
    n_units = position.shape[1]
    units = unit_levels.fold_units(position, constant, design)
    sums = [unit.level_sums(n_units) for unit in units]
    yy = [unit.sums_of_squares(n_units) for unit in units]
    folds = fold_statistics(design, sums, yy)
    metrics = fit_metrics(folds, [permutation.features(fold.held_out) for fold in folds], options)
    found = [
        unit_levels.influence_sums(
            units[f],
            design.folds[f],
            design,
            metrics.fits[f],
            folds[f].held_out,
            influence.of_r2(metrics.scores[f]),
        )
        for f in range(N_FOLDS)
    ]
    error = unit_levels.standard_errors(found, metrics.importances, metrics.shares, design.items)
    return outputs_of(metrics, error[:, :n_units].T)
