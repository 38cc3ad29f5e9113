"""Groups of units that carry the same features, lazily."""

import json
from numbers import Real
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mlem_xr.schema import CELL, InputError, check_integer, check_random_state, choose
from mlem_xr.statistics import CORRECTIONS, check_units, correct_p_values

SCALES = ("relative", "zscore", None)
"""How importances are brought to one scale before units are compared."""

_STARTS = 10
"""Runs of KMeans, of which the best counts."""

_MEBIBYTES = 64
"""Memory for the distances between units of which a task holds a part at a time."""

_DIGITS = 6
"""Rows of importances that agree to so many digits of the largest one are the same to KMeans."""

_LONG_NAMES = {
    "cluster": "cluster of the unit; 0: the largest one",
    "n_clusters": "number of clusters with the best mean silhouette",
    "silhouette": "mean silhouette over units",
}


def cluster_units(
    univariate: xr.Dataset,
    *,
    scale: str | None = "relative",
    alpha: float = 0.01,
    correction: str | None = "fdr",
    max_clusters: int = 6,
    random_state: int = 0,
) -> xr.Dataset:
    """Group the units of each layer by the features that they carry.

    A unit is a row of importances v_k, one per feature k, with v_k = 0 where its p-value, corrected
    over the units of the cell, is above `alpha`. The rows, scaled to

        relative    v_k / R2, 0 where R2 <= 0 or undefined
        zscore      (v_k - mean over units) / (standard deviation over units)
        None        v_k

    are grouped by KMeans, with the number of clusters from 2 to `max_clusters` that has the largest
    mean silhouette (the smaller number in a tie). There are never more clusters than distinct rows,
    and fewer than units; where that leaves no choice, all units are in one cluster.

    Parameters
    ----------
    univariate : xr.Dataset
        What `univariate_importance` returns: `importance` and `p_value` (..., unit, feature) and
        `r2` (..., unit) floating; NumPy- or Dask-backed.
    scale : {"relative", "zscore", None}
        What is compared: the composition of a unit's explained variance, each feature relative to
        the other units, or the importances themselves.
    alpha : float
        Largest p-value of an importance that counts, in (0, 1].
    correction : {"fdr", "holm-sidak", None}
        How p-values are corrected, as in `correct_p_values`; None if they are to count as they are.
    max_clusters : int
        Largest number of clusters, at least 2.
    random_state : int
        Seed of KMeans.

    Returns
    -------
    xr.Dataset
        Lazy if `univariate` is, one task per cell (model, seed, step, pooling, layer); all float64
        and without unit of measurement. `cluster` (..., unit): 0 for the largest cluster, 1 for the
        next one, ...; of clusters of one size, the one with the first unit comes first; NaN where
        a unit has no results. `n_clusters` (...) and `silhouette` (...), NaN with one cluster; both
        NaN where no unit has results.

    Raises
    ------
    InputError
        If an option is unknown or out of range, `univariate` has no `importance`, `p_value` or
        `r2` over `unit`, or its p-values are corrected already and `correction` is not None.

    References
    ----------
    Rousseeuw 1987, Silhouettes, J. Comput. Appl. Math. 20, 53-65.

    Examples
    --------
    >>> scan = xr.Dataset(
    ...     {
    ...         "importance": (("unit", "feature"), [[0.3, 0], [0, 0.2], [0.2, 0.1], [0.4, 0]]),
    ...         "p_value": (("unit", "feature"), [[0, 1], [1, 0], [0, 0.5], [0, 1.0]]),
    ...         "r2": ("unit", [0.3, 0.2, 0.2, 0.4]),
    ...     },
    ...     coords={"feature": ["tense", "number"]},
    ... )
    >>> groups = cluster_units(scan)
    >>> groups.cluster.values.tolist(), float(groups.n_clusters)
    ([0.0, 1.0, 0.0, 0.0], 2.0)
    """
    settings = _settings(scale, alpha, correction, max_clusters, random_state)
    check_units(univariate, ["importance", "p_value", "r2"], argument="univariate")
    for name in ("importance", "p_value"):
        if "feature" not in univariate[name].dims:
            raise InputError(f"univariate: {name!r} has no dimension 'feature'")
    corrected = correct_p_values(univariate, method=correction)
    over = {"importance": ("unit", "feature"), "p_value": ("unit", "feature"), "r2": ("unit",)}
    outputs = xr.apply_ufunc(
        _cluster_cells,
        *(_cell_by_cell(corrected[name].variable) for name in over),
        input_core_dims=list(over.values()),
        output_core_dims=[["unit"], [], []],
        dask="parallelized",
        output_dtypes=[np.float64] * 3,
        kwargs={name: value for name, value in settings.items() if name != "correction"},
    )
    variables = {
        name: (variable.dims, variable.data, {"long_name": long_name})
        for (name, long_name), variable in zip(_LONG_NAMES.items(), outputs, strict=True)
    }
    settings["univariate"] = json.loads(univariate.attrs.get("settings", "{}"))
    attrs = {"analysis": "cluster_units", "settings": json.dumps(settings)}
    return xr.Dataset(variables, univariate["r2"].coords, univariate.attrs | attrs)


def _settings(
    scale: str | None, alpha: float, correction: str | None, max_clusters: int, random_state: int
) -> dict[str, Any]:
    choose("scale", scale, SCALES)
    choose("correction", correction, CORRECTIONS)
    if isinstance(alpha, bool) or not isinstance(alpha, Real) or not 0 < alpha <= 1:
        raise InputError(f"alpha: found {alpha!r}; expected a number above 0, up to 1")
    return {
        "scale": scale,
        "alpha": float(alpha),
        "correction": correction,
        "max_clusters": check_integer("max_clusters", max_clusters, at_least=2),
        "random_state": check_random_state(random_state),
    }


def _cell_by_cell(variable: xr.Variable) -> xr.Variable:
    """Make every cell a chunk, if the variable is lazy."""
    if variable.chunks is None:
        return variable
    return variable.chunk({dim: 1 if dim in CELL else -1 for dim in variable.dims})


def _cluster_cells(
    importance: NDArray,
    p_value: NDArray,
    r2: NDArray,
    *,
    scale: str | None,
    alpha: float,
    max_clusters: int,
    random_state: int,
) -> tuple[NDArray, NDArray, NDArray]:
    """Loop over the cells of a block: importance (..., unit, feature), r2 (..., unit)."""
    cells = r2.shape[:-1]
    cluster, n_clusters, silhouette = (np.full(s, np.nan) for s in (r2.shape, cells, cells))
    for cell in np.ndindex(cells):
        present = ~np.isnan(importance[cell]).any(axis=-1)
        if not present.any():
            continue
        significant = np.where(p_value[cell] <= alpha, importance[cell], 0)
        rows = _scaled(significant[present], r2[cell][present], scale)
        labels, silhouette[cell] = _best_clusters(rows, max_clusters, random_state)
        cluster[cell][present] = _by_size(labels)
        n_clusters[cell] = len(np.unique(labels))
    return cluster, n_clusters, silhouette


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
