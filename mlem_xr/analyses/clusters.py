"""Groups of units that carry the same features."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import xarray as xr

from mlem_xr.analyses.base import Analysis, Output, Source, check_result
from mlem_xr.analyses.corrections import Correction, correct_p_values
from mlem_xr.analyses.options import SEED, Options, integer, number, option
from mlem_xr.kernels.clusters import cluster

Scale = Literal["relative", "zscore", None]
"""How importances are brought to one scale before units are compared."""

INPUTS = {"importance": ("unit", "feature"), "p_value": ("unit", "feature"), "r2": ("unit",)}


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(Options):
    """The options of a clustering of units."""

    scale: Scale = option("relative", "How importances are brought to one scale.")
    alpha: float = option(
        0.01,
        "Largest p-value of an importance that counts.",
        check=number("a number above 0, up to 1", lambda alpha: 0 < alpha <= 1),
    )
    correction: Correction = option("fdr", "How p-values are corrected over units.")
    max_clusters: int = option(6, "Largest number of clusters.", check=integer(at_least=2))
    random_state: int = option(0, "Seed of KMeans.", check=SEED)


def _arrays(univariate: xr.Dataset, options: ClusterOptions) -> Mapping[str, xr.DataArray]:
    check_result(univariate, INPUTS, argument="univariate")
    corrected = correct_p_values(univariate, method=options.correction)
    return {name: corrected[name] for name in INPUTS}


CLUSTERS = Analysis(
    name="cluster_units",
    help="Group the units of each layer by the features that they carry.",
    command="clusters",
    function=cluster,
    inputs=INPUTS,
    outputs=lambda options: {
        "cluster": Output(("unit",), "cluster of the unit; 0: the largest one"),
        "n_clusters": Output((), "number of clusters with the best mean silhouette"),
        "silhouette": Output((), "mean silhouette over units"),
    },
    options=ClusterOptions,
    source=Source("univariate", _arrays, "univariate_importance"),
)


def cluster_units(
    univariate: xr.Dataset,
    *,
    scale: Scale = "relative",
    alpha: float = 0.01,
    correction: Correction = "fdr",
    max_clusters: int = 6,
    random_state: int = 0,
) -> xr.Dataset:
    """Group the units of each layer by the features that they carry.

    A unit is a row of importances v_k, one per feature k, with v_k = 0 where its p-value, corrected
    over the units of the representation, is above `alpha`. The rows, scaled to ::

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
        Lazy if `univariate` is, one task per (model, seed, step, pooling, layer); all float64
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
    return CLUSTERS(None, ClusterOptions.taken_from(locals()), source=univariate)
