import holoviews as hv
import numpy as np
import pytest
from bokeh.models import GlyphRenderer, HoverTool, Scatter, Whisker
from matplotlib.colors import to_rgb
from scipy import stats

from figures import FEATURES, importances, numbers, profile, top_units
from mlem_xr import plot


def test_every_frame_holds_mean_and_t_interval_over_the_seeds():
    result = importances()
    figure = plot.feature_importance(result, features=FEATURES)
    assert [d.name for d in figure.kdims] == ["model", "step", "pooling"]
    assert len(figure) == 18
    for (model, step, pooling), frame in figure.data.items():
        for feature in FEATURES:
            cell = result.importance.sel(
                model=model, step=step, pooling=pooling, feature=feature
            ).values
            table = numbers(frame, feature)
            lower, upper = stats.t.interval(
                0.99, 4, loc=cell.mean(axis=0), scale=stats.sem(cell, axis=0)
            )
            np.testing.assert_allclose(table.importance, cell.mean(axis=0), rtol=1e-12)
            np.testing.assert_allclose(table.lower, lower, rtol=1e-9, atol=1e-15)
            np.testing.assert_allclose(table.upper, upper, rtol=1e-9)
            assert table.layer.tolist() == [1, 2, 3, 4]


def test_band_is_the_interval_cut_at_the_lower_end_of_the_axis():
    frame = plot.feature_importance(profile(), features=FEATURES)
    floor = hv.Store.lookup_options("bokeh", frame, "plot").kwargs["ylim"][0]
    cut = 0
    for feature in FEATURES:
        band, table = frame.Bands.I[feature].dframe(), numbers(frame, feature)
        low, high = band.importance - band.below, band.importance + band.above
        np.testing.assert_allclose(low, np.maximum(table.lower, floor))
        np.testing.assert_allclose(high, np.maximum(table.upper, floor))
        cut += (table.lower < floor).sum()
    assert cut > 0


def test_without_seeds_there_is_no_band():
    one = plot.feature_importance(profile().isel(seed=[0]), features=["subj_NUM"])
    assert not one.traverse(lambda e: e, [hv.Spread])
    np.testing.assert_array_equal(
        numbers(one, "subj_NUM").importance,
        profile().importance.isel(seed=0).sel(feature="subj_NUM").values.ravel(),
    )
    assert numbers(one, "subj_NUM").lower.isna().all()


def test_a_single_layer_has_error_bars_side_by_side():
    result = profile().sel(layer=[2])
    features = FEATURES[:3]
    frame = plot.feature_importance(result, features=features, log=False)
    assert not frame.traverse(lambda e: e, [hv.Spread])
    for feature in features:
        (bar,) = frame.Bands.I[feature].dframe().itertuples()
        (point,) = numbers(frame, feature).itertuples()
        (line,) = frame.Lines.I[feature].dframe().itertuples()
        assert isinstance(frame.Bands.I[feature], hv.ErrorBars)
        assert bar.layer == point.layer == line.layer
        cell = result.importance.sel(feature=feature).values.ravel()
        lower, upper = stats.t.interval(0.99, 4, loc=cell.mean(), scale=stats.sem(cell))
        np.testing.assert_allclose(
            [bar.importance - bar.below, bar.importance + bar.above], [lower, upper]
        )
    places = [numbers(frame, feature).layer[0] for feature in features]
    assert places[1] == 2
    assert places[1] - places[0] == pytest.approx(places[2] - places[1])
    low, high = hv.Store.lookup_options("bokeh", frame, "plot").kwargs["xlim"]
    assert low < places[0] < places[1] < places[2] < high


@pytest.mark.parametrize("layers", [[2], ["net"]])
def test_error_bars_have_the_colors_of_their_lines(layers):
    result = profile().isel(layer=[1]).assign_coords(layer=layers)
    frame = plot.feature_importance(result, features=FEATURES)
    page = hv.render(frame, backend="bokeh")
    bars = {bar.source.data["base"][0]: bar.line_color for bar in page.select(Whisker)}
    points = {
        point.data_source.data["layer"][0]: point.glyph.fill_color
        for point in page.select(GlyphRenderer)
        if isinstance(point.glyph, Scatter)
    }
    assert bars == points
    assert len(bars) == len(set(bars.values())) == len(FEATURES)
    assert ("layer", str(layers[0])) in page.select_one(HoverTool).tooltips
    (axis,) = hv.render(frame, backend="matplotlib").axes
    drawn = {bar.get_segments()[0][0][0]: bar.get_color()[0] for bar in axis.collections[:6]}
    for line in axis.lines:
        np.testing.assert_allclose(drawn[line.get_xdata()[0]][:3], to_rgb(line.get_color()))


def test_a_single_layer_without_seeds_has_no_error_bars():
    one = plot.feature_importance(profile().isel(seed=0, layer=0))
    assert not one.traverse(lambda e: e, [hv.ErrorBars, hv.Spread])


def test_a_single_k_has_error_bars():
    result = top_units().sel(k=[55])
    for show, lines in (("importance", FEATURES), ("r2", [1, 2])):
        figure = plot.top_k(result, show=show, features=FEATURES if show == "importance" else None)
        frame = figure.last if show == "importance" else figure
        places = [frame.Bands.I[line].dframe().k[0] for line in lines]
        low, high = hv.Store.lookup_options("bokeh", frame, "plot").kwargs["xlim"]
        assert low < places[0] < 55 < places[-1] < high
        assert places == sorted(places)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("extension", ["png", "html"])
@pytest.mark.parametrize("layers", [[1, 2, 3, 4], [1]])
def test_frames_of_one_seed_have_no_interval_beside_those_of_several(tmp_path, extension, layers):
    result = importances(model=1, step=1).sel(layer=layers)
    result.importance.loc[{"pooling": "first-token", "seed": [1, 2, 3, 4]}] = np.nan
    figure = plot.feature_importance(result, features=FEATURES[:2])
    for pooling, n_intervals in (("first-token", 0), ("mean", len(layers))):
        frame = figure[pooling]
        assert len(frame.Bands.I["subj_NUM"]) == n_intervals
        assert len(numbers(frame, "subj_NUM")) == len(layers)
    plot.save(figure, tmp_path / f"profile.{extension}")
    plot.save(figure + figure, tmp_path / f"profiles.{extension}")
