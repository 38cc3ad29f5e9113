"""A feature looks the same in every figure, model and selection."""

import itertools

import holoviews as hv
import numpy as np
import pytest
import xarray as xr
from bokeh.core.enums import DashPattern, MarkerType
from bokeh.models import GlyphRenderer, Line, Scatter
from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D

import mlem_xr as mx
from figures import FEATURES, importances, profile, top_units
from mlem_xr import plot
from mlem_xr.plot.looks import COLORS, DASHES, MARKERS, Looks
from mlem_xr.plot.style import line_options
from mlem_xr.schema import InputError

MANY = [f"feature{i}" for i in range(25)]


def crowded(n=25):
    rng = np.random.default_rng(0)
    return xr.Dataset(
        {"importance": (("layer", "feature"), rng.uniform(1e-4, 1e-1, (3, n)))},
        coords={"layer": [1, 2, 3], "feature": MANY[:n]},
        attrs={"features": MANY[:n]},
    )


def bokeh_looks(figure):
    """Color, dash and marker of every line that the legend names, as bokeh draws them."""
    page = hv.render(figure, backend="bokeh")
    drawn = {}
    for item in page.legend[0].items:
        kinds = {type(r.glyph): r.glyph for r in item.renderers}
        drawn[item.label.value] = (
            kinds[Line].line_color,
            str(kinds[Line].line_dash),
            kinds[Scatter].marker,
        )
    return drawn


def matplotlib_looks(figure):
    (axis,) = hv.render(figure, backend="matplotlib").axes
    return {
        text.get_text(): (to_hex(line.get_color()), line.get_linestyle(), line.get_marker())
        for text, line in zip(
            axis.get_legend().get_texts(), axis.get_legend().get_lines(), strict=True
        )
    }


def marked(result, features=FEATURES):
    return result.assign_attrs(features=list(features))


@pytest.mark.parametrize("looks", [bokeh_looks, matplotlib_looks])
def test_a_feature_looks_the_same_in_every_selection_and_figure(looks):
    result = marked(importances(model=1, step=1, pooling=1))
    whole = looks(plot.feature_importance(result, top=6))
    assert list(whole) == FEATURES
    for part in (
        plot.feature_importance(result, top=2),
        plot.feature_importance(result, features=["subj_PERS", "subj_GEN"]),
        plot.feature_importance(result.sel(feature=["subj_TYPE", "subj_GEN"])),
        plot.feature_importance(result.sel(feature="subj_TYPE")),
        plot.feature_importance(result.isel(feature=slice(None, None, -1))),
        plot.top_k(marked(top_units()), top=3).last,
        plot.decoding(result.rename(importance="auc"), top=3),
    ):
        drawn = looks(part)
        assert drawn
        assert drawn.items() <= whole.items()


def test_a_result_of_some_features_has_the_looks_that_these_have_among_all():
    stimuli = mx.read_stimuli("short_sentence").isel(sentence=slice(0, 60))
    names = list(stimuli.attrs["features"])
    values = np.random.default_rng(0).normal(size=(2, 60, 3))
    activations = stimuli.assign(activation=(("layer", "sentence", "unit"), values))
    result = mx.multivariate_importance(
        activations.assign_coords(layer=[1, 2]), features=names[-2:]
    )
    drawn = bokeh_looks(plot.feature_importance(result, log=False, errorbar=None))
    assert [color for color, _, _ in drawn.values()] == [
        COLORS[len(names) - 2],
        COLORS[len(names) - 1],
    ]


def test_saved_and_opened_results_keep_the_order_of_the_features(tmp_path):
    rng = np.random.default_rng(0)
    stimuli = mx.read_stimuli("short_sentence").isel(sentence=slice(0, 60))
    activations = stimuli.assign(
        activation=(("layer", "sentence", "unit"), rng.normal(size=(2, 60, 3)))
    ).assign_coords(layer=[1, 2])
    result = mx.multivariate_importance(activations)
    order = list(stimuli.attrs["features"])
    assert result.attrs["features"] == order
    last = result.sel(feature=order[-2:])
    drawn = bokeh_looks(plot.feature_importance(last, log=False, errorbar=None))
    assert [color for color, _, _ in drawn.values()] == [
        COLORS[len(order) - 2],
        COLORS[len(order) - 1],
    ]


@pytest.mark.parametrize("looks", [bokeh_looks, matplotlib_looks])
def test_twenty_five_features_all_look_different(looks):
    drawn = looks(plot.feature_importance(crowded(), top=25))
    assert len(drawn) == len(set(drawn.values())) == 25
    colors = [color.lower() for color, _, _ in drawn.values()]
    assert len(set(colors[:8])) == len({marker for *_, marker in list(drawn.values())[:8]}) == 8
    dashes = [dash for _, dash, _ in drawn.values()]
    # The first round is solid; lines of one color differ in their dashes.
    assert len(set(dashes[:8])) == 1
    for color in set(colors):
        same = [dash for dash, c in zip(dashes, colors, strict=True) if c == color]
        assert len(set(same)) == len(same)


def test_the_looks_of_a_feature_do_not_depend_on_whether_others_have_values():
    result = marked(importances(model=1, step=1, pooling=3))
    result.importance.loc[{"pooling": "mean", "feature": ["subj_NUM", "verb_ZIPF"]}] = np.nan
    figure = plot.feature_importance(result, top=6)
    for pooling in ("mean", "last-token"):
        page = hv.render(figure[pooling], backend="bokeh")
        found = {r.name: r.glyph.line_color for r in page.select(GlyphRenderer) if r.name}
        expected = dict(zip(FEATURES, COLORS, strict=False))
        assert {name: found[name] for name in FEATURES if name in found} == {
            name: color for name, color in expected.items() if name in found
        }


DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
"""Linear RGB as it is seen (Machado, Oliveira and Fernandes 2009, severity 1)."""


def lab(color, matrix):
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(matrix) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.asarray(to_xyz) @ seen / [0.9505, 1, 1.0888]
    x, y, z = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("name", DEFICIENCIES)
def test_ten_colors_can_be_told_apart_by_everyone(name):
    seen = [lab(color, DEFICIENCIES[name]) for color in COLORS]
    assert len(COLORS) == 10
    nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    assert nearest > 15
    # And against a white page.
    assert max(color[0] for color in seen) < 85


def test_a_palette_is_colors_in_order_or_by_feature_or_a_name():
    result = marked(importances(model=1, step=1, pooling=1))
    drawn = bokeh_looks(plot.feature_importance(result, top=6, palette=["red", "#00ff00"]))
    assert [c for c, *_ in drawn.values()] == ["#ff0000", "#00ff00"] * 3
    drawn = bokeh_looks(plot.feature_importance(result, top=6, palette={"verb_ZIPF": "black"}))
    assert drawn["verb_ZIPF"][0] == "#000000"
    assert drawn["subj_NUM"][0] == COLORS[0]
    drawn = bokeh_looks(plot.feature_importance(result, top=6, palette="viridis"))
    assert len({color for color, *_ in drawn.values()}) == 6


def test_names_are_written_anew_everywhere_and_looks_stay():
    result = marked(importances().sel(model="bert"))
    rename = {"subj_NUM": "number", "bert": "BERT", "mean": "average", "layer": "block"}
    figure = plot.feature_importance(
        result, features=["subj_NUM", "subj_GEN"], rename=rename, palette={"number": "red"}
    )
    assert figure.last.label.startswith("BERT")
    assert ("final", "average") in figure.data
    assert list(figure.last.Points.I.keys()) == ["number", "subj_GEN"]
    drawn = bokeh_looks(figure.last)
    assert drawn["number"][0] == "#ff0000"
    assert drawn["subj_GEN"][0] == COLORS[1]
    options = hv.Store.lookup_options("bokeh", figure.last, "plot").kwargs
    assert options["xlabel"] == "block"
    dots = plot.feature_importance(result.sel(layer=2), rename=rename, features=["subj_NUM"])
    assert hv.Store.lookup_options("bokeh", dots.last, "plot").kwargs["yticks"] == [(0, "number")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"palette": []}, "palette: an empty list; expected colors"),
        ({"palette": ["reddish"]}, "palette: 'reddish' is not a color"),
        ({"palette": {"subj_NUM": 3}}, "palette: 3 is not a color"),
        ({"palette": 3}, "palette: 3 is not a color"),
        ({"palette": "no such map"}, "palette: found 'no such map'; expected .* color map"),
        ({"rename": ["a"]}, r"rename: found \['a'\]; expected a dictionary"),
        ({"rename": {"subj_NUM": 1}}, "rename: found .*; expected a dictionary"),
        ({"rename": {"subj_NUM": "a", "subj_GEN": "a"}}, "rename: some new names are the same"),
        (
            {"rename": {"subj_NUM": "subj_GEN"}, "features": ["subj_NUM", "subj_GEN"]},
            "rename: .* the same name",
        ),
    ],
)
def test_impossible_palettes_and_names_are_named(options, message):
    with pytest.raises(InputError, match=message):
        plot.feature_importance(profile(), **options)


def test_looks_go_on_where_markers_and_dashes_end():
    looks = Looks(tuple(range(64)))
    found = {(looks.color(i), looks.marker(i, "bokeh")) for i in range(64)}
    assert len(found) == 64


def test_markers_and_dashes_are_known_to_both_backends():
    assert set(MARKERS["bokeh"]) <= set(MarkerType)
    assert set(DASHES["bokeh"]) <= set(DashPattern)
    assert set(MARKERS["matplotlib"]) <= set(Line2D.markers)
    assert set(DASHES["matplotlib"]) <= set(Line2D.lineStyles)


def test_lines_of_a_second_axis_and_of_seeds_are_finer_than_those_of_the_first():
    for backend, width in (("bokeh", "line_width"), ("matplotlib", "linewidth")):
        options = line_options(Looks(("a",)), ["a"], backend)
        for group in ("Seeds", "Second"):
            assert options[f"Curve.{group}"][width] < options["Curve.Lines"][width]
            assert options[f"Curve.{group}"]["alpha"] < 1
            assert not options[f"Curve.{group}"]["show_legend"]
    assert options["Scatter.Second"] == {"visible": False}
    assert options["Spread"]["alpha"] < 0.5
    options = line_options(Looks(("a",)), ["a"], "bokeh")
    assert options["Scatter.Second"]["size"] < options["Scatter"]["size"]
    assert options["Spread"]["fill_alpha"] < 0.5 and options["Spread"]["line_alpha"] == 0
