"""The commands that draw: one for every figure, with the options of its function."""

import inspect

import holoviews as hv
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import mlem_xr as mx
from helpers import layers, write
from mlem_xr import plot
from mlem_xr.cli import app
from mlem_xr.cli.plots import _errorbar, _palette
from mlem_xr.schema import InputError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Return a store in which every analysis but the scaling was saved."""
    rng = np.random.default_rng(1)
    table = pd.DataFrame(
        {
            "sentence": [f"sentence number {i}." for i in range(40)],
            "number": rng.choice(["sg", "pl"], 40),
            "gender": rng.choice(["f", "m"], 40),
        }
    )
    path = mx.create_store(mx.read_stimuli(table), tmp_path_factory.mktemp("s") / "s.zarr")
    activation = layers(0, n_layers=2)
    activation[..., 0] += 3 * (table["number"].values == "sg")
    write(path, activation)
    data = mx.open_store(path)
    scan = mx.univariate_importance(data)
    for result in (
        mx.multivariate_importance(data),
        mx.decoding_baseline(data),
        mx.decompose(data),
        scan,
        mx.top_unit_importance(data, scan, k=[1, 2, 5]),
        mx.cluster_units(scan),
        mx.correct_p_values(scan),
    ):
        mx.save_results(result, progress=False)
    return path


def draw(*words):
    return CliRunner().invoke(app(), ["plot", *map(str, words)], catch_exceptions=False)


DRAWN = [
    ("feature-importance", "--draw", "gender", "--palette", "gender=red", "--linear"),
    ("decoding", "--top", 1, "--rename", "number=Number"),
    ("decomposition", "--x", "layer", "--top", 1, "--palette", "number=red"),
    ("top-k", "--show", "r2", "--palette", "viridis"),
    ("unit-map", "--layer", 2, "--significant", "correct_p_values", "--significance-level", 0.01),
    ("unit-distribution", "--significant", "univariate_importance"),
    ("unit-map", "--layer", 2, "--significant", "univariate_importance random_state=0"),
    ("clusters", "--pooling", "mean", "--log"),
]
SAVED = [
    ("feature-importance", "--x", "layer", "--units", "r2", "--errorbar", "ci 90", "--decoding"),
    ("unit-distribution", "--multivariate", "--top-units", "--width", "page"),
    ("unit-map", "--layer", 2, "--layer", 1, "--width", 90, "--dpi", 100),
    ("compare", "--first", "pooling=mean", "--second", "pooling=first-token"),
]


@pytest.mark.parametrize("words", DRAWN, ids=lambda words: words[0])
def test_a_figure_is_drawn_with_its_options(store, tmp_path, monkeypatch, words):
    """An image of it would take longer than all before."""
    drawn = []

    def render(figure, path):
        hv.render(figure, backend="matplotlib")
        drawn.append(path)

    monkeypatch.setattr(plot, "save", render)
    path = tmp_path / "figure.png"
    assert draw(words[0], store, *words[1:], "-o", path).output == f"wrote {path}\n"
    assert drawn == [str(path)]


@pytest.mark.parametrize("words", SAVED, ids=lambda words: words[0])
def test_a_figure_is_saved(store, tmp_path, words):
    path = tmp_path / "figure.png"
    assert draw(words[0], store, *words[1:], "-o", path).output == f"wrote {path}\n"
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_options_reach_the_figure(store, tmp_path, monkeypatch):
    given = {}
    figure = plot.decoding

    def decoding(result, **options):
        given.update(options)
        return figure(result, **options)

    monkeypatch.setattr(plot, "decoding", decoding)
    words = ("--draw", "gender", "--rename", "gender=Gender", "--palette", "#000000")
    draw("decoding", store, *words, "--errorbar", "none", "--top", 2, "-o", tmp_path / "f.png")
    assert given == {
        **{"x": "layer", "top": 2, "features": ("gender",), "rename": {"gender": "Gender"}},
        **{"palette": ["#000000"], "errorbar": None},
    }


def test_what_was_not_computed_says_which_command_to_run(store, tmp_path):
    path = tmp_path / "f.png"
    for words, command in (
        (("mds", store), f"mlem-xr mds {store}"),
        (
            ("feature-importance", store, "--distance", "cosine", "--pooling", "mean"),
            f"mlem-xr multivariate {store} --pooling mean --distance cosine",
        ),
        (("decoding", store, "--zscore"), f"mlem-xr decoding {store} --zscore"),
        (
            ("top-k", store, "--distance", "cosine"),
            f"mlem-xr top-units {store} --distance cosine --k 1 --k 8 --k 64",
        ),
    ):
        said = draw(*words, "-o", path).stderr
        assert "none saved for" in said
        said = said.split("run first: ")[1].strip()
        assert sorted(said.split(" --")) == sorted(command.split(" --"))
    assert not path.exists()


def test_every_figure_has_a_command_with_its_options():
    group = app().commands["plot"]
    figures = [name for name in plot.__all__ if name not in ("FORMATS", "image", "save")]
    assert sorted(name.replace("-", "_") for name in group.commands) == sorted(figures)
    names = {"features": "drawn", "decoding": "with_decoding", "multivariate": "with_multivariate"}
    names |= {"top_units": "with_top_units", "alpha": "significance_level"}
    own = {"result", "univariate", "cluster", "correlations", "first", "second", "names", "columns"}
    for figure in figures:
        options = {option.name for option in group.commands[figure.replace("_", "-")].params}
        wanted = set(inspect.signature(getattr(plot, figure)).parameters) - own
        assert {names.get(name, name) for name in wanted} <= options, figure
        assert {"width", "dpi", "output"} <= options


def test_words_become_values():
    assert _errorbar("ci 90") == ("ci", 90.0)
    assert [_errorbar(word) for word in ("ci", "se", "none")] == ["ci", "se", None]
    assert _palette(("viridis",)) == "viridis"
    assert _palette(("red", "blue")) == ["red", "blue"]
    assert _palette(("a=red", "b=blue")) == {"a": "red", "b": "blue"}
    with pytest.raises(InputError, match="^palette: found 'red'; expected two words with ="):
        _palette(("a=blue", "red"))
