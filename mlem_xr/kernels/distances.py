"""Activations -> distances between sentences."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels.errors import Undefined

_ROUNDINGS = 16
"""Activations that differ by so many units in the last place of the largest are the same."""

_UNRESOLVED = _ROUNDINGS * np.finfo(np.float64).eps
"""So much of the squared norms is rounding in what scalar products leave of a squared distance."""

_CACHED = 2**19
"""Bytes of activations that stay in the cache of a processor while they are read twice."""

PRECOMPUTED = "precomputed"
"""Distances that were computed elsewhere, in the place of activations."""

_ASYMMETRY = 1e-5
"""Relative to the largest distance: a larger difference of there and back is no rounding."""


class Distance(NamedTuple):
    """A distance between the activations of two sentences."""

    matrix: Callable[[NDArray], NDArray] | None
    """Activations, float64 (sentence, unit) -> distances, float64 (sentence, sentence); None: their
    space has one axis, and it is the distance along it."""
    on_line: Callable[[NDArray], NDArray] | None = None
    """Where the sentences stand on the line of one unit, as a function of its activations, if its
    distance is that of two points on a line; None: every unit takes a matrix."""
    in_space: Callable[[NDArray], NDArray] | None = None
    """Where they stand in a space, as a function of their activations (sentence, unit), if the
    distance over all units is the Euclidean one there: (sentence, axis)."""
    of_one_unit: bool = True
    """Whether it means something for a single unit."""
    from_products: bool = False
    """Whether it is the Euclidean distance, which grows with the scalar products of more units."""
    of_directions: bool = False
    """Whether it is 1 less a cosine, so that it has the rounding of 1 however small it is."""
    centered: bool = False
    """Whether it is computed from scalar products, which lose digits where units are not centered,
    and does not change when they are."""


def _metric(name: str) -> Callable[[NDArray], NDArray]:
    def matrix(activation: NDArray) -> NDArray:
        from sklearn.metrics import pairwise_distances

        return np.asarray(pairwise_distances(activation, metric=name), dtype=np.float64)

    return matrix


def _norm(activation: NDArray) -> NDArray:
    return np.linalg.norm(activation, axis=1, keepdims=True)


def _cosine(activation: NDArray) -> NDArray:
    result = _metric("cosine")(activation)
    # scikit-learn says 1, also from such a vector to one like it.
    nowhere = ~activation.any(axis=1)
    result[nowhere], result[:, nowhere] = np.nan, np.nan
    return result


def _mahalanobis(activation: NDArray) -> NDArray:
    n_sentences, n_units = activation.shape
    if n_units >= n_sentences or _depend(activation):
        raise np.linalg.LinAlgError(
            "expected fewer units than sentences, none of which follows from the others"
        )
    return _metric("mahalanobis")(activation)


def _depend(activation: NDArray) -> bool:
    """Say whether some unit follows from the others; those of any size count the same."""
    scaled = standardize(activation)
    rank = np.linalg.matrix_rank(scaled.T @ scaled, hermitian=True)
    return bool(rank < activation.shape[1])


def _metrics(*names: str, **properties: Any) -> dict[str, Distance]:
    return {name: Distance(_metric(name), **properties) for name in names}


DISTANCES: dict[str, Distance] = {
    **_metrics(
        *("euclidean", "l2"),
        on_line=np.asarray,
        in_space=np.asarray,
        from_products=True,
        centered=True,
    ),
    **_metrics("l1", "manhattan", "cityblock", "minkowski", "chebyshev", on_line=np.asarray),
    "cosine": Distance(_cosine, of_one_unit=False, of_directions=True),
    **_metrics("correlation", of_one_unit=False, of_directions=True),
    "mahalanobis": Distance(_mahalanobis, of_one_unit=False),
    **_metrics("nan_euclidean", in_space=np.asarray, centered=True),
    **_metrics("sqeuclidean", "seuclidean", "braycurtis", "canberra", "hamming"),
    **_metrics("dice", "jaccard", "rogerstanimoto", "russellrao", "sokalsneath", "yule"),
    "norm_diff": Distance(None, on_line=np.abs, in_space=_norm),
    PRECOMPUTED: Distance(np.array, of_one_unit=False),
}
"""Metrics of `sklearn.metrics.pairwise_distances` that take any matrix; `norm_diff`, the difference
of the Euclidean norms; `precomputed`: the activations are distances."""


Function = Callable[[NDArray, NDArray], float]
"""The activations of two sentences, float64 (unit) -> their distance."""


def find_distance(distance: str | Function) -> Distance:
    """Return a distance by its name; of a function, the one that it computes."""
    return Distance(_of_function(distance)) if callable(distance) else DISTANCES[distance]


def _of_function(function: Function) -> Callable[[NDArray], NDArray]:
    def matrix(activation: NDArray) -> NDArray:
        from scipy.spatial.distance import pdist, squareform

        try:
            found = squareform(pdist(activation, function))
            # Each pair is computed once; from one sentence to all others shows that it may be.
            found[:, 0] = [function(one, activation[0]) for one in activation]
            itself = np.array([function(one, one) for one in activation], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise Undefined(
                "distance: the function failed for the activations of two sentences "
                f"({type(error).__name__}: {error}); expected a number"
            ) from error
        # From a sentence to itself it is 0, but for rounding.
        same = np.abs(itself) <= _ASYMMETRY * np.abs(found).max(initial=0.0)
        np.fill_diagonal(found, np.where(same, 0.0, itself))
        check_distances(found)
        return found

    return matrix


def distance_matrix(
    activation: NDArray,
    distance: str | Function,
    *,
    zscore: bool = False,
    parts: Sequence[NDArray] = (),
) -> NDArray:
    """Compute the distance between every two sentences: float64 (sentence, sentence).

    In parts of the sentences that are compared alone, what is rounding makes no distance either.

    Raises `Undefined` if a distance is undefined, as the cosine distance of a zero vector, or
    cannot be computed from these activations, as the Mahalanobis distance with units that depend on
    each other.
    """
    if distance == PRECOMPUTED:
        check_distances(activation)
        result = (activation + activation.T) / 2.0
        make_equal(result, activation.dtype)
        return result
    if is_constant(activation):
        # What rounding leaves of a distance of 0 would be stretched to targets.
        return np.zeros((len(activation), len(activation)))
    found, rounding = find_distance(distance), rounding_of(activation, zscore=zscore)
    dtype = activation.dtype
    activation = without_rounding(activation, parts=parts)
    if zscore:
        activation = standardize(activation)
    elif found.centered:
        activation = activation - activation.mean(axis=0)
    try:
        if found.matrix is not None:
            result = found.matrix(activation)
        else:
            assert found.in_space is not None
            result = _along(placed(activation, rounding, found.in_space, parts)[:, 0])
    except np.linalg.LinAlgError as error:
        raise Undefined(
            f"distance: {distance!r} cannot be computed from activations of shape "
            f"{activation.shape} (sentence, unit): {error}"
        ) from error
    if not np.isfinite(result).all():
        sentence = int(np.argmin(np.isfinite(result).sum(axis=1)))
        raise Undefined(
            f"distance: {distance!r} is undefined for the activations of sentence {sentence}"
        )
    if found.centered:
        _drop_unresolved(result, np.einsum("iu,iu->i", activation, activation))
    make_equal(result, dtype, of_directions=found.of_directions)
    return result


def make_equal(distance: NDArray, dtype: np.dtype[Any], *, of_directions: bool = False) -> None:
    """Make the distances of all pairs equal where they differ by rounding alone, in place.

    By that of float64, in which they are computed, or of the activations, of type `dtype`. Of
    directions, which may vary by the latter, they vary by its square where they are near 0.
    """
    smallest, largest = distance_range(distance)
    computed, given = _UNRESOLVED, 2 * float(np.finfo(dtype).eps)
    near_zero = computed + given**2 if of_directions else 0.0
    if len(distance) > 1 and largest - smallest <= (computed + given) * largest + near_zero:
        distance[:] = largest if largest > near_zero else 0.0
        np.fill_diagonal(distance, 0.0)


@numba.njit(nogil=True, cache=True)
def distance_range(distance: NDArray) -> tuple[float, float]:
    """Find the smallest and the largest distance of two different sentences."""
    smallest, largest = np.inf, -np.inf
    for i in range(len(distance)):
        for j in range(i + 1, len(distance)):
            smallest = min(smallest, distance[i, j])
            largest = max(largest, distance[i, j])
    return smallest, largest


def _along(position: NDArray) -> NDArray:
    """Compute the distances of points on a line."""
    return np.abs(position[:, np.newaxis] - position)


def distances_of_units(
    activation: NDArray,
    rounding: NDArray,
    distance: str | Function,
    parts: Sequence[NDArray] = (),
) -> Iterator[NDArray]:
    """Yield the distances over each unit alone, which varies so much by rounding."""
    on_line = find_distance(distance).on_line
    if on_line is None:
        for column in activation.T:
            yield distance_matrix(column[:, np.newaxis], distance, parts=parts)
    else:
        for position in placed(activation, rounding, on_line, parts).T:
            yield _along(position)


def check_distances(distance: NDArray) -> None:
    """Check that numbers (sentence, sentence) are distances of sentences to each other.

    Raises `Undefined` if they are not.
    """
    n, found = len(distance), None
    if distance.shape != (n, n):
        found = f"a shape of {distance.shape}"
    elif not np.isfinite(distance).all():
        found = "NaN or infinite values"
    elif (distance < 0).any():
        found = f"a distance of {distance.min()}"
    elif np.diag(distance).any():
        found = f"a distance of {np.diag(distance).max()} of a sentence to itself"
    else:
        apart = np.abs(distance - distance.T).max(initial=0.0)
        if apart > _ASYMMETRY * distance.max(initial=0.0):
            found = f"distances that differ by {apart} there and back"
    if found:
        raise Undefined(f"distance: {found}; expected symmetric distances, 0 on the diagonal")


def neural_distances(activation: NDArray, options: Any) -> dict[str, NDArray]:
    """Compute the distances of a representation: `distance` (sentence, sentence)."""
    return {"distance": distance_matrix(activation, options.distance, zscore=options.zscore)}


class Extent(NamedTuple):
    """Between what values the activations of each unit lie: (unit)."""

    smallest: NDArray
    largest: NDArray

    @property
    def is_finite(self) -> bool:
        """Say whether all activations are finite numbers."""
        return bool(np.isfinite(self.smallest).all() and np.isfinite(self.largest).all())

    @property
    def is_constant(self) -> bool:
        """Say whether all sentences have the same activations, but for rounding."""
        return bool(self.spread.max(initial=0.0) <= self.rounding.max(initial=0.0))

    @property
    def constant_units(self) -> NDArray:
        """Say which units are the same in all sentences, but for rounding: bool (unit)."""
        return self.spread <= self.rounding

    @property
    def spread(self) -> NDArray:
        """Return by how much each unit varies: (unit)."""
        return self.largest - self.smallest

    @property
    def rounding(self) -> NDArray:
        """Return by how much rounding may let each unit vary: (unit)."""
        size = np.maximum(np.abs(self.smallest), np.abs(self.largest))
        return _ROUNDINGS * np.finfo(size.dtype).eps * size


def extent(activation: NDArray) -> Extent:
    """Find the smallest and the largest activation of each unit (sentence, unit); NaN beside NaN.

    Some sentences at a time, so that memory is read once.
    """
    found = Extent(activation[0].copy(), activation[0].copy())
    n_rows = max(1, _CACHED // max(1, activation[0].nbytes))
    for start in range(0, len(activation), n_rows):
        rows = activation[start : start + n_rows]
        np.minimum(found.smallest, rows.min(axis=0), out=found.smallest)
        np.maximum(found.largest, rows.max(axis=0), out=found.largest)
    return found


def is_constant(activation: NDArray) -> bool:
    """Say whether all sentences have the same activations, but for rounding."""
    return extent(activation).is_constant


def without_rounding(
    activation: NDArray, rounding: NDArray | None = None, parts: Sequence[NDArray] = ()
) -> NDArray:
    """Make units that differ by rounding alone the same in all sentences: float64.

    And in each of some parts of the sentences. `rounding` says by how much rounding may let each
    unit vary; None: as much as its own precision does.
    """
    if rounding is None:
        rounding = extent(activation).rounding
    found = np.array(activation, dtype=np.float64)
    for part in (np.arange(len(found)), *parts):
        own = found[part]
        same = np.ptp(own, axis=0) <= rounding
        if same.any():
            found[part] = np.where(same, own[0], own)
    return found


def rounding_of(activation: NDArray, *, zscore: bool) -> NDArray:
    """Return by how much rounding may let each unit vary, standardized if asked to: float64."""
    found = extent(activation)
    rounding = found.rounding.astype(np.float64)
    if zscore:
        # A unit that varies by rounding alone was made constant before.
        rounding /= np.where(found.constant_units, 1.0, deviation(activation))
    return rounding


def placed(
    activation: NDArray,
    rounding: NDArray,
    place: Callable[[NDArray], NDArray],
    parts: Sequence[NDArray] = (),
) -> NDArray:
    """Place sentences, whose activations vary so much by rounding, without what is rounding there.

    `place` is a function of activations (sentence, unit), `on_line` or `in_space` of a `Distance`,
    which moves no sentence farther than its units.
    """
    return without_rounding(place(activation), moved(rounding, place), parts)


def moved(rounding: NDArray, place: Callable[[NDArray], NDArray]) -> NDArray:
    """Return how far rounding, of each unit, may move a place: (axis)."""
    return place(rounding[np.newaxis])[0]


def prepared(activation: NDArray, *, zscore: bool, parts: Sequence[NDArray] = ()) -> NDArray:
    """Take away what is rounding, in parts of the sentences too, and standardize if asked to."""
    if is_constant(activation):
        return np.zeros(activation.shape)
    activation = without_rounding(activation, parts=parts)
    return standardize(activation) if zscore else activation


def standardize(activation: NDArray) -> NDArray:
    """Bring each unit to mean 0 and standard deviation 1 (without degrees of freedom): float64.

    A constant unit becomes 0.
    """
    activation = np.asarray(activation, dtype=np.float64)
    centered = activation - activation.mean(axis=0)
    constant = np.ptp(activation, axis=0) == 0
    return np.where(constant, 0.0, centered / deviation(activation))


def deviation(activation: NDArray) -> NDArray:
    """Compute the standard deviation of each unit, 1 where it is constant: float64 (unit)."""
    constant = np.ptp(activation, axis=0) == 0
    return np.where(constant, 1.0, activation.std(axis=0, dtype=np.float64))


@numba.njit(nogil=True, cache=True)
def distances_from_products(product: NDArray, out: NDArray) -> None:
    """Turn scalar products of activations into Euclidean distances: |a|^2 + |b|^2 - 2 a.b.

    Both are float64 (sentence, sentence); only products of a sentence with itself and later ones
    are read, and only distances to later ones are written.
    """
    squared_norm = np.diag(product)
    for i in range(len(product)):
        for j in range(i + 1, len(product)):
            squared = squared_norm[i] + squared_norm[j] - 2.0 * product[i, j]
            # Rounding may leave a square near zero, or below it.
            rounding = _UNRESOLVED * (squared_norm[i] + squared_norm[j])
            out[i, j] = np.sqrt(squared) if squared > rounding else 0.0


@numba.njit(nogil=True, cache=True)
def _drop_unresolved(distance: NDArray, squared_norm: NDArray) -> None:
    """Set distances to 0 whose squares are no more than rounding in the sum of squared norms."""
    for i in range(len(distance)):
        for j in range(len(distance)):
            if distance[i, j] ** 2 <= _UNRESOLVED * (squared_norm[i] + squared_norm[j]):
                distance[i, j] = 0.0
