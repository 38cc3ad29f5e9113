import holoviews as hv
import numpy as np
import pytest
import xarray as xr
from bokeh.models import GlyphRenderer, HoverTool, Scatter
from scipy import stats

from figures import FEATURES, importances, numbers, one_seed, profile, top_units
from mlem_xr import plot
from mlem_xr.schema import InputError


def last(figure):
    return figure.last if isinstance(figure, hv.HoloMap) else figure


def with_errors(result, share=0.25):
    return result.assign(std_error=share * result.importance)


@pytest.mark.parametrize("level", [95, 99, 50])
def test_every_frame_holds_mean_and_t_interval_over_the_seeds(level):
    result = importances()
    figure = plot.feature_importance(result, features=FEATURES, errorbar=("ci", level))
    assert [d.name for d in figure.kdims] == ["model", "step", "pooling"]
    assert len(figure) == 12
    steps = {"0": 0, "20,000": 20_000, "final": -1}
    for (model, step, pooling), frame in figure.data.items():
        assert f"5 seeds (mean, {level} % interval)" in frame.label
        for feature in FEATURES:
            cell = result.importance.sel(
                model=model, step=steps[step], pooling=pooling, feature=feature
            ).values
            table = numbers(frame, feature)
            lower, upper = stats.t.interval(
                level / 100, 4, loc=cell.mean(axis=0), scale=stats.sem(cell, axis=0)
            )
            np.testing.assert_allclose(table.value, cell.mean(axis=0), rtol=1e-12)
            np.testing.assert_allclose(table.lower, lower, rtol=1e-9, atol=1e-15)
            np.testing.assert_allclose(table.upper, upper, rtol=1e-9)
            assert table.layer.tolist() == [1, 2, 3, 4]


def test_standard_errors_are_those_of_the_mean_over_the_seeds():
    frame = plot.feature_importance(profile(), features=FEATURES, errorbar="se")
    assert "± standard error" in frame.label
    for feature in FEATURES:
        cell = profile().importance.sel(feature=feature).values.reshape(5, 4)
        table = numbers(frame, feature)
        np.testing.assert_allclose(table.upper - table.value, stats.sem(cell, axis=0))


def test_band_is_the_interval_cut_at_the_foot_of_the_axis():
    frame = plot.feature_importance(profile(), features=FEATURES, errorbar=("ci", 99))
    lowest = hv.Store.lookup_options("bokeh", frame, "plot").kwargs["ylim"][0]
    cut = 0
    for feature in FEATURES:
        band, table = frame.Bands.I[feature].dframe(), numbers(frame, feature)
        low, high = band.importance - band.below, band.importance + band.above
        foot = low.min()
        assert (low >= lowest).all()
        below = table.lower < lowest
        np.testing.assert_allclose(low, np.where(table.lower < foot, foot, table.lower))
        np.testing.assert_allclose(high, table.upper)
        cut += below.sum()
    assert cut > 0


def test_few_seeds_are_thin_lines_and_many_an_interval():
    frame = plot.feature_importance(profile(), features=FEATURES)
    assert "5 seeds (mean and every seed)" in frame.label
    assert not frame.traverse(lambda e: e, [hv.Spread, hv.ErrorBars])
    for feature in FEATURES:
        drawn = frame.Seeds.I[feature].dframe().importance.values.reshape(5, 5)
        assert np.isnan(drawn[:, 4]).all()
        cell = profile().importance.sel(feature=feature).values.reshape(5, 4)
        np.testing.assert_array_equal(drawn[:, :4], np.maximum(cell, drawn[:, :4].min()))
    many = profile().isel(seed=[0, 1, 2, 3, 4, 0]).assign_coords(seed=range(6))
    frame = plot.feature_importance(many)
    assert frame.traverse(lambda e: e, [hv.Spread])
    assert "6 seeds (mean, 95 % interval)" in frame.label


def test_seeds_can_be_asked_for_and_errors_switched_off():
    many = profile().isel(seed=[0, 1, 2, 3, 4, 0]).assign_coords(seed=range(6))
    assert "Seeds" in dir(plot.feature_importance(many, errorbar="seeds"))
    frame = plot.feature_importance(with_errors(many), errorbar=None)
    assert not frame.traverse(lambda e: e, [hv.Spread, hv.ErrorBars])
    assert "Seeds" not in dir(frame)
    assert "6 seeds (mean)" in frame.label


def test_one_seed_has_the_error_bars_of_its_standard_error():
    one = with_errors(profile().isel(seed=[0]))
    for errorbar, width in (("auto", stats.norm.ppf(0.975)), (("ci", 50), stats.norm.ppf(0.75))):
        frame = plot.feature_importance(one, features=["subj_NUM"], errorbar=errorbar)
        assert isinstance(frame.Bands.I["subj_NUM"], hv.ErrorBars)
        table = numbers(frame, "subj_NUM")
        np.testing.assert_allclose(table.upper - table.value, width * 0.25 * table.value)
    frame = plot.feature_importance(one, features=["subj_NUM"], errorbar="se")
    table = numbers(frame, "subj_NUM")
    np.testing.assert_allclose(table.value - table.lower, 0.25 * table.value)
    frame = plot.feature_importance(one, errorbar=None)
    assert not frame.traverse(lambda e: e, [hv.Spread, hv.ErrorBars])


NORMAL = stats.norm.ppf(0.975)

AS_IF = "pairs, as if they were independent"


@pytest.mark.parametrize("units", ["mse", "r2"])
def test_one_seed_has_the_interval_over_sentences_in_the_units_of_its_importance(units):
    result = one_seed()
    frame = plot.feature_importance(result, features=FEATURES, units=units)
    assert frame.label.endswith("pooling first-token, 95 % interval over sentences")
    for feature in FEATURES:
        importance = result.importance.sel(feature=feature).values.ravel()
        scale = result.variance.values.ravel() if units == "r2" else 1.0
        table = numbers(frame, feature)
        np.testing.assert_allclose(table.value, importance / scale)
        np.testing.assert_allclose(table.upper, (1 + NORMAL / 4) * importance / scale)
        np.testing.assert_allclose(table.lower, (1 - NORMAL / 4) * importance / scale)
    standard = plot.feature_importance(result, units=units, errorbar="se")
    assert "± standard error over sentences" in standard.label
    dots = plot.feature_importance(result.isel(layer=0), units=units)
    assert "95 % interval over sentences" in dots.label
    assert dots.traverse(lambda e: e, [hv.Segments])


def test_intervals_over_pairs_are_drawn_if_they_are_asked_for_and_say_so():
    result = one_seed(AS_IF)
    frame = plot.feature_importance(result)
    assert not frame.traverse(lambda e: e, [hv.ErrorBars])
    assert "interval" not in frame.label
    for errorbar, said in (
        ("ci", f"95 % interval over {AS_IF}"),
        (("ci", 90), f"90 % interval over {AS_IF}"),
        ("se", f"± standard error over {AS_IF}"),
    ):
        frame = plot.feature_importance(result, errorbar=errorbar)
        assert f"{said}, top 4" in frame.label
        assert frame.traverse(lambda e: e, [hv.ErrorBars])


@pytest.mark.parametrize("result", [one_seed(), one_seed(AS_IF), profile().sel(seed=[0, 1])])
def test_the_grid_lies_below_lines_with_and_without_intervals(result):
    figure = plot.feature_importance(result, errorbar="ci" if "seed" in result.dims else "auto")
    (axis,) = hv.render(figure, backend="matplotlib").axes
    (*_, line) = axis.get_xgridlines()
    assert line.get_visible()
    drawn = [*axis.lines, *axis.collections]
    assert max(axis.xaxis.zorder, axis.yaxis.zorder) < min(artist.zorder for artist in drawn)


def test_an_interval_of_errors_without_a_description_names_them():
    frame = plot.feature_importance(with_errors(profile().isel(seed=0)))
    assert "95 % interval of std_error" in frame.label


def test_errors_over_sentences_are_not_mixed_with_those_over_seeds():
    one = one_seed()
    both = xr.concat([one, 2 * one], dim="seed").assign_coords(seed=[0, 1])
    frame = plot.feature_importance(both, errorbar="ci", features=["subj_NUM"])
    assert "2 seeds (mean, 95 % interval)" in frame.label
    assert "sentences" not in frame.label
    table, cell = numbers(frame, "subj_NUM"), both.importance.sel(feature="subj_NUM")
    half = stats.t.ppf(0.975, 1) * stats.sem(cell.values.reshape(2, -1), axis=0)
    np.testing.assert_allclose(table.upper - table.value, half)


def test_compared_profiles_have_their_intervals_and_the_difference_has_none():
    first, second = one_seed(), one_seed().assign_coords(model=["mini"])
    half = second.map(lambda v: 0.5 * v, keep_attrs=True)
    figure = list(plot.compare(first, half, features=FEATURES[:2]))
    assert [frame.label for frame in figure] == [
        *(f"{name}, 95 % interval over sentences" for name in ("bert", "mini")),
        "bert − mini",
    ]
    for frame, scale in zip(figure, (1.0, 0.5), strict=False):
        table = numbers(frame, "subj_GEN")
        expected = scale * first.importance.sel(feature="subj_GEN").values.ravel()
        np.testing.assert_allclose(table.value, expected)
        np.testing.assert_allclose(table.upper, (1 + NORMAL / 4) * expected)
    assert numbers(figure[2], "subj_GEN").lower.isna().all()
    pairs = plot.compare(first, one_seed(AS_IF).assign_coords(model=["mini"]))
    assert ["interval" in frame.label for frame in pairs] == [True, False, False]


@pytest.mark.parametrize("show", ["importance", "r2"])
def test_scores_of_the_best_units_have_their_own_errors(show):
    result = one_seed().rename(layer="k").assign_coords(layer=5)
    frame = last(plot.top_k(result, show=show, features=FEATURES if show == "importance" else None))
    assert "95 % interval over sentences" in frame.label
    table = numbers(frame, "subj_NUM" if show == "importance" else 5)
    np.testing.assert_allclose(table.upper - table.value, NORMAL / 4 * table.value)
    pairs = plot.top_k(result.drop_vars("r2_std_error"), show="r2")
    assert not pairs.traverse(lambda e: e, [hv.ErrorBars])


def test_one_seed_without_standard_errors_is_a_line():
    one = plot.feature_importance(profile().isel(seed=[0]), features=["subj_NUM"])
    assert not one.traverse(lambda e: e, [hv.Spread, hv.ErrorBars])
    np.testing.assert_array_equal(
        numbers(one, "subj_NUM").value,
        profile().importance.isel(seed=0).sel(feature="subj_NUM").values.ravel(),
    )
    assert numbers(one, "subj_NUM").lower.isna().all()


def test_a_single_layer_is_dots_in_rows():
    result = profile().sel(layer=[2])
    features = FEATURES[:3]
    frame = plot.feature_importance(result, features=features, log=False, errorbar=("ci", 99))
    options = hv.Store.lookup_options("bokeh", frame, "plot").kwargs
    assert options["yticks"] == list(enumerate(features))
    assert options["invert_yaxis"]
    low, high = options["xlim"]
    for row, feature in enumerate(features):
        (bar,) = frame.Bands.I[feature].dframe().itertuples(index=False)
        (point,) = numbers(frame, feature).itertuples()
        cell = result.importance.sel(feature=feature).values.ravel()
        lower, upper = stats.t.interval(0.99, 4, loc=cell.mean(), scale=stats.sem(cell))
        np.testing.assert_allclose([bar[0], bar[2]], [lower, upper])
        assert bar[1] == bar[3] == point.row == row
        np.testing.assert_allclose([point.importance, point.value], cell.mean())
        assert low < lower < upper < high


def test_dots_of_few_seeds_have_a_small_dot_for_each():
    frame = plot.feature_importance(profile().sel(layer=2), features=FEATURES[:2], log=False)
    for feature in FEATURES[:2]:
        drawn = frame.Seeds.I[feature].dframe().importance
        cell = profile().importance.sel(layer=2, feature=feature)
        np.testing.assert_array_equal(np.sort(drawn), np.sort(cell.values.ravel()))


@pytest.mark.parametrize("layers", [[2], ["net"]])
def test_dots_have_the_colors_of_their_features(layers):
    result = profile().isel(layer=[1]).assign_coords(layer=layers)
    figure = plot.feature_importance(result, features=FEATURES)
    lines = plot.feature_importance(profile(), features=FEATURES)
    page, other = (hv.render(drawn, backend="bokeh") for drawn in (figure, lines))
    assert f"layer {layers[0]}" in figure.label
    rows = {
        point.data_source.data["row"][0]: point.glyph.fill_color
        for point in page.select(GlyphRenderer)
        if isinstance(point.glyph, Scatter) and len(point.data_source.data["row"]) == 1
    }
    of_lines = {
        FEATURES.index(point.name): point.glyph.line_color
        for point in other.select(GlyphRenderer)
        if point.name in FEATURES and hasattr(point.glyph, "line_dash")
    }
    assert len(rows) == len(FEATURES)
    assert {row: color for row, color in rows.items()} == of_lines
    assert page.select_one(HoverTool)


def test_a_single_k_is_dots_in_rows():
    result = top_units().sel(k=[55])
    frame = plot.top_k(result, features=FEATURES).last
    assert [numbers(frame, f).row[0] for f in FEATURES] == list(range(6))
    frame = plot.top_k(result, show="r2")
    np.testing.assert_allclose(numbers(frame, 2).value, result.r2.sel(layer=2).mean())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("extension", ["png", "html"])
@pytest.mark.parametrize("layers", [[1, 2, 3, 4], [1]])
def test_frames_of_one_seed_have_no_interval_beside_those_of_several(tmp_path, extension, layers):
    result = importances(model=1, step=1).sel(layer=layers)
    result.importance.loc[{"pooling": "first-token", "seed": [1, 2, 3, 4]}] = np.nan
    figure = plot.feature_importance(result, features=FEATURES[:2], errorbar="ci")
    for pooling, n_intervals in (("first-token", 0), ("mean", len(layers))):
        frame = figure[pooling]
        assert numbers(frame, "subj_NUM").lower.notna().sum() == n_intervals
        assert len(numbers(frame, "subj_NUM")) == len(layers)
    plot.save(figure, tmp_path / f"profile.{extension}")
    plot.save(figure + figure, tmp_path / f"profiles.{extension}")


@pytest.mark.parametrize(
    "errorbar", ["sd", 95, ("se", 95), ("ci", 0), ("ci", 100), ("ci", "95"), ("ci", True), True]
)
def test_impossible_error_bars_are_named(errorbar):
    with pytest.raises(InputError, match="^errorbar: found .*; expected 'auto', 'ci', 'se'"):
        plot.feature_importance(profile(), errorbar=errorbar)
