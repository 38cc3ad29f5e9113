"""Activations -> distances between sentences."""

import numba
import numpy as np
from numpy.typing import NDArray

from mlem_xr.schema import InputError


def distances(activation: NDArray, *, distance: str, zscore: bool = False) -> NDArray:
    """Compute the distance between every two sentences.

    Parameters
    ----------
    activation : ndarray (sentence, unit)
        Finite activations.
    distance : str
        `norm_diff`: | |a_i| - |a_j| |, the difference of Euclidean norms; else a metric of
        `sklearn.metrics.pairwise_distances`.
    zscore : bool
        Whether to standardise every unit first.

    Returns
    -------
    ndarray of float64 (sentence, sentence)
        Symmetric distances with a diagonal of zeros.

    Raises
    ------
    InputError
        If a distance is undefined, as the cosine distance of a zero vector, or cannot be computed
        from these activations, as the Mahalanobis distance with units that depend on each other.
    """
    from sklearn.metrics import pairwise_distances

    activation = standardise(activation) if zscore else np.asarray(activation, dtype=np.float64)
    if distance == "norm_diff":
        norm = np.linalg.norm(activation, axis=1)
        return np.abs(norm[:, np.newaxis] - norm)
    try:
        result = np.asarray(pairwise_distances(activation, metric=distance), dtype=np.float64)
    except np.linalg.LinAlgError as error:
        raise InputError(
            f"distance: {distance!r} cannot be computed from activations of shape "
            f"{activation.shape} (sentence, unit): {error}"
        ) from error
    if not np.isfinite(result).all():
        sentence = int(np.argmin(np.isfinite(result).sum(axis=1)))
        raise InputError(
            f"distance: {distance!r} is undefined for the activations of sentence {sentence}"
        )
    return result


def standardise(activation: NDArray) -> NDArray:
    """Subtract each unit's mean over sentences and divide by its standard deviation.

    Parameters
    ----------
    activation : ndarray (sentence, unit)
        Finite activations.

    Returns
    -------
    ndarray of float64 (sentence, unit)
        Mean 0 and standard deviation 1 (without degrees of freedom); 0 for a constant unit.
    """
    activation = np.asarray(activation, dtype=np.float64)
    centred = activation - activation.mean(axis=0)
    deviation = activation.std(axis=0)
    constant = np.ptp(activation, axis=0) == 0
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, deviation))


@numba.njit(nogil=True, cache=True)
def distances_from_products(product: NDArray, out: NDArray) -> None:
    """Turn scalar products of activations into Euclidean distances: |a|^2 + |b|^2 - 2 a.b.

    Parameters
    ----------
    product : ndarray of float64 (sentence, sentence)
        Scalar products; only those of a sentence with itself and later ones are read.
    out : ndarray of float64 (sentence, sentence)
        Filled with the distances of each sentence to later ones; the rest stays as it is.
    """
    squared_norm = np.diag(product)
    for i in range(len(product)):
        for j in range(i + 1, len(product)):
            squared = squared_norm[i] + squared_norm[j] - 2.0 * product[i, j]
            # Rounding may leave a square below zero.
            out[i, j] = np.sqrt(max(squared, 0.0))
