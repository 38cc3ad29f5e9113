"""Features -> covariate patterns of all pairs of sentences."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels.features import Features
from mlem_xr.kernels.statistics import Regressors, regressors

MAX_FEATURES = 64
"""One bit of an unsigned 64-bit integer per feature."""

_MOST_LEVELS = 2**8
"""Levels of a numeric feature whose distances are looked up in a table, level by level."""

_FEW = 2**15
_WORTH = 16
"""Patterns that are fine in any case, and pairs per pattern that make them worth while."""

_DECIMALS = 12
"""Distances, of which the largest is 1, that differ by less are the same."""

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio: multiplication by it spreads keys (Fibonacci hashing)."""


@numba.njit(nogil=True, cache=True)
def _slot(key: np.uint64, keys: NDArray, used: NDArray, bits: int) -> int:
    """Find where a key stands in a hash table of 2^bits slots, or the free slot for it."""
    slot = np.int64((key * _FACTOR) >> np.uint64(64 - bits))
    while used[slot] >= 0 and keys[slot] != key:
        slot = (slot + 1) & ((1 << bits) - 1)
    return int(slot)


@numba.njit(nogil=True, cache=True)
def _grow(keys: NDArray, used: NDArray, bits: int) -> tuple[NDArray, NDArray]:
    """Double the hash table."""
    new_keys = np.empty(1 << (bits + 1), np.uint64)
    new_used = np.full(1 << (bits + 1), -1, np.int32)
    for slot in range(len(keys)):
        if used[slot] >= 0:
            new = _slot(keys[slot], new_keys, new_used, bits + 1)
            new_keys[new] = keys[slot]
            new_used[new] = used[slot]
    return new_keys, new_used


class _Keys(NamedTuple):
    """How the feature distances of a pair are written into the bits of an integer."""

    values: list[NDArray]
    """The distinct distances of each feature."""
    bits: list[int]
    """How many bits each feature takes."""
    shift: NDArray
    """First bit of each feature: uint64 (F)."""
    side: NDArray
    """Rows and columns of its table; 0: the bit is set where the levels differ: int64 (F)."""
    start: NDArray
    """Where its table starts: int64 (F)."""
    table: NDArray
    """Which distance two levels have; the last row and column are of undefined ones: int32."""


def _keys(features: Features) -> _Keys | None:
    """Give the distinct distances of each feature numbers; None if they are too many."""
    values, sides, tables = [], [], []
    axes = np.bincount(features.axis_of, minlength=features.n_features)
    for k in range(features.n_features):
        if k in features.given_of:
            return None
        if not axes[k]:
            values.append(np.array([0.0, 1.0]))
            sides.append(0)
            continue
        level, first = np.unique(features.codes[:, k], return_index=True)
        first = first[level >= 0]
        if len(first) > _MOST_LEVELS:
            return None
        pairs = np.repeat(first, len(first)), np.tile(first, len(first))
        distance = features.distances(*pairs)[:, k].reshape(len(first), -1)
        distance = np.pad(distance, [(0, 1), (0, 1)]).round(_DECIMALS)
        distinct, table = np.unique(distance, return_inverse=True)
        values.append(distinct)
        sides.append(len(distance))
        tables.append(table.ravel())
    bits = [max(1, int(len(v) - 1).bit_length()) for v in values]
    if sum(bits) > 64:
        return None
    sizes = np.array(sides) ** 2
    return _Keys(
        values,
        bits,
        (np.cumsum(bits) - bits).astype(np.uint64),
        np.array(sides),
        np.cumsum(sizes) - sizes,
        np.concatenate([np.empty(0, np.int64), *tables]).astype(np.int32),
    )


@numba.njit(nogil=True, cache=True)
def _enumerate_keys(
    codes: NDArray, shift: NDArray, side: NDArray, start: NDArray, table: NDArray, most: int
) -> tuple[NDArray, NDArray]:
    """Enumerate the keys of all pairs in order of first appearance; stop after `most` of them."""
    n, n_features = codes.shape
    index = np.empty(n * (n - 1) // 2, np.int32)
    bits = 10
    keys = np.empty(1 << bits, np.uint64)
    used = np.full(1 << bits, -1, np.int32)
    n_keys, p = 0, 0
    for i in range(n):
        for j in range(i + 1, n):
            key = np.uint64(0)
            for k in range(n_features):
                a, b = codes[i, k], codes[j, k]
                if side[k] == 0:
                    which = np.uint64((a >= 0) & (b >= 0) & (a != b))
                else:
                    # Undefined levels are -1, which is the last row or column.
                    a, b = a % side[k], b % side[k]
                    which = np.uint64(table[start[k] + a * side[k] + b])
                key |= which << shift[k]
            slot = _slot(key, keys, used, bits)
            if used[slot] < 0:
                keys[slot] = key
                used[slot] = n_keys
                n_keys += 1
            index[p] = used[slot]
            p += 1
            if 2 * n_keys > len(keys):
                keys, used = _grow(keys, used, bits)
                bits += 1
        if n_keys > most:
            break
    known = np.empty(n_keys, np.uint64)
    for slot in range(len(keys)):
        if used[slot] >= 0:
            known[used[slot]] = keys[slot]
    return known, index


def pair_patterns(features: Features, most: int | None = None) -> tuple[NDArray, NDArray] | None:
    """Enumerate the distinct rows of feature distances of all pairs.

    Returns the rows, float64 (pattern, F), and the row of each pair, int32 in upper-triangle order.
    None if there are more than `most`, or one of the features has distances of its own for nearly
    every pair.
    """
    keys = _keys(features)
    if keys is None:
        return None
    n_pairs = len(features.codes) * (len(features.codes) - 1) // 2
    most = n_pairs if most is None else most
    known, index = _enumerate_keys(features.codes, *keys[2:], most)
    if len(known) > most:
        return None
    order = np.argsort(known)
    rank = np.empty(len(known), np.int32)
    rank[order] = np.arange(len(known), dtype=np.int32)
    patterns = np.empty((len(known), features.n_features))
    for k, (values, bits) in enumerate(zip(keys.values, keys.bits, strict=True)):
        which = (known[order] >> keys.shift[k]) & np.uint64(2**bits - 1)
        patterns[:, k] = values[which.astype(np.int64)]
    return patterns, rank[index]


class PairCounts(NamedTuple):
    """How many pairs of sentences there are of some kinds."""

    n_patterns: int
    """Covariate patterns; as many as pairs where nearly every pair has its own."""
    differing: NDArray
    """Pairs whose feature distance is not 0: int64 (F)."""


def sums_over_pairs(features: Features) -> tuple[PairCounts, Regressors]:
    """Count all pairs of sentences, and sum their feature distances."""
    n = len(features.codes)
    n_pairs = n * (n - 1) // 2
    found = pair_patterns(features, worthwhile(n))
    if found is not None:
        pattern, index = found
        blocks: Iterable = [
            (pattern, np.bincount(index, minlength=len(pattern)).astype(np.float64))
        ]
    else:
        blocks = _one_by_one(features)
    differing = np.zeros(features.n_features, np.int64)
    total, x, xx = 0.0, np.zeros(len(differing)), np.zeros((len(differing),) * 2)
    for distance, count in blocks:
        own = regressors(distance, count)
        total, x, xx = total + own.n_pairs, x + own.x, xx + own.xx
        differing += (count @ (distance > 0)).astype(np.int64)
    n_patterns = n_pairs if found is None else len(found[0])
    return PairCounts(n_patterns, differing), Regressors(total, x, xx)


def worthwhile(n_sentences: int) -> int:
    """Return how many covariate patterns are better than single pairs."""
    return max(_FEW, n_sentences * (n_sentences - 1) // 2 // _WORTH)


def _one_by_one(features: Features) -> Iterator[tuple[NDArray, NDArray]]:
    """Yield the feature distances of all pairs, those of a sentence with later ones at a time."""
    n = len(features.codes)
    for first in range(n - 1):
        second = np.arange(first + 1, n)
        yield features.distances(np.full(len(second), first), second), np.ones(len(second))


@numba.njit(nogil=True, cache=True)
def sort_pairs(group: NDArray, n_groups: int, first: NDArray, second: NDArray, n: int) -> NDArray:
    """Sort the pairs by group, keeping the upper-triangle order inside a group.

    `group` is int32 in upper-triangle order, -1 for pairs that are left out. Fills `first` and
    `second` with the sentences of the others, and returns where each group starts, int64.
    """
    start = np.zeros(n_groups + 1, np.int64)
    for g in group:
        if g >= 0:
            start[g + 1] += 1
    start = np.cumsum(start)
    position = start[:-1].copy()
    p = 0
    for i in range(n):
        for j in range(i + 1, n):
            g = group[p]
            if g >= 0:
                first[position[g]] = i
                second[position[g]] = j
                position[g] += 1
            p += 1
    return start
