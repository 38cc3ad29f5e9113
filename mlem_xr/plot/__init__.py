"""Figures of results: HoloViews objects for bokeh and matplotlib, and a way to save them."""

try:
    from mlem_xr.plot.figures.clusters import clusters
    from mlem_xr.plot.figures.compare import compare
    from mlem_xr.plot.figures.correlation import correlation
    from mlem_xr.plot.figures.decoding import decoding
    from mlem_xr.plot.figures.decomposition import decomposition
    from mlem_xr.plot.figures.feature_importance import feature_importance
    from mlem_xr.plot.figures.mds import mds
    from mlem_xr.plot.figures.top_k import top_k
    from mlem_xr.plot.figures.unit_distribution import unit_distribution
    from mlem_xr.plot.figures.unit_map import unit_map
    from mlem_xr.plot.notebook import image, show_in_notebooks
    from mlem_xr.plot.saving import FORMATS, save
except ImportError as error:
    raise ImportError(
        f"plotting needs holoviews, bokeh, matplotlib and panel ({error}): "
        'pip install "mlem_xr[plot]"'
    ) from error

__all__ = [
    "FORMATS",
    "clusters",
    "compare",
    "correlation",
    "decoding",
    "decomposition",
    "feature_importance",
    "image",
    "mds",
    "save",
    "top_k",
    "unit_distribution",
    "unit_map",
]

show_in_notebooks()
