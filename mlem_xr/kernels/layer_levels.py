"""Level sums of a whole layer, and the influence of each sentence on its importances.

The squared distances over many axes are one target. Their own squares take scalar products: with
positions a, q = |a|^2, and sums over the n sentences of a fold,

    sum_j |a_i - a_j|^4 = n q_i^2 + sum q^2 + 2 q_i sum q - 4 q_i a_i.sum a - 4 a_i.sum (q a)
                          + 4 sum_j (a_i.a_j)^2

where the last sum is a_i'(A'A)a_i, or a row of squares of A A', whichever is cheaper.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels.folds import TRAIN, VALIDATION
from mlem_xr.kernels.influence import R2Influence, SentenceSums, of_sentences
from mlem_xr.kernels.levels import FoldLevels, LevelDesign, LevelSums, center
from mlem_xr.kernels.ridge import Fit
from mlem_xr.kernels.statistics import Statistics

_CHUNK = 2048
"""Sentences worked on together, where every one takes a row of many numbers."""


class FoldLayer(NamedTuple):
    """A layer over the sentences that one fold holds out."""

    position: NDArray
    """Positions, less their `center`: float64 (n, A)."""
    train: LevelSums
    validation: LevelSums
    yy: NDArray
    """Sums of the squared targets over the partners of each sentence: (n)."""


def fold_layer(position: NDArray, rounding: NDArray, design: LevelDesign) -> list[FoldLayer]:
    """Sum positions (sentence, A) over the level classes of both folds.

    They are centered first. `rounding` says by how much rounding may let each axis vary: (A).
    """
    folds = []
    for fold in design.folds:
        own = position[fold.sentence].astype(np.float64)
        center(own, fold.subset, rounding)
        train, validation = (
            _level_sums(own, fold, subset, design.n_classes) for subset in (TRAIN, VALIDATION)
        )
        folds.append(FoldLayer(own, train, validation, _sums_of_squares(own)))
    return folds


def _level_sums(position: NDArray, fold: FoldLevels, subset: int, n_classes: int) -> LevelSums:
    chosen = fold.subset == subset
    own, row = position[chosen], fold.row[chosen]
    norm = np.einsum("ia,ia->i", own, own)
    first = np.zeros((n_classes + fold.level.shape[1], position.shape[1]))
    second = np.zeros(len(first))
    for level in fold.level.T:
        of_sentence = level[row]
        # Sorted by class, its sentences are added up at once.
        order = np.argsort(of_sentence, kind="stable")
        classes, start = np.unique(of_sentence[order], return_index=True)
        first[classes] += np.add.reduceat(own[order], start, axis=0)
        second[classes] += np.add.reduceat(norm[order], start)
    return LevelSums(
        own.sum(axis=0)[np.newaxis],
        norm.sum()[np.newaxis],
        first[:n_classes, np.newaxis],
        second[:n_classes, np.newaxis],
    )


def _sums_of_squares(position: NDArray) -> NDArray:
    n, n_axes = position.shape
    norm = np.einsum("ia,ia->i", position, position)
    if n_axes <= n:
        turned = position @ (position.T @ position)
        products = np.einsum("ia,ia->i", turned, position)
    else:
        products = np.empty(n)
        for start in range(0, n, _CHUNK):
            part = position[start : start + _CHUNK] @ position.T
            products[start : start + _CHUNK] = np.einsum("ij,ij->i", part, part)
    along = position @ np.column_stack([position.sum(axis=0), norm @ position])
    return (
        n * norm**2
        + (norm**2).sum()
        + 2 * norm * norm.sum()
        - 4 * norm * along[:, 0]
        - 4 * along[:, 1]
        + 4 * products
    )


def influences(
    layer: FoldLayer,
    fold: FoldLevels,
    design: LevelDesign,
    fit: Fit,
    held_out: Statistics,
    r2: R2Influence,
) -> NDArray:
    """Sum the influences psi over the partners of each held-out sentence: (n, F + 1).

    On the importances, then on R2.
    """
    n = len(layer.position)
    result = np.empty((n, len(design.first_class) + 1))
    sums = layer.train.joined(layer.validation)
    n_differ, first, second = (
        design.differing(of_class)
        for of_class in (fold.held_out.n_in_class, sums.class_first[:, 0], sums.class_second[:, 0])
    )
    row, products = fold.row, fold.products(fit.weight.T)[..., 0]
    for start in range(0, n, _CHUNK):
        part = slice(start, start + _CHUNK)
        own, level = layer.position[part], fold.level[row[part]]
        norm = np.einsum("ia,ia->i", own, own)
        x = n_differ[level]
        y = n * norm - 2 * own @ sums.first[0] + sums.second[0]
        along = np.take_along_axis(own @ first.T, level, axis=1)
        xy = x * norm[:, np.newaxis] - 2 * along + second[level]
        product = products[row[part]] + np.outer(x @ fit.weight[0], held_out.regressors.mean)
        # Of feature distances that are 0 or 1.
        own_sums = SentenceSums(x, x, product, y, xy, layer.yy[part])
        result[part] = of_sentences(n - 1, own_sums, fit, 0, held_out, r2)
    return result
