"""Levels of a feature drawn anew from their distribution given the other features.

A feature is drawn for its items: sentences with the same number are one item and get the same
level. Where every sentence has its own number, sentences are drawn. What the draws are depends on
the codes, the items and the seed alone, not on the activations.
"""

import warnings
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels.features import Features

_PENALTY_INVERSE = 1.0
"""C of the logistic regression of a feature on the others."""

_MOST_COEFFICIENTS = 500
"""With more, a quasi-Newton method is faster than Newton's."""

_CHANCE = 1e-3
"""Other features determine a feature if they agree with it by chance less often than this."""

_MOST_TRIES = 100
"""How often a draw in which nothing differs is drawn again."""

_NOTHING = 1e-9
"""A part of the variation that counts as none."""

_ROUNDING = 1e-12
"""Relative to the largest distance, 1: numbers that vary by less are the same."""

_BYTES = 2**26
"""Random numbers drawn at once."""


class Items(NamedTuple):
    """The items of a feature that is to be drawn: those that have a level."""

    number: NDArray
    """Position of each sentence's item; -1 where the feature is undefined: (sentence)"""
    level: NDArray
    """Level of each item, 0 .. n_levels - 1: (item)"""
    covariate: NDArray
    """What is known of each item: codes >= 0 of the other categorical features that have one level,
    or are undefined, in all sentences of every item: (item, other)"""
    number_covariate: NDArray
    """The same of numeric and vector features, standardized: float64 (item, column)"""
    position: NDArray
    """Where items stand on the axes of a numeric or vector feature: float64 (item, axis); a
    categorical one has no axis."""
    squared: bool
    """Whether their distances are squared."""
    given: NDArray | None = None
    """Distances of the sentences, each an item of its own, where they are given: there is nothing
    that could be drawn."""
    stays: NDArray | None = None
    """Which items draw from the same levels or residuals, as a number (item); None: all do."""

    @property
    def are_measured(self) -> bool:
        """Say whether the feature is numeric or a vector."""
        return self.position.shape[1] > 0


def items_of(features: Features, items: NDArray, feature: int) -> Items:
    """Find the items of a feature, and what the other features say of them.

    `items` are int32 (sentence, feature); a feature has one level in all sentences of an item that
    define it.
    """
    if feature in features.given_of:
        return _given(features, feature)
    codes = features.codes
    defined = codes[:, feature] >= 0
    number = np.full(len(codes), -1)
    _, first, number[defined] = np.unique(
        items[defined, feature], return_index=True, return_inverse=True
    )
    level = np.unique(codes[defined][first, feature], return_inverse=True)[1]
    covariate, numbers = outside(features, defined, first, number, [feature])
    own = features.position[defined][first][:, features.axis_of == feature]
    return Items(number, level, covariate, numbers, own, features.squared)


def outside(
    features: Features, defined: NDArray, first: NDArray, number: NDArray, members: Sequence[int]
) -> tuple[NDArray, NDArray]:
    """Return what features other than these say of items: the covariates of `Items`.

    Items are numbered among the sentences that are `defined`, where each has a `first` one.
    """
    known = features.codes[defined]
    constant = (known == known[first][number[defined]]).all(axis=0)
    constant[list(members)] = False
    covariate = known[first][:, constant & features.categorical] + 1
    position = features.position[defined][first]
    return covariate, _standardized(position[:, constant[features.axis_of]])


def _given(features: Features, feature: int) -> Items:
    n = len(features.codes)
    nothing, number = np.empty((n, 0)), np.arange(n)
    given = features.matrix(feature)
    return Items(number, number, nothing.astype(int), nothing, nothing, features.squared, given)


def _standardized(position: NDArray) -> NDArray:
    """Bring columns to mean 0 and standard deviation 1; undefined is 0 and has its own column."""
    undefined = np.isnan(position)
    there = np.where(undefined, 0.0, position)
    n = np.maximum(1, (~undefined).sum(axis=0))
    centered = np.where(undefined, 0.0, there - there.sum(axis=0) / n)
    deviation = np.sqrt((centered**2).sum(axis=0) / n)
    varies = deviation > _ROUNDING
    scaled = centered[:, varies] / deviation[varies]
    which = undefined.any(axis=0) & ~undefined.all(axis=0)
    return np.column_stack([scaled, undefined[:, which]])


def is_determined(items: Items) -> bool:
    """Say whether other features determine a feature, so that there is nothing to draw.

    Numbers are determined if the linear model that they are drawn from leaves nothing. Levels
    are if all items that are alike in other levels, or in one or two of them, have the same, and
    that is no chance: with levels assigned at random it would happen, over all that is tried, less
    than once in a thousand times. It takes items that are alike, some ten at least.
    """
    if items.given is not None:
        return True
    if items.are_measured:
        _, left = _linear_fit(items)
        centered = items.position - items.position.mean(axis=0)
        return bool((left**2).sum() <= _NOTHING * (centered**2).sum())
    level, covariate = items.level, items.covariate
    n_others = covariate.shape[1]
    n_tried = 1 + n_others * (n_others + 1) / 2
    limit = np.log(_CHANCE / n_tried)
    if _agrees(_rows(covariate), level, limit):
        return True
    return any(
        _agrees(_rows(covariate[:, [i, j]]), level, limit)
        for i in range(n_others)
        for j in range(i + 1)
    )


def _rows(covariate: NDArray) -> NDArray:
    """Give every distinct row of codes a number, which is not much larger than their count."""
    row = np.zeros(len(covariate), np.int64)
    for column in covariate.T:
        row = row * (int(column.max(initial=0)) + 1) + column
        if row.max(initial=0) > 4 * len(row):
            row = np.unique(row, return_inverse=True)[1]
    return row


def _agrees(row: NDArray, level: NDArray, limit: float) -> bool:
    """Say whether each row has one level, by chance with less than this log-probability."""
    of_row = np.zeros(row.max(initial=0) + 1, level.dtype)
    of_row[row] = level
    if (of_row[row] != level).any():
        return False
    size = np.bincount(row)
    repeated, how_often = np.unique(size[size > 1], return_counts=True)
    share = np.bincount(level) / max(1, len(level))
    alike = (share[:, np.newaxis] ** repeated).sum(axis=0)
    return bool(how_often @ np.log(alike) < limit)


def draw(items: Items, n_draws: int, seed: int) -> NDArray:
    """Draw every item anew, given the other features: levels (draw, item), or positions.

    More draws with the same seed begin with the same draws.
    """
    return (_draw_positions if items.are_measured else draw_levels)(items, n_draws, seed)


def _draw_positions(items: Items, n_draws: int, seed: int) -> NDArray:
    """Draw positions: the fit of a linear model, and its residuals permuted; (draw, item, axis)."""
    fitted, left = _linear_fit(items)
    random = np.random.default_rng([seed, zlib.crc32(items.position.tobytes())])
    drawn = np.empty((n_draws, *items.position.shape))
    for one in drawn:
        np.add(fitted, left[random.permutation(len(left))], out=one)
    return drawn


def _linear_fit(items: Items) -> tuple[NDArray, NDArray]:
    """Fit the positions by least squares on the other features; return fit and residuals."""
    others = regressors(items)
    fitted = others @ np.linalg.lstsq(others, items.position, rcond=None)[0]
    return fitted, items.position - fitted


def regressors(items: Items) -> NDArray:
    """Return what the other features say as columns, the first of them constant: (item, column)."""
    constant = np.ones((len(items.covariate), 1))
    return np.hstack([constant, _indicators(items.covariate), items.number_covariate])


class Known(NamedTuple):
    """Codes >= 0 of categorical features that are drawn before, and are known of the items."""

    observed: NDArray
    """(item, feature)"""
    drawn: NDArray
    """(draw, item, feature)"""


def draw_levels(items: Items, n_draws: int, seed: int, known: Known | None = None) -> NDArray:
    """Draw levels: ints (draw, item), given the other features, and what was drawn before.

    A draw in which all items have the same level is drawn again: nothing would differ in it.
    """
    row, probability = _rows_in_draws(items, known)
    bounds = probability.cumsum(axis=1)[:, :-1].T
    n_items, n_levels = len(items.level), probability.shape[1]
    drawn: NDArray = np.empty((n_draws, n_items), smallest_integer(n_levels))
    # The order of the features and which others there are change no random number.
    identity = [seed, zlib.crc32(items.level.astype(np.int64).tobytes())]
    random = np.random.default_rng(identity)
    step = max(1, _BYTES // (8 * n_items))
    for start in range(0, n_draws, step):
        block = drawn[start : start + step]
        of_block = row if len(row) == 1 else row[start : start + step]
        block[...] = _levels(random.random(block.shape), bounds, of_block)
    for again in np.flatnonzero((drawn == drawn[:, :1]).all(axis=1)):
        random = np.random.default_rng([*identity, int(again)])
        for _ in range(_MOST_TRIES):
            drawn[again] = _levels(random.random(n_items), bounds, row[again % len(row)])
            if (drawn[again] != drawn[again, 0]).any():
                break
    return drawn


def _rows_in_draws(items: Items, known: Known | None) -> tuple[NDArray, NDArray]:
    """Return the row of every item in each draw, (1 or draw, item), and levels' probabilities."""
    if known is None:
        row, probability = _among_those_alike(items, *conditional_distribution(items))
        return row[np.newaxis], probability
    n_draws, n_items, n_known = known.drawn.shape
    flat = known.drawn.reshape(-1, n_known)
    which = np.unique(_rows(flat), return_inverse=True)[1]
    codes = flat[np.unique(which, return_index=True)[1]]
    # Every item with everything that may have been drawn before, alike ones once.
    alike = np.column_stack([items.covariate, items.number_covariate, _stays(items)])
    first, kind = np.unique(alike, axis=0, return_index=True, return_inverse=True)[1:]
    asked = [np.repeat(a[first], len(codes), axis=0) for a in (items.covariate, _stays(items))]
    numbers = np.repeat(items.number_covariate[first], len(codes), axis=0)
    covariate = np.column_stack([asked[0], np.tile(codes, (len(first), 1))])
    fitted = items._replace(covariate=np.column_stack([items.covariate, known.observed]))
    row, probability = conditional_distribution(fitted, covariate, numbers)
    probability = _allowed(items, probability[row[n_items:]], asked[1])
    in_draws = kind.reshape(1, n_items) * len(codes) + which.reshape(n_draws, n_items)
    return in_draws, probability


def _stays(items: Items) -> NDArray:
    return np.zeros(len(items.level), int) if items.stays is None else items.stays


def _allowed(items: Items, probability: NDArray, stays: NDArray) -> NDArray:
    """Take away levels (row, level) that no item has which is alike in what stays: (row)."""
    own = _stays(items)
    allowed = np.zeros((int(own.max(initial=0)) + 1, probability.shape[1]), bool)
    allowed[own, items.level] = True
    probability = probability * allowed[stays]
    return probability / probability.sum(axis=1, keepdims=True)


def _among_those_alike(items: Items, row: NDArray, probability: NDArray) -> tuple[NDArray, NDArray]:
    """Leave to every item the levels of the items that are like it in what stays."""
    if items.stays is None or not items.stays.any():
        return row, probability
    both = np.column_stack([row, items.stays])
    kind, row = np.unique(both, axis=0, return_inverse=True)
    return row.ravel(), _allowed(items, probability[kind[:, 0]], kind[:, 1])


def smallest_integer(n_levels: int) -> type:
    """Return the smallest integer that holds so many levels."""
    return next(t for t in (np.int8, np.int16, np.int32) if n_levels <= np.iinfo(t).max)


def _levels(uniform: NDArray, bounds: NDArray, row: NDArray) -> NDArray:
    """Turn uniform numbers (..., item) into levels, by the bounds between them (level, row)."""
    level = np.zeros(uniform.shape, np.int32)
    for bound in bounds:
        level += uniform >= bound[row]
    return level


def conditional_distribution(
    items: Items, covariate: NDArray | None = None, numbers: NDArray | None = None
) -> tuple[NDArray, NDArray]:
    """Estimate the distribution of the levels given the other features.

    Multinomial logistic regression on indicators of the others' levels and on numbers, over
    distinct rows of them. Returns the row of each item, (item), and float64 (row, level). With more
    rows of covariates, which are no items, these come after the items.
    """
    from sklearn.linear_model import LogisticRegression

    n_levels, n_items = int(items.level.max()) + 1, len(items.level)
    if covariate is None or numbers is None:
        covariate, numbers = items.covariate[:0], items.number_covariate[:0]
    covariate = np.concatenate([items.covariate, covariate])
    numbers = np.concatenate([items.number_covariate, numbers])
    row = np.unique(_rows(covariate), return_inverse=True)[1]
    if numbers.shape[1]:
        both = np.column_stack([row, numbers])
        row = np.unique(both, axis=0, return_inverse=True)[1].ravel()
    count = np.zeros((int(row.max()) + 1, n_levels))
    np.add.at(count, (row[:n_items], items.level), 1)
    first = np.unique(row, return_index=True)[1]
    design = np.hstack([_indicators(covariate[first]), numbers[first]])
    if not design.shape[1]:
        return row, count / count.sum(axis=1, keepdims=True)
    at, level = np.nonzero(count)
    few = n_levels * design.shape[1] <= _MOST_COEFFICIENTS
    solver = "newton-cholesky" if few else "lbfgs"
    model = LogisticRegression(C=_PENALTY_INVERSE, solver=solver, max_iter=1000)
    with warnings.catch_warnings():
        # That there are as many levels as rows, or that the last digits are not certain.
        warnings.simplefilter("ignore")
        model.fit(design[at], level, sample_weight=count[at, level])
    return row, model.predict_proba(design)


def _indicators(covariate: NDArray) -> NDArray:
    """Return a column for each level of each covariate that has several, float64."""
    columns = [
        column == value
        for column in covariate.T
        for value in np.unique(column)
        if (column != value).any()
    ]
    return np.array(columns, dtype=np.float64).reshape(len(columns), len(covariate)).T
