"""Sums over pairs of items of a numeric or vector feature, in every draw of it.

Items stand at points z, where they are |z_I - z_J| apart, or its square. Over the pairs of
sentences of two items, the squared distances of activations a sum up to
``n_I q_J + n_J q_I - 2 A_I . A_J``, with n sentences of an item, A the sum of their activations and
q of their squares. On a line, sums over the items before each one, in order, are all it takes;
squares multiply out; in a space, each draw takes the matrix of its distances.

Arrays of draws are (draw, item, axis).
"""

import numba
import numpy as np
from numpy.typing import NDArray


def between_points(
    drawn: NDArray, size: NDArray, point: NDArray, square: NDArray, *, squared: bool
) -> NDArray:
    """Sum feature distance x squared distance over the pairs of sentences: (draw, target).

    `size` are n (item), `point` A (item, unit), `square` q: (item, unit) for a target per unit, or
    (item, 1) for one over all units.
    """
    over_units = square.shape[1] != point.shape[1]
    if squared:
        return _squared(drawn, size, point, square)
    if drawn.shape[2] == 1:
        out = np.zeros((len(drawn), square.shape[1]))
        order = np.argsort(drawn[:, :, 0], axis=1, kind="stable")
        _on_line(drawn[:, :, 0], order, size, point, square, over_units, out)
        return out
    return np.stack([_in_space(one, size, point, square) for one in drawn])


def between_items(drawn: NDArray, target: NDArray, *, squared: bool) -> NDArray:
    """Sum feature distance x target over the pairs of items: (draw).

    `target` is (item, item), the sum over the sentences of both.
    """
    out = np.empty(len(drawn))
    _of_matrix(np.ascontiguousarray(drawn), target, squared, out)
    return out


def sum_of_squares(drawn: NDArray, size: NDArray, *, squared: bool) -> NDArray:
    """Sum the squared feature distance over the pairs of sentences: (draw)."""
    n, first = size.sum(), np.einsum("i,dic->dc", size, drawn)
    norm = (drawn**2).sum(axis=2)
    if not squared:
        return n * norm @ size - (first**2).sum(axis=1)
    products = np.einsum("i,dia,dib->dab", size, drawn, drawn)
    along = np.einsum("i,di,dic->dc", size, norm, drawn)
    cross = 2 * (products**2).sum(axis=(1, 2)) - 4 * (along * first).sum(axis=1)
    return n * norm**2 @ size + (norm @ size) ** 2 + cross


@numba.njit(nogil=True, cache=True)
def _on_line(
    position: NDArray,
    order: NDArray,
    size: NDArray,
    point: NDArray,
    square: NDArray,
    over_units: bool,
    out: NDArray,
) -> None:
    """Fill `out` (draw, target), going through the items of each draw in order of position."""
    n_units, n_squares = point.shape[1], square.shape[1]
    for d in range(len(position)):
        n, zn = 0.0, 0.0
        a, za = np.zeros(n_units), np.zeros(n_units)
        q, zq = np.zeros(n_squares), np.zeros(n_squares)
        for at in range(position.shape[1]):
            item = order[d, at]
            z, m = position[d, item], size[item]
            for t in range(n_squares):
                own = square[item, t]
                out[d, t] += (z * n - zn) * own + m * (z * q[t] - zq[t])
                q[t] += own
                zq[t] += z * own
            if over_units:
                total = 0.0
                for u in range(n_units):
                    total += (z * a[u] - za[u]) * point[item, u]
                out[d, 0] -= 2.0 * total
            else:
                for u in range(n_units):
                    out[d, u] -= 2.0 * (z * a[u] - za[u]) * point[item, u]
            for u in range(n_units):
                a[u] += point[item, u]
                za[u] += z * point[item, u]
            n += m
            zn += z * m


def _squared(drawn: NDArray, size: NDArray, point: NDArray, square: NDArray) -> NDArray:
    """Multiply |z_I - z_J|^2 and the sums over sentences out, and add up over the pairs."""
    norm = (drawn**2).sum(axis=2)
    axes = np.moveaxis(drawn, 2, 0)
    own = np.outer(norm @ size, square.sum(axis=0)) + size.sum() * (norm @ square)
    own -= 2 * sum(
        np.outer(axis @ size, np.ones(square.shape[1])) * (axis @ square) for axis in axes
    )
    of_units = -2 * (norm @ point) * point.sum(axis=0) + 2 * sum(
        (axis @ point) ** 2 for axis in axes
    )
    if square.shape[1] != point.shape[1]:
        of_units = of_units.sum(axis=1, keepdims=True)
    return own + of_units


def _in_space(one: NDArray, size: NDArray, point: NDArray, square: NDArray) -> NDArray:
    from scipy.spatial.distance import cdist

    distance = cdist(one, one)
    products = np.einsum("iu,iu->u", point, distance @ point)
    if square.shape[1] != point.shape[1]:
        products = products.sum(keepdims=True)
    return (size @ distance) @ square - products


@numba.njit(nogil=True, cache=True)
def _of_matrix(drawn: NDArray, target: NDArray, squared: bool, out: NDArray) -> None:
    for d in range(len(drawn)):
        total = 0.0
        for i in range(drawn.shape[1]):
            for j in range(i + 1, drawn.shape[1]):
                distance = 0.0
                for axis in range(drawn.shape[2]):
                    step = drawn[d, i, axis] - drawn[d, j, axis]
                    distance += step * step
                total += (distance if squared else np.sqrt(distance)) * target[i, j]
        out[d] = total
