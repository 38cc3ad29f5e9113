"""Maps of the sentences by multidimensional scaling, lazily."""

import json
from typing import Any

import numpy as np
import xarray as xr

from mlem_xr.cells import map_cells
from mlem_xr.distances import DISTANCES
from mlem_xr.kernels.mds import STARTS
from mlem_xr.kernels.mds import mds as kernel
from mlem_xr.layers import layer_settings
from mlem_xr.schema import (
    InputError,
    check_activations,
    check_integer,
    check_random_state,
    choose,
)
from mlem_xr.stimuli.table import stimuli_attributes


def mds(
    activations: xr.Dataset,
    *,
    distance: str = "euclidean",
    zscore: bool = False,
    n_components: int = 2,
    n_init: int = 1,
    init: str = "random",
    max_iter: int = 200,
    eps: float = 1e-4,
    random_state: int = 0,
) -> xr.Dataset:
    """Place the sentences so that their distances resemble those of their activations.

    Metric multidimensional scaling by scikit-learn's `smacof`: positions z that minimise the raw
    stress, with d_ij the neural distance of two sentences,

        stress = sum over pairs i < j of (|z_i - z_j| - d_ij)^2.

    Positions are determined up to rotation, reflection and shift.

    Parameters
    ----------
    activations : xr.Dataset
        The opened store, or any Dataset with `activation` (..., sentence, unit) and the features
        as coordinates over `sentence`; NumPy- or Dask-backed.
    distance : str
        A metric of `sklearn.metrics.pairwise_distances`, or `norm_diff`: the absolute difference
        of the Euclidean norms.
    zscore : bool
        Whether every unit is brought to mean 0 and standard deviation 1 over the sentences first.
    n_components : int
        Number of axes.
    n_init : int
        Number of random starts; the one that ends with the smallest stress is kept.
    init : {"random", "classical"}
        `random`: start at random positions. `classical`: start at the classical scaling (the
        principal axes of the centred squared distances), which is always the same.
    max_iter : int
        Largest number of iterations.
    eps : float
        An iteration that lowers the stress by less than `eps` times the sum of |z_i - z_j|^2 over
        the pairs is the last one; not negative.
    random_state : int
        Seed of the random starts.

    Returns
    -------
    xr.Dataset
        float64, lazy if `activations` is; NaN where nothing was recorded. `position` (..., layer,
        sentence, axis) in the unit of the distance; `stress` (..., layer) in its square, not
        normalised. The coordinates over `sentence` (text, features) are those of `activations`.

    Raises
    ------
    InputError
        If an option is unknown or out of range, or `activations` is not what it should be; when
        computed, if a cell holds NaN or infinite values (the message names it), or a distance is
        undefined (as the cosine distance of a zero vector).

    Examples
    --------
    >>> corners = [[0.0, 0, 0], [3, 0, 0], [0, 4, 0], [3, 4, 0]]
    >>> data = xr.Dataset(
    ...     {"activation": (("sentence", "unit"), corners)},
    ...     coords={"odd": ("sentence", [0, 1, 0, 1])},
    ... )
    >>> result = mds(data, init="classical")
    >>> dict(result.sizes), bool(result.stress < 1e-9)
    ({'sentence': 4, 'axis': 2}, True)
    """
    check_activations(activations)
    choose("distance", distance, DISTANCES)
    choose("init", init, STARTS)
    settings: dict[str, Any] = {
        "distance": distance,
        "zscore": bool(zscore),
        "n_components": check_integer("n_components", n_components, at_least=1),
        "n_init": check_integer("n_init", n_init, at_least=1),
        "init": init,
        "max_iter": check_integer("max_iter", max_iter, at_least=1),
        "eps": float(eps),
        "random_state": check_random_state(random_state),
    }
    if init == "classical" and n_init > 1:
        raise InputError(f"n_init: found {n_init}; expected 1, as init='classical' has one start")
    if not 0 <= eps < np.inf:
        raise InputError(f"eps: found {eps}; expected a finite number of at least 0")
    n = activations.sizes["sentence"]
    if n_components > n:
        raise InputError(
            f"n_components: found {n_components}; expected at most {n}, one a sentence"
        )
    packed = map_cells(kernel, activations, output={"output": n * n_components + 1}, **settings)
    data = packed.data[..., :-1].reshape((*packed.shape[:-1], n, n_components))
    cells = packed.dims[:-1]
    result = xr.Dataset(
        {
            "position": ((*cells, "sentence", "axis"), data, {"long_name": "position"}),
            "stress": (cells, packed.data[..., -1], {"long_name": "raw stress"}),
        },
        coords=dict(packed.coords) | _sentence_coordinates(activations),
    )
    return result.assign_coords(axis=np.arange(n_components)).assign_attrs(
        analysis="mds",
        settings=json.dumps(settings | layer_settings(activations)),
        **stimuli_attributes(activations),
    )


def _sentence_coordinates(activations: xr.Dataset) -> dict[str, xr.Variable]:
    return {
        str(name): coordinate.variable
        for name, coordinate in activations.coords.items()
        if coordinate.dims == ("sentence",)
    }
