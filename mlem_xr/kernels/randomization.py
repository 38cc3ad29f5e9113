"""Conditional randomization: a feature's effect next to that of the feature drawn anew.

    codes, items, seed --(draws)--> levels of each feature in every draw   } once per process
    levels --(counts)--> sums of x_k and of its products with the others   }
    activations, levels --(sums over sentences)--> sums of x_k y in every draw
    both --(regression)--> partial correlations --> statistics and p-values

With y the target of a pair of sentences and x_1 .. x_F its feature distances, the statistic of
feature k is the t of x_k in the ordinary regression of y on all feature distances and an intercept.
With r the partial correlation of x_k and y given the others, and m the residual degrees of freedom,

    t = r sqrt(m / (1 - r^2))

so that draws are compared by r. A draw changes x_k alone, so all it takes is the sum of y over the
pairs of sentences that differ in it. For squared distances of points that follows from sums over
the sentences of each level, and no pair is visited; other targets are a matrix, which is multiplied
with the indicators of the levels. Numbers are drawn as well as levels: see
`mlem_xr.kernels.measures`; and groups of features: see `mlem_xr.kernels.together`.

Arrays of draws have the feature as it is as their first row: (1 + D, ...) for D draws.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels import measures
from mlem_xr.kernels.distances import (
    distance_matrix,
    distances_of_units,
    find_distance,
    placed,
    prepared,
    rounding_of,
)
from mlem_xr.kernels.draws import Items, draw, is_determined, items_of
from mlem_xr.kernels.features import Features
from mlem_xr.kernels.targets import TARGETS
from mlem_xr.kernels.together import (
    draw_together,
    largest_projection,
    products_of,
    together,
)

_TIE = 1e-9
"""Partial correlations that differ by less are equal: so much is rounding."""

_NOTHING = 1e-9
"""A part of the variation that counts as none."""

_PRECISION = float(np.finfo(np.float64).eps)

_UNITS = 1024
"""Units worked on together."""

_BLOCK = 2**24
"""Bytes of the draws that are worked on together."""

_KEPT = 2**30
"""Bytes of draws that are kept; of more, each feature is drawn when it is needed."""


Groups = tuple[tuple[int, ...], ...]


class Drawn(NamedTuple):
    """A feature in the data and in every draw: what depends on the stimuli alone."""

    items: Items
    value: NDArray
    """Levels (1 + D, item), or positions (1 + D, item, axis); D is 0 where there is nothing to
    draw."""
    total: NDArray
    """Sum of x_k over the pairs: (1 + D)"""
    products: NDArray
    """Centered sums of products of x_k with the other feature distances: (1 + D, F - 1)"""
    unexplained: NDArray
    """Sum of squares of x_k that the others leave; NaN where that is nothing: (1 + D)"""


class DrawnTogether(NamedTuple):
    """The features of a group in the data and in every draw: m features."""

    members: list[Drawn]
    """What there is to know of each of them; `products` with the features outside."""
    unexplained: NDArray
    """Sums of products of two of them that the features outside leave, with NaN on the diagonal
    where that is nothing: (1 + D, m, m)"""


class RandomizationDesign:
    """All that depends on the stimuli, the number of draws and the seed alone.

    What is tested are the features, by their positions, then `groups`, as tuples of positions.
    """

    def __init__(
        self, features: Features, items: NDArray, n_draws: int, seed: int, groups: Groups = ()
    ) -> None:
        self.n_draws, self.seed, self._features = n_draws, seed, features
        self.n_features, n = features.n_features, len(items)
        self.n_pairs = n * (n - 1) / 2
        self.items = [items_of(features, items, k) for k in range(self.n_features)]
        self.groups = [together(features, items, group) for group in groups]
        self._known, self._sign = _alike(features)
        self._drawn: dict[int, Drawn | DrawnTogether] = {}
        self._drawing = threading.Lock()
        sums = [self._sums(k, own, as_is(own))[0] for k, own in enumerate(self.items)]
        self.total = np.array([row[0] for row in sums])
        """Sum of each feature distance over the pairs: (feature)"""
        products = np.array([row[1:] for row in sums])
        self.products = products - np.outer(self.total, self.total) / self.n_pairs
        """Centered sums of products of two feature distances: (feature, feature)"""

    @property
    def tested(self) -> list[int | tuple[int, ...]]:
        """Return what is tested: positions of features, then those of groups."""
        return [*range(self.n_features), *(group.features for group in self.groups)]

    def others(self, tested: int | tuple[int, ...]) -> NDArray:
        """Return the positions of the other features."""
        return np.delete(np.arange(self.n_features), tested)

    def inverse(self, tested: int | tuple[int, ...]) -> NDArray:
        """Invert the products of the other features: (F - 1, F - 1)."""
        other = self.others(tested)
        return _inverse(self.products[np.ix_(other, other)])[0]

    @cached_property
    def n_free(self) -> float:
        """Residual degrees of freedom of the regression on all features and an intercept."""
        return self.n_pairs - 1 - _inverse(self.products)[1]

    @cached_property
    def is_collinear(self) -> NDArray:
        """Features whose distances never differ or follow from those of others: (feature)."""
        return np.isnan([self._left_of((k,))[0] for k in range(self.n_features)])

    @cached_property
    def is_determined(self) -> NDArray:
        """Features whose levels follow from those of others: (feature)."""
        return np.array([is_determined(own) for own in self.items])

    @cached_property
    def is_fixed(self) -> NDArray:
        """What there is nothing of to draw, so that p-values are 1: (feature, then group)."""
        of_groups = [
            group.is_determined or np.isnan(self._left_of(group.features)).all()
            for group in self.groups
        ]
        return np.append(self.is_collinear | self.is_determined, np.array(of_groups, bool))

    def drawn(self, feature: int) -> Drawn:
        """Draw a feature, once for all who ask if all draws fit into memory."""
        return self._once(feature, lambda: self._draw(feature))

    def drawn_together(self, group: int) -> DrawnTogether:
        """Draw the features of a group, once for all who ask, as `drawn`."""
        return self._once(self.n_features + group, lambda: self._draw_together(group))

    def _once(self, number: int, make: Callable[[], Any]) -> Any:
        members = [member for group in self.groups for member in group.members]
        if self.n_draws * sum(_n_bytes(own) for own in [*self.items, *members]) > _KEPT:
            return make()
        with self._drawing:
            if number not in self._drawn:
                self._drawn[number] = make()
            return self._drawn[number]

    def _draw(self, feature: int) -> Drawn:
        own = self.items[feature]
        value = as_is(own)
        if not self.is_fixed[feature]:
            value = _after(value, draw(own, self.n_draws, self.seed))
        return self._described(feature, own, value, feature)

    def _described(
        self, feature: int, own: Items, value: NDArray, tested: int | tuple[int, ...]
    ) -> Drawn:
        """Describe draws of a feature, next to the features outside what is tested."""
        sums = self._sums(feature, own, value)
        other = self.others(tested)
        total = sums[:, 0]
        products = sums[:, 1 + other] - np.outer(total, self.total[other]) / self.n_pairs
        squares = sums[:, 1 + feature] - total**2 / self.n_pairs
        unexplained = self._unexplained(tested, squares, products)
        return Drawn(own, value, total, products, unexplained)

    def _draw_together(self, number: int) -> DrawnTogether:
        group = self.groups[number]
        values = [as_is(own) for own in group.members]
        if not self.is_fixed[self.n_features + number]:
            drawn = draw_together(group, self.n_draws, self.seed)
            values = [_after(value, own) for value, own in zip(values, drawn, strict=True)]
        parts = zip(group.features, group.members, values, strict=True)
        members = [self._described(k, own, value, group.features) for k, own, value in parts]
        total = np.stack([member.total for member in members], axis=1)
        outside = np.stack([member.products for member in members], axis=1)
        left = products_of(group, values, self._features)
        left -= total[:, :, np.newaxis] * total[:, np.newaxis, :] / self.n_pairs
        left -= outside @ self.inverse(group.features) @ outside.transpose(0, 2, 1)
        for k, member in enumerate(members):
            left[:, k, k] = member.unexplained
        return DrawnTogether(members, left)

    def _left_of(self, group: tuple[int, ...]) -> NDArray:
        """Return what the features outside a group leave of each of its features, as they are."""
        other = self.others(group)
        return np.array(
            [self._unexplained(group, self.products[k, k], self.products[k, other]) for k in group]
        )

    def _sums(self, feature: int, items: Items, value: NDArray) -> NDArray:
        """Sum x_k and its products with all feature distances over the pairs: (1 + D, 1 + F)."""
        sums = _between_alike(items, value, _grouped(self._known, items)) @ self._sign
        for other in np.flatnonzero(~self._features.categorical).tolist():
            if other != feature:
                target = Matrix(self._features.matrix(other))
                sums[:, 1 + other] = target.between(items, value)[:, 0]
        # The square of what is drawn, not its product with the feature as it is.
        sums[:, 1 + feature] = sums[:, 0]
        if items.are_measured:
            size = _grouped(np.ones(len(items.number)), items)
            sums[:, 1 + feature] = measures.sum_of_squares(value, size, squared=items.squared)
        elif items.given is not None:
            sums[:, 1 + feature] = np.vdot(items.given, items.given) / 2
        return sums

    def _unexplained(
        self, tested: int | tuple[int, ...], squares: NDArray, products: NDArray
    ) -> NDArray:
        left = squares - ((products @ self.inverse(tested)) * products).sum(axis=-1)
        return np.where(left > _NOTHING * squares, left, np.nan)


def randomization_design(
    features: Features,
    items: NDArray,
    n_draws: int,
    seed: int,
    groups: NDArray | Sequence[NDArray] = (),
) -> RandomizationDesign:
    """Build the design of a test from features and items (sentence, F), once per process.

    `groups`, bool (group, F), says which features each group has.
    """
    items = np.ascontiguousarray(items, dtype=np.int32)
    members = tuple(tuple(np.flatnonzero(group).tolist()) for group in groups)
    with _building:
        return _cached_design(features, items.tobytes(), n_draws, seed, members)


_building = threading.Lock()


# Two, as of `mlem_xr.kernels.design`.
@lru_cache(maxsize=2)
def _cached_design(
    features: Features, items: bytes, n_draws: int, seed: int, groups: Groups
) -> RandomizationDesign:
    numbers = np.frombuffer(items, dtype=np.int32).reshape(features.codes.shape)
    return RandomizationDesign(features, numbers, n_draws, seed, groups)


def as_is(items: Items) -> NDArray:
    """Return what is drawn as it is, as if it were the only draw."""
    return (items.position if items.are_measured else items.level)[np.newaxis]


def _after(value: NDArray, drawn: NDArray) -> NDArray:
    """Put the feature as it is before its draws."""
    return np.concatenate([value.astype(drawn.dtype), drawn])


def _n_bytes(items: Items) -> int:
    return items.position.nbytes if items.are_measured else len(items.level)


def _alike(features: Features) -> tuple[NDArray, NDArray]:
    """Say in which respects sentences can be alike, and what that says of feature distances.

    Two sentences are alike in a column (sentence, column) if both have a 1 there: in that they are
    sentences, that they define a feature, that they have a level of it. A feature distance is: both
    define it, less both have the same level; the signs are (column, 1 + feature). Features that are
    not categorical have no columns.
    """
    codes, unit = features.codes, np.eye(1 + features.n_features)
    columns, signs = [np.ones(len(codes), bool)], [unit[0]]
    for k in np.flatnonzero(features.categorical):
        sign, column = unit[1 + k], codes[:, k]
        levels = np.unique(column[column >= 0])
        columns += [column >= 0, *(column == level for level in levels)]
        signs += [sign, *[-sign] * len(levels)]
    return np.stack(columns, axis=1).astype(np.float64), np.array(signs)


def _inverse(products: NDArray) -> tuple[NDArray, int]:
    """Invert products of regressors, of which some may depend on the others; return their rank."""
    scale = np.sqrt(np.maximum(np.diag(products), 0.0))
    scale = np.where(scale > 0, scale, 1.0)
    value, vector = np.linalg.eigh(products / np.outer(scale, scale))
    present = value > _NOTHING
    root = vector[:, present] / np.sqrt(value[present]) / scale[:, np.newaxis]
    return root @ root.T, int(present.sum())


def _grouped(values: NDArray, items: Items) -> NDArray:
    """Add the rows of sentences that belong to the same item: (item, ...)."""
    from scipy.sparse import csr_array

    n_items = len(items.level)
    if n_items == len(values) and (items.number == np.arange(n_items)).all():
        return values
    (sentence,) = np.nonzero(items.number >= 0)
    where = (items.number[sentence], sentence)
    member = csr_array((np.ones(len(sentence)), where), shape=(n_items, len(values)))
    return np.asarray(member @ values)


def _between_alike(items: Items, value: NDArray, known: NDArray) -> NDArray:
    """Sum x_k over the pairs of sentences that are alike in a column: (draw, column).

    `known` (item, column) are how many sentences of an item have it.
    """
    if items.given is not None:
        return np.einsum("ic,ic->c", known, items.given @ known)[np.newaxis] / 2
    if items.are_measured:
        nothing = np.zeros(len(known))
        point = measures.between_points(
            value, nothing, known, np.zeros(known.shape), squared=items.squared
        )
        return -point / 2
    everyone = known.sum(axis=0)

    def of_block(block: NDArray) -> NDArray:
        within = sum(total**2 for total in _sums_of_levels(block, items, known))
        return (everyone**2 - within) / 2

    return _in_blocks(of_block, value, known)


def _in_blocks(function: Callable[[NDArray], NDArray], level: NDArray, table: NDArray) -> NDArray:
    """Apply a function to the levels of some draws at a time, with room for sums of a table."""
    step = max(1, _BLOCK // (8 * max(1, *table.shape)))
    parts = [function(level[start : start + step]) for start in range(0, len(level), step)]
    return np.concatenate(parts)


def _sums_of_levels(level: NDArray, items: Items, table: NDArray) -> Iterator[NDArray]:
    """Yield for each level the sums of the rows of the items that have it: (draw, column).

    `table` is (item, column). Those of the last level are what the others leave.
    """
    member, last = np.empty(level.shape), np.tile(table.sum(axis=0), (len(level), 1))
    for one in range(int(items.level.max(initial=0))):
        total = np.equal(level, one, out=member) @ table
        last -= total
        yield total
    yield last


@numba.njit(nogil=True, cache=True)
def _n_others(level: NDArray, size: NDArray, n_levels: int) -> NDArray:
    """Count the sentences of other levels than each item's, by the items' sizes: (draw, item)."""
    count = np.empty(level.shape)
    for row in range(len(level)):
        own = np.zeros(n_levels)
        for item in range(len(size)):
            own[level[row, item]] += size[item]
        own = size.sum() - own
        for item in range(len(size)):
            count[row, item] = own[level[row, item]]
    return count


class Points(NamedTuple):
    """Targets that are squared distances of points: a target per unit, or one over all units."""

    position: NDArray
    """Centered: float64 (sentence, unit)"""
    over_units: bool
    """Whether there is one target, the sum over the units."""

    def moments(self) -> tuple[NDArray, NDArray]:
        """Sum the targets and their squares over all pairs: (target), (target)."""
        n, a = self.position.shape[0], self.position
        square, first = a**2, a.sum(axis=0)
        if not self.over_units:
            second, third, fourth = (power.sum(axis=0) for power in (square, square * a, square**2))
            return n * second - first**2, n * fourth - 4 * first * third + 3 * second**2
        norm = square.sum(axis=1)
        gram = a.T @ a if a.shape[1] <= n else a @ a.T
        total = n * norm.sum() - first @ first
        squares = n * norm @ norm + norm.sum() ** 2 + 2 * (gram**2).sum()
        return np.array([total]), np.array([squares - 4 * norm @ (a @ first)])

    def between(self, items: Items, value: NDArray) -> NDArray:
        """Sum the targets times a feature distance over the pairs: (draw, target).

        With n_l, s_l and q_l the number of sentences of a level and their sums of a and of a^2, the
        pairs of different levels have the sum ``sum_l (n - n_l) q_l + s_l^2  -  (sum_l s_l)^2``.
        """
        point, square = _grouped(self.position, items), self.position**2
        if self.over_units:
            square = square.sum(axis=1, keepdims=True)
        square, size = _grouped(square, items), _grouped(np.ones(len(square)), items)
        if items.given is not None:
            return measures.at_distances(items.given, size, point, square)[np.newaxis]
        if items.are_measured:
            return measures.between_points(value, size, point, square, squared=items.squared)
        everyone = point.sum(axis=0) ** 2

        def of_block(block: NDArray) -> NDArray:
            squares = sum(total**2 for total in _sums_of_levels(block, items, point)) - everyone
            own = squares.sum(axis=1, keepdims=True) if self.over_units else squares
            return own + _n_others(block, size, int(items.level.max(initial=0)) + 1) @ square

        return _in_blocks(of_block, value, point)


class Matrix(NamedTuple):
    """One target, given for every pair."""

    target: NDArray
    """float64 (sentence, sentence), symmetric, with 0 on the diagonal"""

    def moments(self) -> tuple[NDArray, NDArray]:
        """Sum the targets and their squares over all pairs: (1), (1)."""
        squares = np.vdot(self.target, self.target)
        return np.array([self.target.sum() / 2]), np.array([squares / 2])

    def between(self, items: Items, value: NDArray) -> NDArray:
        """Sum the target times a feature distance over the pairs: (draw, 1)."""
        if items.given is not None:
            return np.array([[np.vdot(items.given, self.target) / 2]])
        target = _grouped(_grouped(self.target, items).T, items)
        if items.are_measured:
            sums = measures.between_items(value, target, squared=items.squared)
            return sums[:, np.newaxis]

        def of_block(block: NDArray) -> NDArray:
            sums = enumerate(_sums_of_levels(block, items, target))
            within = sum(np.einsum("bi,bi->b", block == one, total) for one, total in sums)
            return (target.sum() - within)[:, np.newaxis] / 2

        return _in_blocks(of_block, value, target)


Target = Points | Matrix


def randomize(
    activation: NDArray,
    features: Features,
    items: NDArray,
    options: Any,
    groups: NDArray | Sequence[NDArray] = (),
) -> dict[str, NDArray]:
    """Test the features, and groups of them, by randomization.

    Parameters
    ----------
    activation : NDArray
        Finite (sentence, unit).
    features : Features
        Those of the sentences.
    items : NDArray
        int32 (sentence, feature): sentences with the same number are drawn together.
    options : object
        With `per`, `distance`, `target`, `zscore`, `n_draws` and `random_state`.
    groups : NDArray
        bool (group, feature): features that are drawn together too, none of given distances; all
        are categorical, or have the same items.

    Returns
    -------
    dict of str to NDArray
        `statistic`, `p_value` and `p_value_max`, float64 ([unit,] feature), groups after the
        features.
    """
    design = randomization_design(features, items, options.n_draws, options.random_state, groups)
    of_units = options.per == "unit"
    targets = _targets_of_units if of_units else _target_of_layer
    observed: list[NDArray] = []
    compared: list[NDArray] = []
    n_as_large: list[NDArray] = []
    largest = np.full((len(design.is_fixed), options.n_draws), -np.inf)
    for target in targets(activation, options):
        correlations = list(_partial_correlations(target, design))
        observed.append(np.stack([own[0] for own in correlations], axis=1))
        n_as_large.append(np.stack([_as_large(own[1:], own[0]) for own in correlations], axis=1))
        # The draws of one feature are alike in all units, those of several features are not.
        alike = correlations if of_units else [_standardized(own, design) for own in correlations]
        compared.append(np.stack([own[0] for own in alike], axis=1))
        for k in np.flatnonzero(~design.is_fixed):
            # Draws without an answer leave the maximum to the others.
            largest[k] = np.fmax(largest[k], np.fmax.reduce(alike[k][1:], axis=1))
    r, count = np.concatenate(observed), np.concatenate(n_as_large)
    if not of_units:
        # Groups are a family of their own, so that they change nothing for the features.
        for family in np.split(largest, [design.n_features]):
            family[:] = family.max(axis=0, initial=-np.inf)
    own = np.concatenate(compared)
    count_max = [_as_large(drawn[:, np.newaxis], own[:, k]) for k, drawn in enumerate(largest)]
    tested = ~design.is_fixed & ~np.isnan(r)
    outputs = {
        "statistic": _statistic(r, design),
        "p_value": np.where(tested, (1 + count) / (1 + options.n_draws), 1.0),
        "p_value_max": np.where(
            tested,
            (1 + np.maximum(count, np.stack(count_max, axis=1))) / (1 + options.n_draws),
            1.0,
        ),
    }
    return outputs if of_units else {name: values[0] for name, values in outputs.items()}


def _statistic(correlation: NDArray, design: RandomizationDesign) -> NDArray:
    """Turn partial correlations into partial t."""
    return correlation * np.sqrt(design.n_free / np.maximum(1 - correlation**2, _PRECISION))


def _standardized(correlation: NDArray, design: RandomizationDesign) -> NDArray:
    """Standardize the t of a feature (1 + D, target) over what was observed and its draws.

    Where items are few, t is larger by chance; what was observed counts as one of the draws, so
    that under the null hypothesis all are alike. NaN stays.
    """
    t = _statistic(correlation, design)
    there = ~np.isnan(t)
    n = np.maximum(1, there.sum(axis=0))
    centered = t - np.where(there, t, 0.0).sum(axis=0) / n
    deviation = np.sqrt((np.where(there, centered, 0.0) ** 2).sum(axis=0) / n)
    return centered / np.where(deviation > 0, deviation, 1.0)


def _as_large(drawn: NDArray, observed: NDArray) -> NDArray:
    """Count the draws that are as large as what is observed, or have no answer."""
    return (~(drawn < observed - _TIE)).sum(axis=0)


def _partial_correlations(target: Target, design: RandomizationDesign) -> Iterator[NDArray]:
    """Yield for each feature its partial correlation with the targets: (1 + D, target).

    Then the largest one of each group. NaN where there is nothing to explain, or nothing to
    explain it with.
    """
    total, squares = target.moments()
    mean = total / design.n_pairs
    variation = squares - total * mean
    variation = np.where(variation > _NOTHING * squares, variation, np.nan)
    observed = [target.between(items, as_is(items))[0] for items in design.items]
    products = np.stack(observed) - np.outer(design.total, mean)
    for number, tested in enumerate(design.tested):
        other = design.others(tested)
        weight = design.inverse(tested) @ products[other]
        left = variation - (products[other] * weight).sum(axis=0)
        left = np.where(left > _NOTHING * variation, left, np.nan)

        def beside_others(drawn: Drawn, weight: NDArray = weight) -> NDArray:
            own = target.between(drawn.items, drawn.value) - np.outer(drawn.total, mean)
            own -= drawn.products @ weight
            return own

        if number < design.n_features:
            drawn = design.drawn(number)
            own = beside_others(drawn)
            own /= np.sqrt(drawn.unexplained)[:, np.newaxis]
        else:
            group = design.drawn_together(number - design.n_features)
            cross = np.stack([beside_others(drawn) for drawn in group.members], axis=2)
            own = largest_projection(group.unexplained, cross)
        own /= np.sqrt(left)
        yield own


def _target_of_layer(activation: NDArray, options: Any) -> Iterator[Target]:
    """Yield the target over all units of a layer."""
    if find_distance(options.distance).from_products and options.target == "square":
        yield Points(_scaled(prepared(activation, zscore=options.zscore)), over_units=True)
    else:
        matrix = distance_matrix(activation, options.distance, zscore=options.zscore)
        yield _matrix(matrix, options)


def _targets_of_units(activation: NDArray, options: Any) -> Iterator[Target]:
    """Yield the targets of single units: of many, or one where a unit takes a matrix."""
    on_line = find_distance(options.distance).on_line
    rounding = rounding_of(activation, zscore=options.zscore)
    scaled = prepared(activation, zscore=options.zscore)
    if on_line is not None and options.target == "square":
        position = placed(scaled, rounding, on_line)
        for start in range(0, position.shape[1], _UNITS):
            block = position[:, start : start + _UNITS]
            yield Points(_scaled(block, axis=0), over_units=False)
    else:
        for matrix in distances_of_units(scaled, rounding, options.distance):
            yield _matrix(matrix, options)


def _scaled(position: NDArray, axis: int | None = None) -> NDArray:
    """Center, and bring the largest number (along an axis) to 1; the test does not change."""
    centered = position - position.mean(axis=0)
    largest = np.abs(centered).max(axis=axis)
    return centered / np.where(largest > 0, largest, 1.0)


def _matrix(distance: NDArray, options: Any) -> Matrix:
    target = TARGETS[options.target].of_distances(distance, False)
    np.fill_diagonal(target, 0.0)
    largest = np.abs(target).max()
    return Matrix(np.divide(target, largest if largest > 0 else 1.0, out=target))
