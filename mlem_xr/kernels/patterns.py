"""Feature codes -> covariate patterns of all pairs of sentences."""

import numba
import numpy as np
from numpy.typing import NDArray

MAX_FEATURES = 64
"""One bit of an unsigned 64-bit integer per feature."""

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio: multiplication by it spreads keys (Fibonacci hashing)."""


@numba.njit(nogil=True, cache=True)
def _slot(mask: np.uint64, masks: NDArray, used: NDArray, bits: int) -> int:
    """Find where a mask stands in a hash table of 2^bits slots, or the free slot for it."""
    slot = np.int64((mask * _FACTOR) >> np.uint64(64 - bits))
    while used[slot] >= 0 and masks[slot] != mask:
        slot = (slot + 1) & ((1 << bits) - 1)
    return int(slot)


@numba.njit(nogil=True, cache=True)
def _grow(masks: NDArray, used: NDArray, bits: int) -> tuple[NDArray, NDArray]:
    """Double the hash table."""
    new_masks = np.empty(1 << (bits + 1), np.uint64)
    new_used = np.full(1 << (bits + 1), -1, np.int32)
    for slot in range(len(masks)):
        if used[slot] >= 0:
            new = _slot(masks[slot], new_masks, new_used, bits + 1)
            new_masks[new] = masks[slot]
            new_used[new] = used[slot]
    return new_masks, new_used


@numba.njit(nogil=True, cache=True)
def _enumerate_masks(codes: NDArray) -> tuple[NDArray, NDArray]:
    """Enumerate the masks of all pairs in order of first appearance.

    Bit k of a mask is set where both sentences define feature k and differ in it.
    """
    n, n_features = codes.shape
    index = np.empty(n * (n - 1) // 2, np.int32)
    bits = 10
    masks = np.empty(1 << bits, np.uint64)
    used = np.full(1 << bits, -1, np.int32)
    n_masks, p = 0, 0
    for i in range(n):
        for j in range(i + 1, n):
            mask = np.uint64(0)
            for k in range(n_features):
                a, b = codes[i, k], codes[j, k]
                differ = (a >= 0) & (b >= 0) & (a != b)
                mask |= np.uint64(differ) << np.uint64(k)
            slot = _slot(mask, masks, used, bits)
            if used[slot] < 0:
                masks[slot] = mask
                used[slot] = n_masks
                n_masks += 1
            index[p] = used[slot]
            p += 1
            if 2 * n_masks > len(masks):
                masks, used = _grow(masks, used, bits)
                bits += 1
    known = np.empty(n_masks, np.uint64)
    for slot in range(len(masks)):
        if used[slot] >= 0:
            known[used[slot]] = masks[slot]
    return known, index


def pair_patterns(codes: NDArray) -> tuple[NDArray, NDArray]:
    """Enumerate the distinct rows of feature distances of all pairs.

    `codes` are int32 (sentence, feature), -1 where undefined, at most 64 features. Returns the
    rows, uint8 (pattern, feature) of 0 and 1, and the row of each pair, int32 in upper-triangle
    order.
    """
    known, index = _enumerate_masks(np.ascontiguousarray(codes, dtype=np.int32))
    order = np.argsort(known)
    rank = np.empty(len(known), np.int32)
    rank[order] = np.arange(len(known), dtype=np.int32)
    bits = np.arange(codes.shape[1], dtype=np.uint64)
    patterns = ((known[order, np.newaxis] >> bits) & np.uint64(1)).astype(np.uint8)
    return patterns, rank[index]


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
