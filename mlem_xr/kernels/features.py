"""Features of sentences -> feature distances of pairs of sentences.

Kinds of features differ only in how far apart two sentences are that define them: categorical ones
1 if their levels differ, else 0; numeric and vector ones as far as two points are on a line or in a
space; others as far as a table says. A pair is at distance 0 where a sentence leaves the feature
undefined.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Features:
    """The features of n sentences; equal if all arrays are."""

    codes: NDArray
    """Level of each feature: int32 (sentence, F), -1 where undefined."""
    position: NDArray
    """Where sentences stand on the axes of numeric and vector features: float64 (sentence, axis),
    NaN where undefined, around 0, scaled so that the largest distance is 1."""
    axis_of: NDArray
    """Which feature each axis belongs to, ascending: int64 (axis). Those with none are categorical,
    or given."""
    given: NDArray
    """Distances that were given, the largest 1: float64 (G, sentence, sentence)."""
    given_of: NDArray
    """Which feature each of them is: int64 (G)."""
    squared: bool
    """Whether distances are squared, which makes no difference to categorical features."""

    @cached_property
    def _digest(self) -> bytes:
        arrays = (self.codes, self.position, self.axis_of, self.given, self.given_of)
        found = hashlib.blake2b(repr((self.squared, [a.shape for a in arrays])).encode())
        for array in arrays:
            found.update(np.ascontiguousarray(array).data)
        return found.digest()

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Features) and self._digest == other._digest

    @property
    def n_features(self) -> int:
        """Return how many features there are."""
        return self.codes.shape[1]

    @property
    def categorical(self) -> NDArray:
        """Say which features are categorical: bool (F)."""
        found = np.full(self.n_features, True)
        found[self.axis_of] = found[self.given_of] = False
        return found

    def only(self, feature: int) -> "Features":
        """Return one feature alone."""
        axes, given = self.axis_of == feature, self.given_of == feature
        return Features(
            self.codes[:, [feature]],
            self.position[:, axes],
            np.zeros(axes.sum(), np.int64),
            self.given[given],
            np.zeros(given.sum(), np.int64),
            self.squared,
        )

    def matrix(self, feature: int) -> NDArray:
        """Compute the distances of one feature of all sentences: (sentence, sentence)."""
        alone, n = self.only(feature), len(self.codes)
        rows = [alone.distances(np.full(n, i), np.arange(n))[:, 0] for i in range(n)]
        return np.stack(rows)

    @property
    def are_categorical(self) -> bool:
        """Say whether all features are categorical."""
        return not len(self.axis_of) and not len(self.given_of)

    def distances(self, first: NDArray, second: NDArray) -> NDArray:
        """Compute the feature distances of pairs of sentences: float64 (pair, F)."""
        out = np.empty((len(first), self.n_features))
        start = np.searchsorted(self.axis_of, np.arange(self.n_features + 1))
        table = np.full(self.n_features, -1)
        table[self.given_of] = np.arange(len(self.given_of))
        arrays = (self.codes, self.position, start, self.given, table)
        _distances(np.asarray(first), np.asarray(second), *arrays, self.squared, out)
        return out


def features_of(
    codes: NDArray,
    position: NDArray | None = None,
    axis_of: NDArray | None = None,
    given: NDArray | None = None,
    given_of: NDArray | None = None,
    squared: bool = False,
) -> Features:
    """Make features out of the fields that there are: with codes alone, they are categorical."""
    n, none = len(codes), np.empty(0, np.int64)
    return Features(
        np.ascontiguousarray(codes, dtype=np.int32),
        np.empty((n, 0)) if position is None else position,
        none if axis_of is None else axis_of,
        np.empty((0, n, n)) if given is None else given,
        none if given_of is None else given_of,
        squared,
    )


@numba.njit(nogil=True, cache=True)
def _distances(
    first: NDArray,
    second: NDArray,
    codes: NDArray,
    position: NDArray,
    start: NDArray,
    given: NDArray,
    table: NDArray,
    squared: bool,
    out: NDArray,
) -> None:
    """Fill `out` (pair, F); the axes of feature k start at start[k], its table is table[k]."""
    for p in range(len(first)):
        i, j = first[p], second[p]
        for k in range(codes.shape[1]):
            if table[k] >= 0:
                distance = given[table[k], i, j]
                out[p, k] = distance * distance if squared else distance
            elif start[k] == start[k + 1]:
                a, b = codes[i, k], codes[j, k]
                out[p, k] = 1.0 if a >= 0 and b >= 0 and a != b else 0.0
            else:
                total = 0.0
                for axis in range(start[k], start[k + 1]):
                    step = position[i, axis] - position[j, axis]
                    total += step * step
                if np.isnan(total):
                    total = 0.0
                out[p, k] = total if squared else np.sqrt(total)
