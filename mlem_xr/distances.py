"""Neural distances between sentences, lazily."""

import numpy as np
import xarray as xr

from mlem_xr.cells import map_cells
from mlem_xr.kernels.distances import distances as kernel
from mlem_xr.schema import choose

DISTANCES = (
    *("euclidean", "l2", "l1", "manhattan", "cityblock", "cosine", "correlation", "norm_diff"),
    *("sqeuclidean", "seuclidean", "mahalanobis", "minkowski", "chebyshev", "braycurtis"),
    *("canberra", "hamming", "nan_euclidean"),
    *("dice", "jaccard", "rogerstanimoto", "russellrao", "sokalsneath", "yule"),
)
"""Metrics of `sklearn.metrics.pairwise_distances` that take any matrix, and `norm_diff`."""


def distances(
    activations: xr.Dataset, *, distance: str = "euclidean", zscore: bool = False
) -> xr.DataArray:
    """Compute the distance between the activations of every two sentences.

    Parameters
    ----------
    activations : xr.Dataset
        With a variable `activation` (..., sentence, unit), NumPy- or Dask-backed.
    distance : str
        A metric of `sklearn.metrics.pairwise_distances`, or `norm_diff`: the absolute difference
        of the Euclidean norms.
    zscore : bool
        Whether to bring every unit to mean 0 and standard deviation 1 over the sentences first.

    Returns
    -------
    xr.DataArray
        float64 (..., sentence, other_sentence), in the unit of the activations; lazy if
        `activations` is. NaN where no activations were recorded.

    Raises
    ------
    InputError
        If the distance is unknown or `activations` is not what it should be; when computed, if
        activations hold NaN or infinite values, or a distance is undefined (as the cosine distance
        of a zero vector).

    Examples
    --------
    >>> data = xr.Dataset(
    ...     {"activation": (("sentence", "unit"), [[0.0, 0], [3, 4], [0, 1], [1, 0]])},
    ...     coords={"odd": ("sentence", [0, 1, 0, 1])},
    ... )
    >>> float(distances(data).isel(sentence=0, other_sentence=1))
    5.0
    """
    choose("distance", distance, DISTANCES)
    n = activations.sizes.get("sentence", 0)
    result = map_cells(
        kernel,
        activations,
        output={"sentence": n, "other_sentence": n},
        distance=distance,
        zscore=zscore,
    )
    sentence = activations["sentence"].values if "sentence" in activations else np.arange(n)
    labels = {"sentence": sentence, "other_sentence": sentence}
    result = result.assign_coords(labels).rename("distance")
    return result.assign_attrs(long_name=f"{distance} distance")
