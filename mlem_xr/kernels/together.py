"""Groups of features in the randomization test: drawn together, and their statistic.

**Draws.** The levels of all categorical features of a group are drawn as one level, of which there
is one for every combination that occurs; then the positions of its numeric and vector features, as
the fit of a linear model on what is outside the group and on the levels just drawn, plus residuals
of which those of one item stay together. So their distribution given the features outside is a
joint one, and that of a group of one feature is the feature's own. What an item leaves undefined,
and features that those outside determine, stay as they are: levels and residuals are exchanged
among items that are alike in that. Where features of a group belong to different items, those with
the fewest items come first, and the next ones are drawn given these too, as far as they are known
of an item: the chain rule of probability.

**Statistic.** The largest partial t of any weighted sum of the group's feature distances, with
weights that are not negative, given the feature distances outside. Like the partial t of one
feature, which it is for a group of one, it has a sign: a feature that is encoded makes distances
larger, which is also why the weights of the metric are not negative. The partial F asks whether
distances differ in either direction, and loses power to the one that no encoding takes.

Arrays of draws have the features as they are as their first row: (1 + D, ...).
"""

import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels.draws import (
    Items,
    Known,
    draw_levels,
    is_determined,
    items_of,
    outside,
    regressors,
    smallest_integer,
)
from mlem_xr.kernels.features import Features
from mlem_xr.kernels.ridge import nonnegative_ridge

_PENALTY = 1e-10
"""Relative to the squares of a feature: what makes the weights of alike features unique."""


class Before(NamedTuple):
    """A feature of other items that is drawn before, and has one level in all of an item."""

    feature: int
    """Position of the feature."""
    level: NDArray
    """Its level, -1 undefined: (item)"""
    place: NDArray
    """Which of its own items that is, -1 none: (item)"""


class Part(NamedTuple):
    """Features of a group that have the same items: those that have a level of any."""

    features: tuple[int, ...]
    """Positions of the features."""
    members: list[Items]
    """The items of each feature, given what is outside the group."""
    at: list[NDArray]
    """Which of all items they are: (item of the feature)"""
    items: Items
    """All items; a level is one of the combinations of the levels of the categorical features."""
    levels: NDArray
    """Of which levels each combination is, -1 undefined: (combination, categorical feature)"""
    before: list[Before]


class Together(NamedTuple):
    """Features that are drawn together."""

    features: tuple[int, ...]
    """Positions of the features."""
    parts: list[Part]
    """In the order in which they are drawn: given what is outside the group, and those before."""
    number: NDArray
    """Position of each sentence among items within which no feature differs; -1 none: (sentence)"""
    place: dict[int, NDArray]
    """Which of a feature's own items they are, -1 none: (item)"""

    @property
    def members(self) -> list[Items]:
        """Return the items of each feature."""
        of = {
            k: own
            for part in self.parts
            for k, own in zip(part.features, part.members, strict=True)
        }
        return [of[k] for k in self.features]

    @property
    def is_determined(self) -> bool:
        """Say whether the features outside determine all features of the group."""
        return all(is_determined(member) for member in self.members)


def together(features: Features, items: NDArray, group: Sequence[int]) -> Together:
    """Find the items of features that are drawn together, of which none has given distances.

    `items` are int32 (sentence, feature); where they differ within the group, all its features are
    categorical.
    """
    of_items: dict[bytes, list[int]] = {}
    for k in group:
        of_items.setdefault(items[:, k].tobytes(), []).append(k)
    # What has few items is known of the others' items, more often than the other way round.
    order = sorted(of_items.values(), key=lambda own: len(np.unique(items[:, own[0]])))
    parts: list[Part] = []
    for own in order:
        parts.append(_part(features, items, own, group, parts))
    if len(parts) == 1:
        (part,) = parts
        n_items = len(part.items.level)
        placed = {
            k: _placed(np.arange(len(at)), at, n_items)
            for k, at in zip(part.features, part.at, strict=True)
        }
        return Together(tuple(group), parts, part.items.number, placed)
    members = [(k, m) for part in parts for k, m in zip(part.features, part.members, strict=True)]
    number = np.arange(len(items))
    return Together(tuple(group), parts, number, {k: member.number for k, member in members})


def _part(
    features: Features, items: NDArray, own: list[int], group: Sequence[int], parts: list[Part]
) -> Part:
    defined = features.codes[:, own] >= 0
    some = np.asarray(defined.any(axis=1))
    number = np.full(len(some), -1)
    item, first, number[some] = np.unique(
        items[some, own[0]], return_index=True, return_inverse=True
    )
    covariate, numbers = outside(features, some, first, number, group)
    members, at = [], []
    for k, there in zip(own, defined.T, strict=True):
        where = np.searchsorted(item, np.unique(items[there, k]))
        member = items_of(features, items, k)
        members.append(member._replace(covariate=covariate[where], number_covariate=numbers[where]))
        at.append(where)
    columns: dict[str, list[NDArray]] = {"level": [], "stays": []}
    for member, where in zip(members, at, strict=True):
        level = _placed(member.level, where, len(item))
        # Of numbers that the others determine, no residual is left to be exchanged.
        is_fixed = not member.are_measured and is_determined(member)
        columns["stays"].append(level if is_fixed else np.minimum(level, 0))
        if not member.are_measured:
            columns["level"].append(level)
    levels, combination = np.unique(
        np.reshape(columns["level"], (-1, len(item))).T, axis=0, return_inverse=True
    )
    stays = np.unique(np.transpose(columns["stays"]), axis=0, return_inverse=True)[1]
    none = np.empty((len(item), 0))
    all_items = Items(
        *(number, combination.ravel(), covariate, numbers, none, features.squared),
        stays=stays.ravel(),
    )
    earlier = [(k, m) for part in parts for k, m in zip(part.features, part.members, strict=True)]
    before = [_before(k, member, np.flatnonzero(some), first, number) for k, member in earlier]
    known = [one for one in before if one is not None]
    return Part(tuple(own), members, at, all_items, levels, known)


def _before(
    feature: int, member: Items, some: NDArray, first: NDArray, number: NDArray
) -> Before | None:
    """Say what a feature that is drawn before says of items; nothing if it differs within any."""
    level = np.append(member.level, -1)
    place = member.number[some][first]
    if (level[member.number[some]] != level[place][number[some]]).any():
        return None
    return Before(feature, level[place], place)


def _placed(level: NDArray, where: NDArray, n_items: int) -> NDArray:
    placed = np.full(n_items, -1)
    placed[where] = level
    return placed


def draw_together(group: Together, n_draws: int, seed: int) -> list[NDArray]:
    """Draw every item anew: of each feature levels (draw, item), or positions (draw, item, axis).

    More draws with the same seed begin with the same draws.
    """
    drawn: dict[int, NDArray] = {}
    for part in group.parts:
        drawn |= zip(part.features, _draw_part(part, drawn, n_draws, seed), strict=True)
    return [drawn[k] for k in group.features]


def _draw_part(part: Part, before: dict[int, NDArray], n_draws: int, seed: int) -> list[NDArray]:
    drawn: NDArray = np.zeros((n_draws, len(part.items.level)), int)
    if part.levels.shape[1]:
        drawn = draw_levels(part.items, n_draws, seed, _known(part, before))
    values, column = [], 0
    positions = _draw_positions(part, drawn, seed)
    for member, where in zip(part.members, part.at, strict=True):
        if member.are_measured:
            values.append(next(positions))
        else:
            small: NDArray = part.levels[:, column].astype(smallest_integer(len(part.levels)))
            values.append(small[drawn][:, where])
            column += 1
    return values


def _known(part: Part, drawn: dict[int, NDArray]) -> Known | None:
    """Return the levels of the features drawn before, as they are and in every draw."""
    if not part.before:
        return None
    observed = np.stack([one.level for one in part.before], axis=1)
    in_draws = [
        np.where(one.place < 0, -1, drawn[one.feature][:, one.place]) for one in part.before
    ]
    return Known(observed + 1, np.stack(in_draws, axis=2) + 1)


def _draw_positions(part: Part, combination: NDArray, seed: int) -> Iterator[NDArray]:
    """Yield positions of each numeric or vector feature, with these combinations of levels.

    The permutations are the same for all of them, so that residuals of an item stay together.
    """
    measured = [(m, at) for m, at in zip(part.members, part.at, strict=True) if m.are_measured]
    every = b"".join(member.position.tobytes() for member, _ in measured)
    indicators = [
        (column[:, np.newaxis] == np.unique(column)).astype(float) for column in part.levels.T
    ]
    of_levels = np.hstack([np.empty((len(part.levels), 0)), *indicators])
    stays = part.items.stays
    assert stays is not None
    for member, at in measured:
        random = np.random.default_rng([seed, zlib.crc32(every)])
        others = regressors(member)
        both = np.hstack([others, of_levels[part.items.level[at]]])
        weight = np.linalg.lstsq(both, member.position, rcond=None)[0]
        left = np.full((len(stays), weight.shape[1]), np.nan)
        left[at] = member.position - both @ weight
        base, step = others @ weight[: others.shape[1]], of_levels @ weight[others.shape[1] :]
        drawn = np.empty((len(combination), *base.shape))
        order = np.arange(len(stays))
        for one, levels in zip(drawn, combination, strict=True):
            for kind in range(int(stays.max()) + 1):
                alike = np.flatnonzero(stays == kind)
                order[alike] = alike[random.permutation(len(alike))]
            one[:] = base + step[levels[at]] + left[order][at]
        yield drawn


def products_of(group: Together, values: Sequence[NDArray], features: Features) -> NDArray:
    """Sum products of two of the features over the pairs of sentences, in every draw.

    Returns (draw, feature, feature), with 0 for the product of a feature with itself.
    """
    n, n_items = len(group.features), int(group.number.max(initial=-1)) + 1
    found, members = np.zeros((len(values[0]), n, n)), group.members
    for k in range(n):
        for j in range(k):
            own = [group.features[k], group.features[j]]
            defined = (features.codes[:, own] >= 0).all(axis=1)
            size = np.bincount(group.number[defined], minlength=n_items)
            both = np.flatnonzero(size)
            one, other = (
                values[f][:, group.place[group.features[f]][both]].reshape(
                    len(found), len(both), -1
                )
                for f in (k, j)
            )
            of_levels = [not members[f].are_measured for f in (k, j)]
            sizes = size[both].astype(float)
            if all(of_levels):
                n_levels = [int(members[f].level.max(initial=0)) + 1 for f in (k, j)]
                found[:, k, j] = _of_levels(one, other, n_levels[0], n_levels[1], sizes)
            else:
                points = (one.astype(float), other.astype(float))
                squared = features.squared
                found[:, k, j] = _of_points(*points, of_levels[0], of_levels[1], sizes, squared)
            found[:, j, k] = found[:, k, j]
    return found


@numba.njit(nogil=True, cache=True)
def _of_levels(
    first: NDArray, second: NDArray, n_first: int, n_second: int, size: NDArray
) -> NDArray:
    """Count the pairs that differ in both levels (draw, item, 1).

    They are all, less those alike in the one or the other, and those alike in both.
    """
    found = np.empty(len(first))
    for d in range(len(first)):
        count = np.zeros((n_first, n_second))
        for item in range(len(size)):
            count[first[d, item, 0], second[d, item, 0]] += size[item]
        alike = (count.sum(axis=0) ** 2).sum() + (count.sum(axis=1) ** 2).sum()
        found[d] = (count.sum() ** 2 - alike + (count**2).sum()) / 2
    return found


@numba.njit(nogil=True, cache=True)
def _of_points(
    first: NDArray,
    second: NDArray,
    first_has_levels: bool,
    second_has_levels: bool,
    size: NDArray,
    squared: bool,
) -> NDArray:
    """Do the same for positions (draw, item, axis), or levels as if they were positions."""
    found = np.zeros(len(first))
    for d in range(len(first)):
        for i in range(len(size)):
            for j in range(i + 1, len(size)):
                one = _distance(first[d, i], first[d, j], first_has_levels, squared)
                other = _distance(second[d, i], second[d, j], second_has_levels, squared)
                found[d] += size[i] * size[j] * one * other
    return found


@numba.njit(nogil=True, cache=True)
def _distance(a: NDArray, b: NDArray, has_levels: bool, squared: bool) -> float:
    total = 0.0
    for axis in range(len(a)):
        total += (a[axis] - b[axis]) ** 2
    if has_levels:
        return 1.0 if total > 0.0 else 0.0
    return total if squared else np.sqrt(total)


@numba.njit(nogil=True, cache=True)
def largest_projection(gram: NDArray, cross: NDArray) -> NDArray:
    """Maximize c'w / sqrt(w'Gw) over weights w >= 0, in every draw and for every target.

    If no c is positive, that is the largest c_k / sqrt(G_kk) (a ratio of a linear function and a
    norm is smallest at a corner); else non-negative least squares.

    Parameters
    ----------
    gram : ndarray of float64 (draw, feature, feature)
        G: what the features outside leave; NaN on the diagonal where that is nothing.
    cross : ndarray of float64 (draw, target, feature)
        c

    Returns
    -------
    ndarray of float64 (draw, target)
        NaN where nothing is left of any feature.
    """
    n_draws, n_targets, n = cross.shape
    out = np.full((n_draws, n_targets), np.nan)
    scaled, right = np.zeros((n, n)), np.zeros(n)
    weight, passive, lower = np.zeros(n), np.zeros(n, np.bool_), np.zeros((n, n))
    for d in range(n_draws):
        root = np.sqrt(np.diag(gram[d]))
        there = root > 0.0
        if not there.any():
            continue
        for k in range(n):
            for j in range(n):
                present = there[k] and there[j]
                scaled[k, j] = gram[d, k, j] / (root[k] * root[j]) if present else 0.0
            scaled[k, k] = 1.0
        for t in range(n_targets):
            largest = -np.inf
            for k in range(n):
                right[k] = cross[d, t, k] / root[k] if there[k] else -1.0
                if there[k] and right[k] > largest:
                    largest = right[k]
            if n == 1 or not largest > 0.0:
                out[d, t] = largest
                continue
            passive[:] = right > 0.0
            nonnegative_ridge(scaled, _PENALTY, right, passive, lower, weight)
            length = 0.0
            for k in range(n):
                for j in range(n):
                    length += weight[k] * scaled[k, j] * weight[j]
            out[d, t] = (right @ weight) / np.sqrt(length)
    return out
