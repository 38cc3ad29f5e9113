import dask
import dask.array
import holoviews as hv
import numpy as np
import pandas as pd
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
    assert numbers(frame, "subj_NUM").row.tolist() == [0]
    result.importance.loc[{"layer": 4}] = 0.1
    options = hv.Store.lookup_options("bokeh", plot.feature_importance(result), "plot").kwargs
    assert options["xticks"] == [(2, "2"), (4, "4")]


def scores(result):
    """Score features as the documentation says: 1 where they lead a panel, then 1/2, 1/4, ..."""
    found = dict.fromkeys(FEATURES, 0.0)
    mean = result.importance.mean("seed").max("layer")
    for panel in mean.stack(panel=["model", "step", "pooling"]).transpose("panel", ...).values:
        for rank, i in enumerate(np.argsort(-panel)):
            found[FEATURES[i]] += 0.5**rank
    return found


@pytest.mark.parametrize("top", [1, 3, 4, 6, 20])
def test_top_features_lead_in_most_panels_and_stand_in_the_order_of_the_data(top):
    result = importances()
    best = sorted(FEATURES, key=lambda name: -scores(result)[name])[:top]
    figure = plot.feature_importance(result, top=top)
    assert list(figure.last.Points.I.keys()) == [name for name in FEATURES if name in best]
    said = f"top {top} of 6 features"
    assert (said in figure.last.label) == (top < 6)


def test_the_second_feature_of_half_of_the_panels_is_there():
    result = importances(seed=1, step=1, pooling=3)
    result["importance"] = result.importance * 0 + 1e-6
    panels = [(model, pooling) for model in ("bert", "mini") for pooling in POOLINGS]
    for i, (model, pooling) in enumerate(panels):
        at = {"model": model, "pooling": pooling, "layer": 2}
        # Large in a single panel; leading everywhere; second, on a small scale, in three panels.
        result.importance.loc[at | {"feature": FEATURES[i % 3]}] = 0.9
        result.importance.loc[at | {"feature": "verb_ZIPF"}] = 1.0
        if i >= 3:
            result.importance.loc[at] = result.importance.loc[at] * 1e-3
            result.importance.loc[at | {"feature": "subj_PERS"}] = 9.5e-4
    figure = plot.feature_importance(result, top=2)
    assert list(figure.last.Points.I.keys()) == ["verb_ZIPF", "subj_PERS"]


def compared(result, **options):
    figure, *_ = plot.compare(result, result, **options)
    return figure


@pytest.mark.parametrize("draw", [plot.feature_importance, plot.decoding, compared])
def test_a_peak_in_one_layer_of_a_panel_counts(draw):
    result = importances(model=1, step=1, pooling=1)
    result.importance.loc[{"layer": 3, "feature": "subj_PERS"}] = 1.0
    result = result.isel(model=0, step=0, pooling=0, drop=True)
    result["auc"] = result.importance
    assert list(draw(result, top=1).Points.I.keys()) == ["subj_PERS"]


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
        np.testing.assert_allclose(numbers(frame, feature).value, np.ravel(expected.values))


def test_a_result_without_layer_or_labels_is_drawn():
    bare = xr.Dataset({"importance": ("feature", [0.1, 0.2])})
    assert plot.feature_importance(bare).Points.I[1].dframe().value.tolist() == [0.2]


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


def test_frames_without_values_keep_their_place_and_say_why():
    result = importances()
    result.importance.loc[{"model": "mini", "layer": [3, 4]}] = np.nan
    result.importance.loc[{"model": "mini", "step": 0}] = np.nan
    result.importance.loc[{"model": "bert", "step": 0, "seed": [2, 3, 4], "layer": 1}] = np.nan
    result.importance.loc[{"model": "bert", "step": 0, "seed": 0, "layer": 2}] = np.nan
    result.importance.loc[{"model": "bert", "step": 0, "seed": [1, 2, 3, 4], "layer": 3}] = np.nan
    figure = plot.feature_importance(result, features=["subj_NUM"], errorbar=("ci", 99))
    assert len(figure) == 12
    empty = [key for key, frame in figure.data.items() if frame.group == "Empty"]
    assert empty == [("mini", "0", pooling) for pooling in POOLINGS[:2]]
    for key in empty:
        assert figure.data[key].label.endswith(", no values")
        assert len(numbers(figure.data[key], "subj_NUM")) == 0
    assert numbers(figure["mini", "final", "mean"], "subj_NUM").layer.tolist() == [1, 2]
    table = numbers(figure["bert", "0", "mean"], "subj_NUM")
    cell = result.importance.sel(model="bert", step=0, pooling="mean", feature="subj_NUM")
    two, four = cell.sel(layer=1).values[:2], cell.sel(layer=2).values[1:]
    for row, seeds in ((0, two), (1, four)):
        interval = stats.t.interval(0.99, len(seeds) - 1, seeds.mean(), stats.sem(seeds))
        np.testing.assert_allclose(table.loc[row, ["lower", "upper"]].tolist(), interval)
    assert table.value[2] == cell.sel(layer=3, seed=0)
    assert np.isnan(table.lower[2])


def test_labels_without_any_value_are_no_part_of_the_figure():
    result = importances()
    result.importance.loc[{"step": 0}] = np.nan
    figure = plot.feature_importance(result)
    assert len(figure) == 8
    assert list(dict.fromkeys(step for _, step, _ in figure.data)) == ["20,000", "final"]


@pytest.mark.parametrize(
    ("recorded", "computed", "reason"),
    [
        ("", "", "not recorded"),
        ("abc", "", "not computed"),
        ("abc", "xyz", "recorded again since it was computed"),
        ("abc", "abc", "no values"),
    ],
)
def test_an_empty_frame_of_a_store_says_what_is_missing(recorded, computed, reason):
    result = importances(step=1)
    result.importance.loc[{"model": "mini", "pooling": "mean"}] = np.nan
    dims = ("model", "seed", "step")
    prints = xr.DataArray(np.full((2, 5, 1), "abc", dtype=object), dims=dims)
    marks = prints.expand_dims(pooling=2).transpose(*dims, "pooling").copy()
    prints[1], marks[1, ..., 1] = recorded, computed
    result = result.assign_coords(fingerprint=prints, computed_from=marks)
    figure = plot.feature_importance(result)
    assert figure["mini", "mean"].label.endswith(f", {reason}")


def test_the_first_frame_with_values_is_shown_first():
    result = importances()
    result.importance.loc[{"model": "bert", "step": 0}] = np.nan
    figure = plot.feature_importance(result)
    assert [d.default for d in figure.kdims] == ["bert", "20,000", "first-token"]


def test_selectors_are_in_the_order_of_the_store():
    figure = plot.feature_importance(importances(pooling=3))
    assert [list(dict.fromkeys(values)) for values in zip(*figure.keys(), strict=True)] == [
        ["bert", "mini"],
        ["0", "20,000", "final"],
        POOLINGS,
    ]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("extension", ["png", "html"])
def test_zero_and_less_are_marked_at_the_foot_of_a_logarithmic_axis(tmp_path, extension):
    result = profile()
    result.importance.loc[{"feature": "subj_NUM", "layer": [2, 3]}] = -1e-7
    result.importance.loc[{"feature": "subj_GEN"}] = 0.0
    result.importance.loc[{"feature": "subj_PERS", "seed": [0, 1]}] = np.nan
    figure = plot.feature_importance(result, features=FEATURES)
    lowest = hv.Store.lookup_options("bokeh", figure, "plot").kwargs["ylim"][0]
    line = figure.Lines.I["subj_NUM"].dframe().importance
    foot = figure.Foot.I["subj_NUM"].dframe()
    assert lowest < foot.importance.iloc[0] < 1.5 * lowest
    np.testing.assert_array_equal(line[[1, 2]], foot.importance)
    assert foot.layer.tolist() == [2, 3]
    np.testing.assert_allclose(foot.value, -1e-7)
    assert numbers(figure, "subj_NUM").layer.tolist() == [1, 4]
    assert len(figure.Foot.I["subj_GEN"]) == 4
    assert len(figure.Foot.I["subj_PERS"]) == 0
    plot.save(figure, tmp_path / f"profile.{extension}")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("extension", ["png", "html"])
def test_a_frame_without_a_positive_mean_lies_at_the_foot(tmp_path, extension):
    result = importances(model=1, step=1, pooling=3)
    result.importance.loc[{"pooling": "mean"}] *= -1
    figure = plot.feature_importance(result, top=6)
    assert list(figure.keys()) == POOLINGS
    for feature in FEATURES:
        assert len(figure["mean"].Foot.I[feature]) == 4
        assert len(numbers(figure["mean"], feature)) == 0
    linear = plot.feature_importance(result, top=6, log=False)
    assert (numbers(linear["mean"], "subj_NUM").value <= 0).all()
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
    assert title == "mini, step final, 5 seeds (mean and every seed), top 4 of 6 features"
    one = importances().sel(seed=3, step=20_000, pooling="mean")
    label = plot.feature_importance(one, top=6).last.label
    assert label == "seed 3, step 20,000, pooling mean"


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
        numbers(figure, "tense").value, result.importance.sel(feature="tense").values
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
        (lambda r: r, {"x": "seed"}, "x: unknown value 'seed'; known: 'layer', 'step'"),
        (lambda r: r, {"units": "bits"}, "units: unknown value 'bits'; known: 'mse', 'r2'"),
        (lambda r: r, {"units": "r2"}, "units: 'r2' needs the variable 'variance'"),
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
            np.testing.assert_allclose(table.value, expected)
    assert hv.Store.lookup_options("bokeh", figure.last.Lines.I.last, "plot").kwargs["logx"]


def test_top_k_draws_scores_with_one_line_per_layer():
    result = top_units()
    figure = plot.top_k(result, show="r2", errorbar=("ci", 99))
    for layer in (1, 2):
        table = numbers(figure, layer)
        np.testing.assert_allclose(table.value, result.r2.sel(layer=layer).mean("seed"))
        half = stats.t.ppf(0.995, 2) * stats.sem(result.r2.sel(layer=layer).values, axis=0)
        np.testing.assert_allclose(table.upper - table.r2, half)


def test_the_legend_says_what_its_lines_are():
    for figure, name in (
        (plot.top_k(top_units(), show="r2"), "layer"),
        (plot.feature_importance(importances()).last, "feature"),
    ):
        page = hv.render(figure, backend="bokeh")
        assert [legend.title for legend in page.legend] == [name]


def test_top_k_has_plain_ticks():
    for log in (False, True):
        figure = plot.top_k(top_units(), show="r2", log=log)
        for backend in ("bokeh", "matplotlib"):
            ticks = hv.Store.lookup_options(backend, figure, "plot").kwargs["xticks"]
            assert ticks == [(1, "1"), (8, "8"), (55, "55"), (384, "384")]
        (axis,) = hv.render(figure, backend="matplotlib").axes
        assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "8", "55", "384"]
        assert len(axis.xaxis.get_minorticklocs()) == 0


@pytest.mark.parametrize(("show", "best"), [("r2", "idxmax"), ("mse", "idxmin")])
def test_top_k_marks_the_best_k_of_every_line_and_its_value(show, best):
    result = top_units().rename(r2=show)
    figure = plot.top_k(result, show=show)
    means = result[show].mean("seed")
    expected = getattr(means, best)("k")
    stars = figure.Best.I.dframe().set_index("layer")
    for layer in (1, 2):
        k = int(expected.sel(layer=layer))
        assert stars.loc[str(layer), "k"] == k
        value = float(means.sel(layer=layer, k=k))
        assert stars.loc[str(layer), "value"] == pytest.approx(value)
        words = [e.dframe().text for e in figure.traverse(lambda e: e, [hv.Labels])]
        assert f"{k}: {value:.3g}" in [text for part in words for text in part]
    for labels in figure.traverse(lambda e: e, [hv.Labels]):
        for label in labels.dframe().itertuples():
            k = int(label.text.split(":")[0])
            assert label.k < k if labels.group == "Left" else label.k > k


def test_many_lines_have_marks_without_words():
    result = top_units().isel(layer=[0] * 9).assign_coords(layer=range(9))
    figure = plot.top_k(result, show="r2")
    assert len(figure.Best.I) == 9
    assert not figure.traverse(lambda e: e, [hv.Labels])


def steps(*labels):
    rng = np.random.default_rng(0)
    values = rng.uniform(1e-3, 1e-1, (len(labels), 2, 3))
    return xr.Dataset(
        {"importance": (("step", "layer", "feature"), values)},
        coords={"step": list(labels), "layer": [1, 2], "feature": FEATURES[:3]},
    )


def test_steps_are_on_a_logarithmic_axis_with_the_final_one_at_the_end():
    result = steps(-1, 0, 1000, 10, 100)
    figure = plot.feature_importance(result, x="step", features=FEATURES[:3])
    assert [d.name for d in figure.kdims] == ["layer"]
    table = numbers(figure[1], "subj_NUM")
    assert table["at"].tolist() == ["0", "10", "100", "1,000", "final"]
    assert table.step[1:4].tolist() == [10, 100, 1000]
    assert 0 < table.step[0] < 10 and table.step[4] > 1000
    expected = result.importance.sel(layer=1, feature="subj_NUM", step=[0, 10, 100, 1000, -1])
    np.testing.assert_array_equal(table.value, expected)
    for backend in ("bokeh", "matplotlib"):
        options = hv.Store.lookup_options(backend, figure[1], "plot").kwargs
        assert [name for _, name in options["xticks"]] == table["at"].tolist()
        curve = hv.Store.lookup_options(backend, figure[1].Lines.I.last, "plot").kwargs
        assert curve["logx"]


def test_many_steps_have_few_ticks_and_those_at_the_ends():
    result = steps(0, *(2 ** np.arange(20)).tolist(), -1)
    figure = plot.feature_importance(result, x="step")
    ticks = hv.Store.lookup_options("bokeh", figure.last, "plot").kwargs["xticks"]
    assert 5 < len(ticks) <= 12
    assert (ticks[0][1], ticks[-1][1]) == ("0", "final")


def test_one_step_is_dots_and_final_ones_alone_have_an_axis():
    assert numbers(plot.feature_importance(steps(-1), x="step").last, "subj_NUM").row.tolist()
    table = numbers(plot.feature_importance(steps(0, -1), x="step").last, "subj_NUM")
    assert table["at"].tolist() == ["0", "final"]


def with_variance():
    result = importances(step=1)
    rng = np.random.default_rng(5)
    dims = ("model", "seed", "step", "pooling", "layer")
    variance = rng.uniform(0.01, 0.1, result.importance.shape[:-1])
    return result.assign(variance=(dims, variance), std_error=0.1 * result.importance)


def test_units_of_r2_are_importance_by_variance_of_the_target():
    result = with_variance()
    figure = plot.feature_importance(result, features=FEATURES, units="r2")
    expected = (result.importance / result.variance).mean("seed").squeeze("step")
    for (model, pooling), frame in figure.data.items():
        values = numbers(frame, "subj_GEN").value
        part = expected.sel(model=model, pooling=pooling, feature="subj_GEN")
        np.testing.assert_allclose(values, part)
    options = hv.Store.lookup_options("bokeh", figure.last, "plot").kwargs
    assert options["ylabel"] == "importance (drop of R²)"
    one = plot.feature_importance(result.isel(seed=0), units="r2", errorbar="se", top=6).last
    table = numbers(one, "subj_GEN")
    np.testing.assert_allclose(table.upper - table.value, 0.1 * table.value)


def areas():
    result = importances()
    rng = np.random.default_rng(4)
    return xr.Dataset(
        {"auc": (result.importance.dims, rng.uniform(0.5, 1, result.importance.shape))},
        coords=result.coords,
    )


def test_decoding_is_drawn_on_a_second_axis():
    result, auc = importances(), areas().isel(feature=slice(None, None, -1))
    figure = plot.feature_importance(result, features=FEATURES[:2], decoding=auc)
    frame = figure["mini", "final", "mean"]
    drawn = [o for o in frame.traverse(lambda o: o, [hv.NdOverlay]) if o.group == "Second"]
    expected = auc.auc.mean("seed").sel(model="mini", step=-1, pooling="mean", feature="subj_NUM")
    table = drawn[1]["subj_NUM"].dframe()
    np.testing.assert_allclose(table.value, expected)
    page = hv.render(frame, backend="bokeh")
    (second,) = page.right[:1] if hasattr(page.right[0], "ticker") else page.right[1:2]
    assert second.axis_label == "decoding (AUC)"
    ticks = np.array(second.ticker.ticks)
    names = np.array([float(second.major_label_overrides[tick]) for tick in ticks])
    # What the axis says of the height of a mark is the area.
    read = np.interp(np.log(table.importance), np.log(ticks), names)
    np.testing.assert_allclose(read, expected, atol=1e-6)
    (axis,) = hv.render(frame, backend="matplotlib").axes
    (child,) = axis.child_axes
    assert child.get_ylabel() == second.axis_label
    np.testing.assert_allclose(child.get_yticks(), ticks)


def test_the_looks_of_decoding_are_those_of_importance():
    figure = plot.feature_importance(
        importances(model=1, step=1, pooling=1),
        features=FEATURES[:3],
        decoding=areas().isel(model=[0], step=[0], pooling=[0]),
    )
    (axis,) = hv.render(figure, backend="matplotlib").axes
    dashed = [line.get_color() for line in axis.lines if line.get_linestyle() == "--"]
    solid = [line.get_color() for line in axis.lines if line.get_marker() not in ("None", "")]
    assert dashed == solid
    assert len(set(dashed)) == 3


def test_decoding_without_common_labels_is_refused():
    with pytest.raises(InputError, match="^decoding: none of its labels are those of the result"):
        plot.feature_importance(profile(), decoding=areas().assign_coords(layer=[7, 8, 9, 10]))
    with pytest.raises(InputError, match="^decoding: no variable 'auc'"):
        plot.feature_importance(profile(), decoding=profile())
    with pytest.raises(InputError, match="^decoding: it has the dimension 'model'"):
        plot.feature_importance(profile().isel(model=0, drop=True), decoding=areas())


def test_decoding_is_taken_at_the_one_label_of_the_importance():
    part = importances().sel(model="mini", step=-1, pooling="mean")
    figure = plot.feature_importance(part, features=["subj_NUM"], decoding=areas())
    drawn = [o for o in figure.traverse(lambda o: o, [hv.NdOverlay]) if o.group == "Second"]
    expected = areas().auc.mean("seed").sel(model="mini", step=-1, pooling="mean")
    values = drawn[1]["subj_NUM"].dframe().value
    np.testing.assert_allclose(values, expected.sel(feature="subj_NUM"))


def test_a_decoding_result_alone_is_drawn():
    result = areas()
    figure = plot.decoding(result, features=FEATURES)
    frame = figure["mini", "final", "mean"]
    expected = result.auc.mean("seed").sel(model="mini", step=-1, pooling="mean")
    for feature in FEATURES:
        values = numbers(frame, feature).value
        np.testing.assert_allclose(values, expected.sel(feature=feature))
    assert frame.traverse(lambda e: e.data, [hv.HLine]) == [0.5]
    with pytest.raises(InputError, match="^result: no variable 'auc'"):
        plot.decoding(profile())


def test_two_profiles_are_compared_on_one_axis_with_their_difference():
    result = importances(step=1)
    first, second = result.sel(model="bert"), result.sel(model="mini", layer=[2, 3, 4])
    figure = plot.compare(first, second, features=FEATURES)
    frames = [part["mean"] for part in figure]
    assert [frame.label.split(",")[0] for frame in frames] == ["bert", "mini", "bert − mini"]
    for feature in FEATURES:
        a, b = (
            r.importance.sel(pooling="mean", feature=feature, layer=[2, 3, 4]).mean("seed")
            for r in (first, second)
        )
        for frame, expected in zip(frames, (a, b, a - b), strict=True):
            table = numbers(frame, feature)
            assert table.layer.tolist() == [2, 3, 4]
            np.testing.assert_allclose(table.value, expected.values.ravel())
    limits = [hv.Store.lookup_options("bokeh", f, "plot").kwargs["ylim"] for f in frames]
    assert limits[0] == limits[1] != limits[2]
    paired = plot.compare(first, second, features=["subj_NUM"], errorbar="se")
    difference = (first.importance - second.importance).sel(feature="subj_NUM", pooling="mean")
    table = numbers(list(paired)[2]["mean"], "subj_NUM")
    np.testing.assert_allclose(
        table.upper - table.value, stats.sem(difference.values, axis=0).ravel()
    )


def test_what_cannot_be_compared_is_named():
    result = importances(step=1)
    first = result.sel(model="bert")
    with pytest.raises(InputError, match="^second: it has no labels in common"):
        plot.compare(first, result.sel(model="mini").assign_coords(layer=[7, 8, 9, 10]))
    with pytest.raises(InputError, match="^second: it has the dimensions"):
        plot.compare(first, result)
    with pytest.raises(InputError, match="^names: found 'a'; expected two"):
        plot.compare(first, first, names="a")
    with pytest.raises(InputError, match="^second: no variable 'importance'"):
        plot.compare(first, first.rename(importance="auc"))


def test_top_k_names_bad_input():
    with pytest.raises(InputError, match="^show: unknown value 'p'; known: 'importance', 'r2'"):
        plot.top_k(top_units(), show="p")
    with pytest.raises(InputError, match="no coordinate 'k'"):
        plot.top_k(profile())


@pytest.mark.parametrize(("show", "side"), [("r2", 1), ("mse", -1)])
def test_the_value_of_the_best_k_lies_where_no_line_comes_from(show, side):
    result = top_units().rename(r2=show).isel(layer=[0])
    (axis,) = hv.render(plot.top_k(result, show=show), backend="matplotlib").axes
    means = result[show].isel(layer=0).mean("seed")
    best = float(means.max() if side > 0 else means.min())
    (text,) = axis.texts
    box = text.get_window_extent()
    height = axis.transData.transform((1.0, best))[1]
    assert (box.y0 >= height - 1) if side > 0 else (box.y1 <= height + 1)


def test_the_words_of_a_mark_are_beside_it_toward_the_middle_and_not_on_another():
    result = top_units().isel(layer=[0] * 4).assign_coords(layer=range(4))
    result["r2"][:] = 0.5
    for layer, k in enumerate([1, 8, 384, 384]):
        result["r2"].loc[{"layer": layer, "k": k}] = 0.9
    figure = plot.top_k(result, show="r2")
    frames = figure.traverse(lambda e: e.dframe(), [hv.Labels])
    words = pd.concat([frame for frame in frames if len(frame)]).sort_values(["k", "r2"])
    assert words.text.tolist() == ["1: 0.9", "8: 0.9", "384: 0.9", "384: 0.9"]
    shift = words.k.to_numpy() / [1, 8, 384, 384]
    assert (shift[:2] > 1).all() and (shift[2:] < 1).all()
    assert (np.abs(np.log(shift)) < 0.05 * np.log(384)).all()
    assert np.diff(words.r2)[-1] > 0.02


def test_the_axis_of_decoding_ends_where_what_is_drawn_ends():
    result = areas().isel(model=[0], step=[0], pooling=[0])
    result["auc"][:] = 0.9
    result["auc"].loc[{"feature": "verb_ZIPF"}] = 0.1

    def limits(**options):
        figure = plot.decoding(result, **options)
        return hv.Store.lookup_options("bokeh", figure, "plot").kwargs["ylim"]

    low, high = limits(features=["subj_NUM"])
    assert 0.1 < low < 0.9 < high
    assert limits(features=["subj_NUM", "verb_ZIPF"])[0] < 0.1
