"""The analyses by name, each as a function of the activations and its options alone."""

import json
from collections.abc import Callable
from typing import Any

import xarray as xr

from mlem_xr.clusters import cluster_units
from mlem_xr.decoding import decoding_baseline
from mlem_xr.importance import multivariate_importance, univariate_importance
from mlem_xr.mds import mds
from mlem_xr.schema import CELL, InputError, choose
from mlem_xr.top_units import top_unit_importance


def _clusters(
    activations: xr.Dataset,
    *,
    scale: str | None = "relative",
    alpha: float = 0.01,
    correction: str | None = "fdr",
    max_clusters: int = 6,
    random_state: int = 0,
    **options: Any,
) -> xr.Dataset:
    """Cluster the units of a scan with the given options."""
    return cluster_units(
        univariate_importance(activations, random_state=random_state, **options),
        scale=scale,
        alpha=alpha,
        correction=correction,
        max_clusters=max_clusters,
        random_state=random_state,
    )


def _top_units(activations: xr.Dataset, *, by: str = "r2", k: Any, **options: Any) -> xr.Dataset:
    """Rank the units by univariate results with the same options."""
    univariate = univariate_importance(activations, **options)
    return top_unit_importance(activations, univariate, by=by, k=k, **options)


ANALYSES: dict[str, Callable[..., xr.Dataset]] = {
    "multivariate_importance": multivariate_importance,
    "univariate_importance": univariate_importance,
    "top_unit_importance": _top_units,
    "cluster_units": _clusters,
    "decoding_baseline": decoding_baseline,
    "mds": mds,
}
"""Analyses whose results can be opened by name."""

_IMPORTANCE = {"importance", "std_error", "p_value", "weight", "alpha", "intercept"}
_SCORES = {"r2", "r", "mse"}

LAYOUTS: dict[str, tuple[set[str], set[str]]] = {
    "multivariate_importance": (_IMPORTANCE | _SCORES, {"feature", "fold"}),
    "univariate_importance": (_IMPORTANCE | _SCORES, {"unit", "feature", "fold"}),
    "top_unit_importance": (
        _IMPORTANCE | _SCORES | {"chosen"},
        {"k", "unit", "feature", "fold"},
    ),
    "cluster_units": ({"cluster", "n_clusters", "silhouette"}, {"unit"}),
    "decoding_baseline": ({"auc", "std", "std_error", "p_value"}, {"feature"}),
    "mds": ({"position", "stress"}, {"sentence", "axis"}),
}
"""The variables that each analysis has at least, and its dimensions beyond those of a cell."""


def check_whole(result: xr.Dataset, activations: xr.Dataset) -> None:
    """Refuse a part of a result: only whole cells are saved."""
    variables, dims = LAYOUTS[choose("analysis", result.attrs["analysis"], LAYOUTS)]
    settings = json.loads(result.attrs["settings"])
    sizes = {
        "feature": len(settings.get("features") or []),
        "fold": 2,
        "k": len(settings.get("k") or []),
        "axis": settings.get("n_components"),
        "sentence": activations.sizes["sentence"],
        "unit": activations.sizes["unit"],
    }
    found = {str(dim): result.sizes[dim] for dim in result.dims if dim not in CELL}
    expected = {dim: sizes[dim] for dim in dims}
    missing = variables - set(result.data_vars)
    if found != expected or missing:
        raise InputError(
            f"result: a part of {result.attrs['analysis']}, with {found} and without "
            f"{sorted(missing) or 'no variable'}; expected {expected}: select models, seeds, "
            "steps, poolings and layers only"
        )
