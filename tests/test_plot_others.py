import re

import holoviews as hv
import numpy as np
import pytest
import xarray as xr
from bokeh.models import GlyphRenderer, HoverTool

import mlem_xr as mx
from mlem_xr import plot
from mlem_xr.schema import InputError

FEATURES = ["tense", "number", "gender"]


def matrix(values=((1.0, 0.25, -0.6), (0.25, 1.0, np.nan), (-0.6, np.nan, 1.0))) -> xr.DataArray:
    return xr.DataArray(
        np.array(values),
        dims=("feature", "other_feature"),
        coords={"feature": FEATURES, "other_feature": FEATURES},
    )


def test_correlation_cells_hold_the_values_under_the_right_names():
    for data in (matrix(), matrix().T, matrix().chunk()):
        figure = plot.correlation(data)
        table = figure.Rectangles.I.dframe()
        assert len(table) == 9
        for row in table.itertuples():
            assert FEATURES[round((row.y0 + row.y1) / 2)] == row.feature
            assert FEATURES[round((row.x0 + row.x1) / 2)] == row.other_feature
            expected = data.sel(feature=row.feature, other_feature=row.other_feature)
            np.testing.assert_equal(row.correlation, expected.values)


def test_correlation_writes_values_in_the_cells():
    figure = plot.correlation(matrix())
    light, dark = figure.Light.I.dframe(), figure.Dark.I.dframe()
    texts = {(r.x, r.y): r.text for t in (light, dark) for r in t.itertuples()}
    assert texts[1, 0] == ".25"
    assert texts[2, 0] == "-.60"
    assert texts[2, 1] == "–"
    assert len(texts) == 9
    assert sorted(dark.text) == ["-.60", "-.60", "1.00", "1.00", "1.00"]


def test_correlation_has_a_symmetric_diverging_scale_and_named_axes():
    figure = plot.correlation(matrix())
    for backend in ("bokeh", "matplotlib"):
        cells = hv.Store.lookup_options(backend, figure.Rectangles.I, "plot").kwargs
        assert cells["clim"] == (-1, 1)
        axes = hv.Store.lookup_options(backend, figure, "plot").kwargs
        assert axes["xticks"] == axes["yticks"] == list(enumerate(FEATURES))
        assert axes["invert_yaxis"]


def test_correlation_writes_new_names():
    figure = plot.correlation(matrix(), rename={"tense": "Tense"})
    assert figure.Rectangles.I.dframe().feature[0] == "Tense"
    axes = hv.Store.lookup_options("bokeh", figure, "plot").kwargs
    assert axes["xticks"][0] == axes["yticks"][0] == (0, "Tense")


def test_correlation_of_stimuli():
    rng = np.random.default_rng(0)
    stimuli = xr.Dataset(coords={f: ("sentence", rng.integers(0, 2, 30)) for f in FEATURES})
    expected = mx.feature_correlation(stimuli)
    table = plot.correlation(expected).Rectangles.I.dframe()
    np.testing.assert_array_equal(table.correlation, expected.values.ravel())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (matrix().rename(feature="layer"), "expected a DataArray with .*'layer'"),
        (matrix().values, "expected a DataArray with .*ndarray"),
        (matrix() * np.nan, "only NaN"),
        (matrix() * 2, r"values in \[-1, 1\], found one of size 2"),
    ],
)
def test_correlation_names_bad_input(data, message):
    with pytest.raises(InputError, match=f"^correlations: .*{message}"):
        plot.correlation(data)


def positions() -> xr.Dataset:
    rng = np.random.default_rng(0)
    return xr.Dataset(
        {
            "position": (("layer", "sentence", "axis"), rng.normal(size=(2, 20, 3))),
            "stress": ("layer", [0.1, 0.2]),
        },
        coords={
            "layer": [1, 2],
            "text": ("sentence", [f"sentence {i}" for i in range(20)]),
            "tense": ("sentence", ["past", "present", "", "past"] * 5),
            "plural": ("sentence", [0.0, 1.0, np.nan, 1.0] * 5),
            "frequency": ("sentence", np.linspace(1, 6, 20)),
        },
    )


def test_mds_draws_every_sentence_by_value_of_the_color():
    result = positions()
    figure = plot.mds(result, color="tense")
    assert [d.name for d in figure.kdims] == ["layer"]
    for layer in (1, 2):
        assert list(figure[layer].keys()) == ["past", "present", "undefined"]
        for level, value in (("past", "past"), ("present", "present"), ("undefined", "")):
            table = figure[layer][level].dframe()
            here = result.tense.values == value
            expected = result.position.sel(layer=layer).values[here]
            np.testing.assert_array_equal(table[["axis 1", "axis 2"]], expected[:, :2])
            assert table.text.tolist() == result.text.values[here].tolist()


def test_mds_groups_few_numbers_and_scales_many():
    result = positions().sel(layer=1)
    assert list(plot.mds(result, color="plural").keys()) == ["0", "1", "undefined"]
    scaled = plot.mds(result.chunk(), color="frequency")
    assert isinstance(scaled, hv.Points)
    np.testing.assert_array_equal(scaled.dframe().frequency, result.frequency)
    options = hv.Store.lookup_options("bokeh", scaled, "plot").kwargs
    assert options["colorbar"]


def test_mds_without_color_and_without_empty_frames():
    result = positions().position
    result[1] = np.nan
    result[0, 3] = np.nan
    figure = plot.mds(result)
    assert list(figure.keys()) == [1]
    assert len(figure[1].dframe()) == 19


@pytest.mark.parametrize(
    ("change", "color", "message"),
    [
        (lambda r: r, "gender", "color: unknown value 'gender'; known: 'text', 'tense'"),
        (lambda r: r[["stress"]], None, "no variable 'position'; found: 'stress'"),
        (lambda r: r.isel(axis=[0]), None, "at least two axes"),
        (lambda r: r.isel(sentence=0), None, "dimensions 'sentence' and 'axis'"),
        (lambda r: r.position * np.nan, None, "only NaN"),
    ],
)
def test_mds_names_bad_input(change, color, message):
    with pytest.raises(InputError, match=message):
        plot.mds(change(positions()), color=color)


def three_levels() -> xr.Dataset:
    data = positions().sel(layer=1)
    return data.assign_coords(
        number=("sentence", ["sg", "pl"] * 10),
        group=("sentence", (["a"] * 5 + ["b"] * 4 + [""]) * 2),
        person=("sentence", ([1, 2, 3, 1] * 5)),
    )


def glyphs(page):
    """Color and marker of every group of points that a legend does not name alone."""
    found = []
    for renderer in page.select(GlyphRenderer):
        data = renderer.data_source.data
        if "text" in data and len(data["text"]):
            row = tuple(str(data[name][0]) for name in ("number", "group", "person"))
            found.append((row, renderer.glyph.fill_color, renderer.glyph.marker))
    return found


def test_a_hierarchy_gives_marker_hue_and_lightness():
    figure = plot.mds(three_levels(), hierarchy=["number", "group", "person"])
    page = hv.render(figure, backend="bokeh")
    drawn = glyphs(page)
    markers, hues = {}, {}
    for (number, group, person), color, marker in drawn:
        markers.setdefault(number, set()).add(marker)
        hues.setdefault((group, person), set()).add(color)
    assert [len(found) for found in markers.values()] == [1, 1]
    assert markers["sg"] != markers["pl"]
    assert all(len(found) == 1 for found in hues.values())
    assert len(set.union(*hues.values())) == len(hues)
    shades = [max(hues["a", str(person)]) for person in (1, 2, 3)]
    lightness = [sum(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in shades]
    assert lightness == sorted(lightness) and len(set(lightness)) == 3


def test_the_one_legend_of_a_hierarchy_names_every_level():
    figure = plot.mds(
        three_levels(), hierarchy=["number", "group", "person"], rename={"group": "clause"}
    )
    expected = ["number: pl", "number: sg", "clause: a", "clause: b", "clause: undefined"]
    expected += ["person: 1", "person: 2", "person: 3"]
    page = hv.render(figure, backend="bokeh")
    assert [item.label.value for item in page.legend[0].items] == expected
    assert len(page.legend) == 1
    (axis,) = hv.render(figure, backend="matplotlib").axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == expected


def test_undefined_values_are_gray():
    figure = plot.mds(three_levels(), color="group")
    page = hv.render(figure, backend="bokeh")
    named = {r.name: r.glyph.fill_color for r in page.select(GlyphRenderer)}
    assert named["undefined"] == "#b0b0b0"
    assert "#b0b0b0" not in {color for name, color in named.items() if name != "undefined"}
    scale = hv.Store.lookup_options("bokeh", plot.mds(positions(), color="frequency").last, "plot")
    assert scale.kwargs["clipping_colors"]["NaN"] == "#b0b0b0"


def test_hovering_shows_the_sentence_and_its_features():
    for figure in (
        plot.mds(three_levels(), hierarchy=["number", "group"]),
        plot.mds(three_levels(), color="frequency"),
        plot.mds(three_levels(), color="group"),
    ):
        page = hv.render(figure, backend="bokeh")
        tips = page.select(HoverTool)
        assert all(tip.tooltips[0] == ("sentence", "@{text}") for tip in tips)
        sentences = sum(len(r.data_source.data.get("text", ())) for r in page.select(GlyphRenderer))
        assert sentences == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hierarchy": ["tense"], "color": "tense"}, "color: found together with hierarchy"),
        ({"hierarchy": []}, "hierarchy: found .*; expected one to three"),
        ({"hierarchy": ["tense", "number", "group", "person"]}, "expected one to three"),
        ({"hierarchy": ["tense", "case"]}, "hierarchy: unknown value 'case'"),
        ({"hierarchy": ["frequency", "tense"]}, "hierarchy: 'frequency' has 20 values; expected"),
    ],
)
def test_impossible_hierarchies_are_named(options, message):
    with pytest.raises(InputError, match=message):
        plot.mds(three_levels(), **options)


@pytest.mark.parametrize("place", range(3))
def test_a_hierarchy_takes_as_many_values_as_can_be_told_apart(place):
    def draw(n_values):
        values = {f"f{i}": ("sentence", ["a", "b"] * 20) for i in range(3)}
        values[f"f{place}"] = ("sentence", [f"v{i % n_values}" for i in range(40)])
        plane = np.random.default_rng(0).normal(size=(40, 2))
        position = xr.DataArray(plane, values, ("sentence", "axis"))
        return plot.mds(position, hierarchy=list(values))

    with pytest.raises(InputError) as error:
        draw(40)
    most = int(re.search(r"at most (\d+)", str(error.value))[1])
    draw(most)
    with pytest.raises(InputError, match=f"{most + 1} values; expected at most {most}"):
        draw(most + 1)


def test_a_hierarchy_of_two_gives_marker_and_hue():
    figure = plot.mds(three_levels(), hierarchy=["number", "group"])
    looks = {}
    for renderer in hv.render(figure, backend="bokeh").select(GlyphRenderer):
        data, glyph = renderer.data_source.data, renderer.glyph
        if "text" in data and len(data["text"]):
            key = str(data["number"][0]), str(data["group"][0])
            looks[key] = glyph.marker, glyph.fill_color
    assert len(looks) == len(set(looks.values())) == 5
    assert len({(number, marker) for (number, _), (marker, _) in looks.items()}) == 2
    assert len({(group, color) for (_, group), (_, color) in looks.items()}) == 3


def test_points_of_a_legend_are_little_larger_and_have_no_words_to_hover_over():
    figure = plot.mds(three_levels(), hierarchy=["number", "group"])
    page = hv.render(figure, backend="bokeh")
    hovered = {one.id for tool in page.select(HoverTool) for one in tool.renderers}
    sizes = {True: set(), False: set()}
    for one in page.select(GlyphRenderer):
        sizes["text" in one.data_source.data].add(one.glyph.size)
        assert (one.id in hovered) == ("text" in one.data_source.data)
    [sentence], [legend] = sizes[True], sizes[False]
    assert sentence <= legend < 2 * sentence
