"""Figures of results: HoloViews objects for bokeh and matplotlib, and a way to save them."""

try:
    from mlem_xr.plot.embedding import mds
    from mlem_xr.plot.heat_map import correlation
    from mlem_xr.plot.profiles import feature_importance, top_k
    from mlem_xr.plot.saving import FORMATS, save
    from mlem_xr.plot.units import clusters, unit_distribution
except ImportError as error:
    raise ImportError(
        f"plotting needs holoviews, bokeh, matplotlib and panel ({error}): "
        'pip install "mlem_xr[plot]"'
    ) from error

__all__ = [
    "FORMATS",
    "clusters",
    "correlation",
    "feature_importance",
    "mds",
    "save",
    "top_k",
    "unit_distribution",
]
