"""Neural distances between sentences."""

from dataclasses import dataclass

import xarray as xr

from mlem_xr.analyses.base import Analysis, Output
from mlem_xr.analyses.options import Options, option
from mlem_xr.kernels.distances import DISTANCES, neural_distances


@dataclass(frozen=True, kw_only=True)
class DistanceOptions(Options):
    """The options of the distances."""

    distance: str = option("euclidean", "Distance between activations.", known=DISTANCES)
    zscore: bool = option(False, "Bring every unit to mean 0 and standard deviation 1.")


NEURAL_DISTANCES = Analysis(
    name="distances",
    help="Compute the distance between the activations of every two sentences.",
    command="distances",
    function=neural_distances,
    inputs={"activation": ("sentence", "unit")},
    outputs=lambda options: {"distance": Output(("sentence", "other_sentence"), "distance")},
    options=DistanceOptions,
    stage="distances",
)


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
    options = DistanceOptions(distance=distance, zscore=zscore)
    result = NEURAL_DISTANCES(activations, options)
    return result["distance"].assign_attrs(long_name=f"{options.distance} distance")
