import dask
import dask.array
import holoviews as hv
import numpy as np
import pytest
import xarray as xr
from scipy import stats

import mlem_xr as mx
from figures import FEATURES, POOLINGS, importances, numbers, profile, top_units
from mlem_xr import plot
from mlem_xr.schema import InputError


def test_layers_without_any_value_are_left_out():
    result = profile()
    result.importance.loc[{"layer": [1, 3, 4]}] = np.nan
    frame = plot.feature_importance(result, features=["subj_NUM"])
    assert isinstance(frame.Bands.I["subj_NUM"], hv.ErrorBars)
    options = hv.Store.lookup_options("bokeh", frame, "plot").kwargs
    assert options["xticks"] == [(2, "2")]


def test_top_features_have_the_largest_importance_in_any_frame_and_layer():
    result = importances()
    mean = result.importance.mean("seed").max(["model", "step", "pooling", "layer"])
    expected = [FEATURES[i] for i in np.argsort(-mean.values)]
    for top in (1, 3, 4, 6, 20):
        figure = plot.feature_importance(result, top=top)
        assert list(figure.last.Points.I.keys()) == expected[:top]
    assert list(plot.feature_importance(result).last.Lines.I.keys()) == expected[:4]


def test_a_peak_in_one_layer_of_one_frame_counts():
    result = importances()
    result.importance.loc[
        {"model": "mini", "step": 0, "pooling": "mean", "layer": 3, "feature": "subj_PERS"}
    ] = 1.0
    assert list(plot.feature_importance(result, top=1).last.Points.I.keys()) == ["subj_PERS"]


def test_features_are_drawn_in_the_order_given():
    chosen = ["verb_ZIPF", "subj_NUM"]
    assert list(plot.feature_importance(profile(), features=chosen).Points.I.keys()) == chosen


@pytest.mark.parametrize(
    "selection",
    [
        {"layer": 2},
        {"feature": "subj_GEN"},
        {"layer": 2, "feature": "subj_GEN", "seed": 1},
        {"model": "bert", "seed": 0, "step": -1, "pooling": "mean"},
        {"model": "bert", "seed": 0, "step": -1, "pooling": "mean", "layer": 1},
    ],
)
def test_any_part_of_a_result_can_be_drawn(selection):
    part = importances().sel(selection)
    figure = plot.feature_importance(part, top=6)
    sliders = [d for d in ("model", "step", "pooling") if d not in selection]
    frame = figure
    if sliders:
        assert [d.name for d in figure.kdims] == sliders
        frame = figure.last
        part = part.isel(dict.fromkeys(sliders, -1))
    values = part.importance.mean("seed") if "seed" in part.dims else part.importance
    for feature in np.atleast_1d(part.feature.values):
        expected = values.sel(feature=feature) if "feature" in values.dims else values
        np.testing.assert_allclose(numbers(frame, feature).importance, np.ravel(expected.values))


def test_a_result_without_layer_or_labels_is_drawn():
    bare = xr.Dataset({"importance": ("feature", [0.1, 0.2])})
    assert plot.feature_importance(bare).Points.I[1].dframe().importance.tolist() == [0.2]


def test_named_layers_lie_side_by_side_under_their_names():
    result = profile().assign_coords(layer=["1", "2", "3", "net"])
    frame = plot.feature_importance(result)
    options = hv.Store.lookup_options("matplotlib", frame, "plot").kwargs
    assert [label for _, label in options["xticks"]] == ["1", "2", "3", "net"]


def test_many_layers_have_few_ticks():
    result = profile().isel(layer=[0] * 48).assign_coords(layer=range(1, 49))
    ticks = hv.Store.lookup_options("bokeh", plot.feature_importance(result), "plot").kwargs[
        "xticks"
    ]
    assert 5 < len(ticks) <= 14


def test_cells_without_a_value_are_left_out():
    result = importances()
    result.importance.loc[{"model": "mini", "layer": [3, 4]}] = np.nan
    result.importance.loc[{"model": "mini", "step": 0}] = np.nan
    result.importance.loc[{"model": "bert", "step": 0, "seed": [2, 3, 4], "layer": 1}] = np.nan
    result.importance.loc[{"model": "bert", "step": 0, "seed": 0, "layer": 2}] = np.nan
    result.importance.loc[{"model": "bert", "step": 0, "seed": [1, 2, 3, 4], "layer": 3}] = np.nan
    figure = plot.feature_importance(result, features=["subj_NUM"])
    assert len(figure) == 15
    assert not [key for key in figure.data if key[:2] == ("mini", 0)]
    assert numbers(figure["mini", -1, "mean"], "subj_NUM").layer.tolist() == [1, 2]
    table = numbers(figure["bert", 0, "mean"], "subj_NUM")
    cell = result.importance.sel(model="bert", step=0, pooling="mean", feature="subj_NUM")
    two, four = cell.sel(layer=1).values[:2], cell.sel(layer=2).values[1:]
    for row, seeds in ((0, two), (1, four)):
        interval = stats.t.interval(0.99, len(seeds) - 1, seeds.mean(), stats.sem(seeds))
        np.testing.assert_allclose(table.loc[row, ["lower", "upper"]].tolist(), interval)
    assert table.importance[2] == cell.sel(layer=3, seed=0)
    assert np.isnan(table.lower[2])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("extension", ["png", "html"])
def test_zero_and_negative_importances_leave_gaps_on_the_logarithmic_axis(tmp_path, extension):
    result = profile()
    result.importance.loc[{"feature": "subj_NUM", "layer": [2, 3]}] = -1e-7
    result.importance.loc[{"feature": "subj_GEN"}] = 0.0
    result.importance.loc[{"feature": "subj_PERS", "seed": [0, 1]}] = np.nan
    figure = plot.feature_importance(result, features=FEATURES)
    line = figure.Lines.I["subj_NUM"].dframe().importance
    assert line.isna().tolist() == [False, True, True, False]
    assert figure.Lines.I["subj_GEN"].dframe().importance.isna().all()
    assert numbers(figure, "subj_NUM").importance[1] == pytest.approx(-1e-7)
    plot.save(figure, tmp_path / f"profile.{extension}")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("extension", ["png", "html"])
def test_a_frame_without_a_positive_mean_has_no_place_on_the_logarithmic_axis(tmp_path, extension):
    result = importances(model=1, step=1)
    others = plot.feature_importance(result.sel(pooling=["first-token", "last-token"]), top=6)
    result.importance.loc[{"pooling": "mean"}] *= -1
    result.importance.loc[{"pooling": "mean", "layer": 2}] = 0.0
    figure = plot.feature_importance(result, top=6)
    assert list(figure.keys()) == ["first-token", "last-token"]
    limits, expected = (
        hv.Store.lookup_options("bokeh", drawn.last, "plot").kwargs["ylim"]
        for drawn in (figure, others)
    )
    assert limits == expected
    linear = plot.feature_importance(result, top=6, log=False)
    assert list(linear.keys()) == POOLINGS
    assert (numbers(linear["mean"], "subj_NUM").importance <= 0).all()
    plot.save(figure, tmp_path / f"profile.{extension}")


@pytest.mark.filterwarnings("error")
def test_without_a_positive_importance_the_axis_is_linear(tmp_path):
    figure = plot.feature_importance(profile() * 0)
    assert figure.Lines.I["subj_NUM"].dframe().importance.tolist() == [0, 0, 0, 0]
    options = hv.Store.lookup_options("bokeh", figure.Lines.I["subj_NUM"], "plot").kwargs
    assert options["logy"] is False
    plot.save(figure, tmp_path / "zero.png")


def test_log_can_be_switched_off():
    for log in (True, False):
        curve = plot.feature_importance(profile(), log=log).Lines.I.last
        for backend in ("bokeh", "matplotlib"):
            assert hv.Store.lookup_options(backend, curve, "plot").kwargs["logy"] is log


def test_title_names_the_fixed_coordinates():
    title = plot.feature_importance(importances().sel(model="mini", step=-1)).last.label
    assert title == "mini, step final, 5 seeds (mean, 99 % interval)"
    one = importances().sel(seed=3, step=20_000, pooling="mean")
    assert plot.feature_importance(one).last.label == "seed 3, step 20,000, pooling mean"


def test_lazy_values_are_computed_once():
    computed = []

    def scheduler(graph, keys, **options):
        computed.append(1)
        return dask.get(graph, keys, **options)

    with dask.config.set(scheduler=scheduler):
        figure = plot.feature_importance(importances().chunk({"layer": 1}), features=FEATURES)
    assert len(computed) == 1
    eager = plot.feature_importance(importances(), features=FEATURES)
    for key in eager.data:
        for feature in FEATURES:
            assert numbers(figure[key], feature).equals(numbers(eager[key], feature))


def test_the_result_is_not_changed():
    result = importances()
    before = result.copy(deep=True)
    plot.feature_importance(result)
    xr.testing.assert_identical(result, before)


def test_lines_differ_in_color_and_in_marker_or_dash():
    figure = plot.feature_importance(profile(), top=6)
    for backend, dash in (("bokeh", "line_dash"), ("matplotlib", "linestyle")):
        cycle = hv.Store.lookup_options(backend, figure.Lines.I["subj_NUM"], "style").kwargs
        looks = [(cycle["color"].values[i], cycle[dash].values[i % 4]) for i in range(6)]
        assert len({color for color, _ in looks}) == 6
        assert len({d for _, d in looks}) == 4


def test_a_computed_profile_is_drawn_as_it_is():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 2, (40, 2))
    units = rng.normal(size=(3, 40, 8)) + 2 * codes[:, :1]
    data = xr.Dataset(
        {"activation": (("layer", "sentence", "unit"), units)},
        coords={
            "layer": [1, 2, 3],
            "tense": ("sentence", codes[:, 0]),
            "number": ("sentence", codes[:, 1]),
        },
    ).chunk({"layer": 1})
    result = mx.multivariate_importance(data)
    figure = plot.feature_importance(result)
    np.testing.assert_array_equal(
        numbers(figure, "tense").importance, result.importance.sel(feature="tense").values
    )


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda r: r.rename(importance="auc"), {}, "no variable 'importance'; found: 'auc'"),
        (lambda r: r.importance, {}, "expected an xarray Dataset, found DataArray"),
        (lambda r: r * np.nan, {}, "only NaN"),
        (lambda r: r.rename(layer="unit"), {}, "dimension 'unit'; .*unit_distribution"),
        (lambda r: r.rename(layer="k"), {}, "dimension 'k'; .*top_k"),
        (lambda r: r, {"features": ["tense"]}, "features: unknown value 'tense'; known: 'subj_N"),
        (lambda r: r, {"features": []}, "features: an empty list"),
        (lambda r: r, {"top": 0}, "top: found 0; expected an integer of at least 1"),
        (lambda r: r, {"top": 1.5}, "top: found 1.5"),
    ],
)
def test_bad_input_is_named(change, options, message):
    with pytest.raises(InputError, match=message):
        plot.feature_importance(change(profile()), **options)


def test_top_k_has_one_line_per_feature_and_the_layer_as_slider():
    result = top_units()
    figure = plot.top_k(result, features=FEATURES)
    assert [d.name for d in figure.kdims] == ["layer"]
    for layer in (1, 2):
        for feature in FEATURES:
            table = numbers(figure[layer], feature)
            assert table.k.tolist() == [1, 8, 55, 384]
            expected = result.importance.sel(layer=layer, feature=feature).mean("seed")
            np.testing.assert_allclose(table.importance, expected)
    assert hv.Store.lookup_options("bokeh", figure.last.Lines.I.last, "plot").kwargs["logx"]


def test_top_k_draws_scores_with_one_line_per_layer():
    result = top_units()
    figure = plot.top_k(result, show="r2")
    for layer in (1, 2):
        table = numbers(figure, layer)
        np.testing.assert_allclose(table.r2, result.r2.sel(layer=layer).mean("seed"))
        half = stats.t.ppf(0.995, 2) * stats.sem(result.r2.sel(layer=layer).values, axis=0)
        np.testing.assert_allclose(table.upper - table.r2, half)


def test_the_legend_says_what_its_lines_are():
    for figure, name in (
        (plot.top_k(top_units(), show="r2"), "layer"),
        (plot.feature_importance(importances()).last, "feature"),
    ):
        page = hv.render(figure, backend="bokeh")
        assert [legend.title for legend in page.legend] == [name]


def test_top_k_names_bad_input():
    with pytest.raises(InputError, match="show: unknown value 'p'; known: 'importance', 'r2'"):
        plot.top_k(top_units(), show="p")
    with pytest.raises(InputError, match="no coordinate 'k'"):
        plot.top_k(profile())
