"""Distances between sentences -> a map of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlem_xr.kernels.distances import distance_matrix


def place_sentences(activation: NDArray, options: Any) -> dict[str, NDArray]:
    """Place the sentences of a layer, with the options of `mx.mds`: `position` and `stress`."""
    from sklearn.manifold import smacof

    neural = distance_matrix(activation, options.distance, zscore=options.zscore)
    start = classical(neural, options.n_components) if options.init == "classical" else None
    # Sentences that coincide are no error: scikit-learn divides by their distance all the same.
    with np.errstate(divide="ignore", invalid="ignore"):
        position, stress = smacof(
            neural,
            n_components=options.n_components,
            init=start,
            n_init=options.n_init,
            max_iter=options.max_iter,
            eps=options.eps,
            random_state=options.random_state,
            normalized_stress=False,
        )
    return {"position": position, "stress": np.asarray(stress)}


def classical(distance: NDArray, n_components: int) -> NDArray:
    """Place sentences by classical scaling: the principal axes of the centered squared distances.

    0 along an axis that distances which are not Euclidean leave imaginary.
    """
    from sklearn.manifold import ClassicalMDS

    scaling = ClassicalMDS(n_components=n_components, metric="precomputed")
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(scaling.fit_transform(distance))
