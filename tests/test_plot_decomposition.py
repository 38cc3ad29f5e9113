"""Shares of R2 below the feature ceiling: the numbers of the figure, and what it refuses."""

import holoviews as hv
import numpy as np
import pytest
import xarray as xr

from figures import FEATURES, parts
from mlem_xr import plot
from mlem_xr.schema import InputError


def plain(result) -> xr.Dataset:
    return result.isel(model=0, seed=0, step=0, pooling=0)


def test_shares_are_stacked_above_and_below_zero():
    result = plain(parts())
    assert (result.share < 0).any()
    figure = plot.decomposition(result, top=6)
    assert list(figure.Shares.I.keys()) == FEATURES
    for i, layer in enumerate(result.layer.values):
        high = low = 0.0
        for feature in FEATURES:
            value = result.share.sel(layer=layer, feature=feature).item()
            share = figure.Shares.I[feature].dframe().loc[i, ["low", "high"]]
            loss = figure.Losses.I[feature].dframe().loc[i, ["under", "deep"]]
            assert share.tolist() == pytest.approx([high, high + max(value, 0)])
            assert loss.tolist() == pytest.approx([low, low + min(value, 0)])
            high, low = high + max(value, 0), low + min(value, 0)
            point = figure.Points.I[feature].dframe().loc[i]
            assert point["value"] == value
            assert point["end"] == pytest.approx(low if value < 0 else high)


def test_the_line_is_r2_and_the_band_the_ceiling():
    result = plain(parts())
    figure = plot.decomposition(result)
    line = figure.Whole.I["all features"].dframe()
    np.testing.assert_array_equal(line.layer, result.layer)
    np.testing.assert_array_equal(line.r2, result.r2.isel(subset=1))
    band = figure.Ceiling.I["feature ceiling"].dframe()
    for bound in ("lower", "upper"):
        expected = result.r2_ceiling.sel(bound=bound)
        np.testing.assert_array_equal(band[bound], expected)
        np.testing.assert_array_equal(figure.Bounds.I[bound].dframe().r2, expected)
    (low, high) = hv.Store.lookup_options("bokeh", figure, "plot").kwargs["ylim"]
    assert low < result.share.where(result.share < 0).sum("feature").min()
    assert high > result.r2_ceiling.max()


@pytest.mark.parametrize("options", [{"top": 2}, {"features": ["verb_ZIPF", "subj_NUM"]}])
def test_features_without_a_color_are_drawn_together(options):
    result = abs(plain(parts()))
    figure = plot.decomposition(result, **options)
    names = list(figure.Shares.I.keys())
    assert names[2:] == ["4 others"]
    assert names[:2] == options.get("features", names[:2])
    rest = result.share.drop_sel(feature=names[:2]).sum("feature")
    np.testing.assert_allclose(figure.Points.I["4 others"].dframe().value, rest)
    np.testing.assert_allclose(
        figure.Shares.I["4 others"].dframe().high, result.share.sum("feature")
    )
    assert list(plot.decomposition(result, top=5).Shares.I.keys())[5:] == ["1 other"]
    assert not figure.get("Losses")


def test_seeds_are_averaged_and_the_title_says_so():
    result = parts(seed=3)
    figure = plot.decomposition(result, features=FEATURES)
    assert "3 seeds (mean)" in figure.label
    mean = plain(result.mean("seed", keep_attrs=True).expand_dims(seed=[0]))
    expected = plot.decomposition(mean, features=FEATURES)
    for group in ("Shares", "Ceiling", "Whole"):
        one, other = (f.get(group).I for f in (figure, expected))
        for key, table in one.data.items():
            for name in table.dframe().select_dtypes("number"):
                np.testing.assert_allclose(table.dframe()[name], other.data[key].dframe()[name])


def test_steps_have_a_logarithmic_axis_and_the_final_one_is_last():
    result = parts(step=3).sel(step=[-1, 0, 20_000], layer=1)
    figure = plot.decomposition(result, x="step")
    assert figure.Marks.I["all features"].dframe()["at"].tolist() == ["0", "20,000", "final"]
    assert hv.Store.lookup_options("bokeh", figure, "plot").kwargs["logx"]


@pytest.mark.parametrize("backend", ["bokeh", "matplotlib"])
@pytest.mark.parametrize("select", [{"layer": [2]}, {"layer": 2}])
def test_one_layer_is_a_bar(select, backend):
    result = plain(parts()).sel(select)
    figure = plot.decomposition(result)
    shares = figure.Shares.I["subj_NUM"].dframe()
    assert shares.layer.tolist() == pytest.approx([1.7, 2.3])
    assert shares.high.nunique() == 1
    low, high = hv.Store.lookup_options(backend, figure, "plot").kwargs["xlim"]
    assert low < 1.7
    assert high > 2.3
    assert hv.renderer(backend).get_plot(figure) is not None


def test_other_dimensions_slide_and_an_empty_frame_says_why():
    result = parts(pooling=3)
    result = result.where(result.pooling != "mean")
    result = result.assign_coords(
        fingerprint=("pooling", ["a", "", "a"]), computed_from=("pooling", ["a", "", "a"])
    )
    # Where nothing is in any frame, there is none.
    assert list(plot.decomposition(result).keys()) == ["first-token", "last-token"]
    result = parts(model=2, pooling=3)
    result = result.where((result.model != "bert") | (result.pooling != "mean"))
    figure = plot.decomposition(result)
    assert "no values" in figure["bert", "mean"].label
    assert not len(figure["bert", "mean"].Shares.I["subj_NUM"])


def test_a_layer_that_a_network_lacks_is_left_out():
    result = parts(model=2)
    result = result.where((result.model != "bert") | (result.layer < 3))
    figure = plot.decomposition(result)
    assert figure["bert"].Shares.I["subj_NUM"].dframe().layer.tolist() == [1, 2]
    assert figure["mini"].Shares.I["subj_NUM"].dframe().layer.tolist() == [1, 2, 3, 4]


def test_names_and_colors_are_those_that_are_given():
    figure = plot.decomposition(
        plain(parts()), palette={"subj_NUM": "red"}, rename={"subj_NUM": "number", "layer": "depth"}
    )
    assert next(iter(figure.Shares.I.keys())) == "number"
    color = hv.Store.lookup_options("bokeh", figure.Shares.I["number"], "style").kwargs["color"]
    assert color.values[0] == "#ff0000"
    assert hv.Store.lookup_options("bokeh", figure, "plot").kwargs["xlabel"] == "depth"


def test_a_selection_of_features_keeps_the_r2_of_all():
    result = plain(parts()).assign_attrs(settings={"features": FEATURES}, features=FEATURES)
    part = plot.decomposition(result.sel(feature=["subj_GEN", "verb_ZIPF"]))
    np.testing.assert_array_equal(part.Whole.I["all features"].dframe().r2, result.r2[:, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.drop_vars("share"), "no variable 'share'"),
        (lambda r: r.drop_vars("r2"), "no variable 'r2'"),
        (lambda r: r.isel(subset=[0]), r"'r2' has no subset 'subj_NUM\+.*; found: 'none'"),
        (lambda r: r.isel(subset=1), "'r2' has no subset .*; found: none; expected the result"),
        (lambda r: r.sel(bound=["upper"]), "'r2_ceiling' has no bound 'lower'; found: 'upper'"),
        (lambda r: r * np.nan, "'share' holds no values, only NaN"),
        (lambda r: r.expand_dims(unit=[0, 1]), "'share' has the dimension 'unit'; select one unit"),
    ],
)
def test_what_is_no_decomposition_is_refused(change, message):
    with pytest.raises(InputError, match=f"^result: {message}"):
        plot.decomposition(change(parts()))
