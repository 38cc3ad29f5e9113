"""Neural distances between sentences."""

from dataclasses import dataclass
from inspect import signature
from typing import Any

import xarray as xr

from mlem_xr.analyses.base import Analysis, Output
from mlem_xr.analyses.options import Options, option, plain
from mlem_xr.kernels.distances import DISTANCES, Function, neural_distances
from mlem_xr.schema import InputError, choose, shown


def check_distance(name: str, value: Any) -> str | Function:
    """Return the name of a known distance, or a function of two sentences."""
    if not callable(value) or isinstance(value, type):
        return choose(name, value, DISTANCES)
    if not _takes_two(value):
        raise InputError(
            f"{name}: found {shown(value)}; expected a function of the activations of two "
            "sentences; a matrix of all of them goes in with 'precomputed'"
        )
    return value


def _takes_two(function: Function) -> bool:
    try:
        signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:
        # Some functions that are not written in Python do not say what they take.
        return True
    return True


def distance_option() -> Any:
    """Return the option of what takes any distance."""
    return option(
        "euclidean", "Distance between activations.", known=DISTANCES, check=check_distance
    )


@dataclass(frozen=True, kw_only=True)
class DistanceOptions(Options):
    """The options of the distances."""

    distance: str | Function = distance_option()
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
    activations: xr.Dataset, *, distance: str | Function = "euclidean", zscore: bool = False
) -> xr.DataArray:
    """Compute the distance between the activations of every two sentences.

    Parameters
    ----------
    activations : xr.Dataset
        With a variable `activation` (..., sentence, unit), NumPy- or Dask-backed.
    distance : str or callable
        A metric of `sklearn.metrics.pairwise_distances`; `norm_diff`: the absolute difference
        of the Euclidean norms; or a function that takes the activations of two sentences, float64
        (unit), and returns a number, as the metrics of scikit-learn and `scipy.spatial.distance`
        do. It is called for each pair of sentences, so it is slow, and `save_results` refuses what
        follows from it: nothing that can be written down tells two functions apart for sure.
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

    >>> largest = distances(data, distance=lambda a, b: abs(a - b).max())
    >>> float(largest.isel(sentence=0, other_sentence=1))
    4.0
    """
    options = DistanceOptions(distance=distance, zscore=zscore)
    result = NEURAL_DISTANCES(activations, options)
    return result["distance"].assign_attrs(long_name=f"{plain(options.distance)} distance")
