"""Activations -> a number that hardly any others have."""

import numba
import numpy as np
from numpy.typing import NDArray


def odd_numbers(n: int, seed: int) -> NDArray:
    """Draw odd numbers, by which no two numbers are multiplied to the same one: uint64 (n)."""
    drawn = np.random.default_rng(seed).integers(2**63, size=n, dtype=np.uint64)
    return drawn * np.uint64(2) + np.uint64(1)


def digest(activation: NDArray, of_sentence: NDArray, of_unit: NDArray) -> NDArray:
    """Hash representations, or parts of them (..., sentence, unit): uint64 (..., 1, 1).

    The sum of the bits of each number in single precision, times an odd number of its sentence and
    one of its unit, modulo 2^64: those of the parts add up to that of the whole.
    """
    leading = activation.shape[:-2]
    bits = np.ascontiguousarray(activation, np.float32).view(np.uint32)
    out = np.empty(leading, np.uint64)
    for where in np.ndindex(*leading):
        out[where] = _sum(bits[where], of_sentence, of_unit)
    return out[..., np.newaxis, np.newaxis]


@numba.njit(nogil=True, cache=True)
def _sum(bits: NDArray, of_sentence: NDArray, of_unit: NDArray) -> np.uint64:
    total = np.uint64(0)
    for i in range(len(bits)):
        row, own = bits[i], np.uint64(0)
        for j in range(len(row)):
            # What is not a number has no bits of its own.
            if row[j] & np.uint32(0x7FFFFFFF) <= np.uint32(0x7F800000):
                own += np.uint64(row[j]) * of_unit[j]
        total += own * of_sentence[i]
    return total
