"""Importances of units -> groups of units that carry the same features."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_STARTS = 10
"""Runs of KMeans, of which the best counts."""

_MEBIBYTES = 64
"""Memory for the distances between units of which a task holds a part at a time."""

_DIGITS = 6
"""Rows of importances that agree to so many digits of the largest one are the same to KMeans."""


def cluster(importance: NDArray, p_value: NDArray, r2: NDArray, options: Any) -> dict[str, NDArray]:
    """Group the units of a layer, with the options of `mx.cluster_units`.

    `importance` and `p_value` are (unit, feature), NaN for units that are in no group; `r2` is
    (unit). Returns `cluster` (unit), `n_clusters` and `silhouette`; nothing if there is no unit.
    """
    present = ~np.isnan(importance).any(axis=1)
    if not present.any():
        return {}
    significant = np.where(p_value <= options.alpha, importance, 0)
    rows = _scaled(significant[present], r2[present], options.scale)
    labels, silhouette = _best_clusters(rows, options.max_clusters, options.random_state)
    group = np.full(len(importance), np.nan)
    group[present] = _by_size(labels)
    n_clusters = np.asarray(len(np.unique(labels)))
    return {"cluster": group, "n_clusters": n_clusters, "silhouette": np.asarray(silhouette)}


def _scaled(rows: NDArray, r2: NDArray, scale: str | None) -> NDArray:
    if scale == "relative":
        return rows / np.where(r2 > 0, r2, np.inf)[:, np.newaxis]
    if scale == "zscore":
        from sklearn.preprocessing import StandardScaler

        return StandardScaler().fit_transform(rows)
    return rows


def _best_clusters(rows: NDArray, max_clusters: int, random_state: int) -> tuple[NDArray, float]:
    """Return the cluster of each row, for the number of clusters with the best silhouette."""
    # Importing scikit-learn takes longer than importing this package.
    from sklearn import config_context
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    most = min(max_clusters, _n_distinct(rows), len(rows) - 1)
    if most < 2:
        return np.zeros(len(rows), dtype=int), np.nan
    candidates = [
        KMeans(k, n_init=_STARTS, random_state=random_state).fit_predict(rows)
        for k in range(2, most + 1)
    ]
    # The distances between thousands of units would fill a gigabyte.
    with config_context(working_memory=_MEBIBYTES):
        scores = [silhouette_score(rows, labels) for labels in candidates]
    best = int(np.argmax(scores))
    return candidates[best], scores[best]


def _n_distinct(rows: NDArray) -> int:
    largest = np.abs(rows).max(initial=0) or 1
    return len(np.unique(np.round(rows / largest, _DIGITS), axis=0))


def _by_size(labels: NDArray) -> NDArray:
    """Give the largest cluster number 0; of equal ones, that with the first unit comes first."""
    _, first, labels, size = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.lexsort((first, -size))
    return np.argsort(order)[labels]
