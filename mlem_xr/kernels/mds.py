"""Distances between sentences -> a map of them."""

import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels.distances import distances

STARTS = ("random", "classical")
"""Where the iterations start."""


def mds(
    activation: NDArray,
    *,
    distance: str = "euclidean",
    zscore: bool = False,
    n_components: int = 2,
    n_init: int = 1,
    init: str = "random",
    max_iter: int = 200,
    eps: float = 1e-4,
    random_state: int = 0,
) -> NDArray:
    """Place the sentences of a layer by metric multidimensional scaling.

    Parameters
    ----------
    activation : ndarray (sentence, unit)
        Finite activations.
    distance, zscore
        As for `mlem_xr.kernels.distances.distances`.
    n_components, n_init, init, max_iter, eps, random_state
        As for `mlem_xr.mds`.

    Returns
    -------
    ndarray of float64 (output)
        The positions (sentence, axis) in one row, then the stress.

    Raises
    ------
    InputError
        If a distance is undefined, as the cosine distance of a zero vector.

    Examples
    --------
    >>> mds(np.array([[0.0], [3.0], [4.0]]), n_components=1, init="classical").round(3).tolist()
    [2.333, -0.667, -1.667, 0.0]
    """
    from sklearn.manifold import smacof

    neural = distances(activation, distance=distance, zscore=zscore)
    # Sentences that coincide are no error: scikit-learn divides by their distance all the same.
    with np.errstate(divide="ignore", invalid="ignore"):
        position, stress = smacof(
            neural,
            n_components=n_components,
            init=classical(neural, n_components) if init == "classical" else None,
            n_init=n_init,
            max_iter=max_iter,
            eps=eps,
            random_state=random_state,
            normalized_stress=False,
        )
    return np.append(position.ravel(), stress)


def classical(distance: NDArray, n_components: int) -> NDArray:
    """Place sentences by classical scaling: the principal axes of the centred squared distances.

    Parameters
    ----------
    distance : ndarray of float64 (sentence, sentence)
        Symmetric distances.
    n_components : int
        Number of axes.

    Returns
    -------
    ndarray of float64 (sentence, axis)
        Positions; 0 along an axis that distances which are not Euclidean leave imaginary.

    Examples
    --------
    >>> classical(np.array([[0.0, 2.0], [2.0, 0.0]]), 1).round(3).tolist()
    [[1.0], [-1.0]]
    """
    from sklearn.manifold import ClassicalMDS

    scaling = ClassicalMDS(n_components=n_components, metric="precomputed")
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(scaling.fit_transform(distance))
