"""Activations -> distances between sentences."""

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
        If a distance is undefined, as the cosine distance of a zero vector.
    """
    from sklearn.metrics import pairwise_distances

    activation = standardise(activation) if zscore else np.asarray(activation, dtype=np.float64)
    if distance == "norm_diff":
        norm = np.linalg.norm(activation, axis=1)
        return np.abs(norm[:, np.newaxis] - norm)
    result = np.asarray(pairwise_distances(activation, metric=distance), dtype=np.float64)
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
