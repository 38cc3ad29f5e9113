"""Figures of results: HoloViews objects for bokeh and matplotlib, and a way to save them."""

from mlem_xr.plot.embedding import mds
from mlem_xr.plot.heat_map import correlation
from mlem_xr.plot.profiles import feature_importance, top_k
from mlem_xr.plot.saving import save
from mlem_xr.plot.units import clusters, unit_distribution

__all__ = [
    "clusters",
    "correlation",
    "feature_importance",
    "mds",
    "save",
    "top_k",
    "unit_distribution",
]
