import holoviews as hv
import numpy as np
import pytest
import xarray as xr

import mlem_xr as mx
from mlem_xr import plot
from mlem_xr.plot import grid
from mlem_xr.plot.looks import COLORS
from mlem_xr.schema import InputError

FEATURES = ["tense", "number", "gender"]


def scan() -> xr.Dataset:
    rng = np.random.default_rng(0)
    return xr.Dataset(
        {
            "importance": (("layer", "unit", "feature"), 10 ** rng.uniform(-6, -1, (2, 12, 3))),
            "r2": (("layer", "unit"), rng.uniform(-0.1, 0.5, (2, 12))),
        },
        coords={"layer": [1, 2], "feature": FEATURES, "model": "bert"},
    )


def groups() -> xr.DataArray:
    numbers = np.array([[0] * 4 + [1] * 5 + [2] * 3, [0] * 10 + [1, -1]], dtype=float)
    numbers[1, 0] = np.nan
    return xr.DataArray(numbers, dims=("layer", "unit"), coords={"layer": [1, 2]}, name="cluster")


@pytest.mark.parametrize("cluster", [groups(), groups().to_dataset(), groups().chunk()])
def test_clusters_draws_mean_and_quartiles_over_the_units_of_each_cluster(cluster):
    result = scan()
    figure = plot.clusters(result.chunk({"unit": 5}), cluster)
    sizes = {(1, 0): 4, (1, 1): 5, (1, 2): 3, (2, 0): 9, (2, 1): 1}
    assert sorted(figure.keys()) == [*sizes, (2, 2)]
    assert figure[2, 2].label.endswith("no such cluster")
    for (layer, number), size in sizes.items():
        frame = figure[layer, number]
        units = groups().sel(layer=layer).values == number
        values = result.importance.sel(layer=layer).values[units]
        for i, feature in enumerate(FEATURES):
            (row,) = frame.Points.I[feature].dframe().itertuples()
            np.testing.assert_allclose(row.value, values[:, i].mean())
            np.testing.assert_allclose(
                [row.lower, row.upper], np.quantile(values[:, i], [0.25, 0.75])
            )
        total = 12 if layer == 1 else 10
        assert frame.label == f"bert, {size} of {total} units, mean and quartiles"


def test_clusters_lie_on_one_scale():
    figure = plot.clusters(scan(), groups())
    limits = [
        hv.Store.lookup_options(backend, frame, "plot").kwargs["xlim"]
        for frame in figure
        for backend in ("bokeh", "matplotlib")
    ]
    assert len(set(limits)) == 1
    low, high = limits[0]
    drawn = [p.dframe() for f in figure for p in f.traverse(lambda e: e, [hv.Points])]
    values = np.concatenate([table.importance for table in drawn])
    assert low < values.min() < values.max() < high


def test_clusters_names_bad_input():
    with pytest.raises(InputError, match="^cluster: its coordinates are not those of univariate"):
        plot.clusters(scan(), groups().assign_coords(layer=[1, 3]))
    with pytest.raises(InputError, match="^cluster: no unit belongs"):
        plot.clusters(scan(), groups() * 0 - 1)
    with pytest.raises(InputError, match="^cluster: expected a DataArray with a dimension 'unit'"):
        plot.clusters(scan(), groups().isel(unit=0))
    with pytest.raises(InputError, match="^univariate: 'importance' has no dimension 'unit'"):
        plot.clusters(scan().isel(unit=0), groups())


def test_unit_distribution_holds_every_unit_of_every_layer():
    result = scan()
    result.importance[1, 8:] = np.nan
    figure = plot.unit_distribution(result, features=["gender", "tense"])
    assert isinstance(figure, hv.Overlay)
    for feature in ("gender", "tense"):
        boxes = figure.Boxes.I[feature].dframe()
        for layer, n in ((1, 12), (2, 8)):
            (box,) = boxes[boxes["at"] == str(layer)].itertuples()
            values = result.importance.sel(layer=layer, feature=feature).values[:n]
            quartiles = np.percentile(values, [25, 50, 75])
            np.testing.assert_allclose([box.lower, box.median, box.upper], quartiles)
            reach = 1.5 * (quartiles[2] - quartiles[0])
            outside = (values > quartiles[2] + reach) | (values < quartiles[0] - reach)
            assert (box.units, box.beyond, box.at_foot) == (n, outside.sum(), 0)


def test_features_stand_side_by_side_around_their_layer():
    figure = plot.unit_distribution(scan(), features=FEATURES)
    edges = [figure.Boxes.I[feature].dframe() for feature in FEATURES]
    for row in range(2):
        for one, next_ in zip(edges, edges[1:], strict=False):
            assert one.right[row] < next_.left[row]
        middle = (edges[0].left[row] + edges[-1].right[row]) / 2
        assert middle == pytest.approx(row + 1)


def test_a_box_that_falls_through_the_floor_is_marked_with_its_share():
    result = scan()
    result.importance[0, :, 0] = [0.0] * 6 + [-1e-3] * 3 + [1e-2] * 3
    figure = plot.unit_distribution(result, features=["tense", "number"])
    lowest = hv.Store.lookup_options("bokeh", figure, "plot").kwargs["ylim"][0]
    (mark,) = figure.Foot.I["tense"].dframe().itertuples()
    assert mark.at == "1"
    assert mark.at_foot == pytest.approx(75)
    assert lowest < mark.importance < 1.5 * lowest
    (box,) = figure.Boxes.I["tense"].dframe().iloc[[0]].itertuples()
    assert box.lower == mark.importance
    assert box.median == 0
    assert len(figure.Foot.I["number"]) == 0
    linear = plot.unit_distribution(result, features=["tense"], log=False)
    assert len(linear.Foot.I["tense"]) == 0


def test_units_beyond_the_whiskers_are_counted_and_the_outermost_drawn():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.uniform(1, 2, 200), rng.uniform(10, 20, 30)])
    result = xr.Dataset({"r2": (("layer", "unit"), values[np.newaxis])}, {"layer": [3]})
    figure = plot.unit_distribution(result, show="r2")
    (box,) = figure.Boxes.I["units"].dframe().itertuples()
    assert box.beyond == 30
    drawn = figure.Outliers.I["units"].dframe().r2.values
    np.testing.assert_array_equal(np.sort(drawn)[-10:], np.sort(values)[-10:])
    assert figure.Counts.I["units"].dframe().text.tolist() == ["30"]


@pytest.mark.parametrize(("more", "n_beyond"), [(0, 0), (1e-9, 2)])
def test_whiskers_reach_to_one_and_a_half_times_the_box(more, n_beyond):
    values = np.array([[-4 - more, 1, 2, 3, 4, 5, 6, 7, 12 + more]])
    result = xr.Dataset({"r2": (("layer", "unit"), values)}, {"layer": [3]})
    figure = plot.unit_distribution(result, show="r2")
    (box,) = figure.Boxes.I["units"].dframe().itertuples()
    assert (box.lower, box.median, box.upper) == (2, 4, 6)
    assert box.beyond == n_beyond == len(figure.Outliers.I["units"])
    ends = figure.Whiskers.I["units"].dframe().iloc[:, [1, 3]].to_numpy()
    assert (ends.min(), ends.max()) == ((1, 7) if n_beyond else (-4, 12))


def test_lines_of_all_and_of_the_best_units_go_through_the_boxes():
    result = scan()
    together = result.importance.max("unit").to_dataset() * 2
    best = together.expand_dims(k=[1, 8]) * xr.DataArray([3, 1], dims="k")
    figure = plot.unit_distribution(
        result, features=FEATURES, multivariate=together, top_units=best
    )
    for feature in FEATURES:
        boxes = figure.Boxes.I[feature].dframe()
        for name, factor in (("Multivariate", 1), ("TopUnits", 3)):
            line = getattr(figure, name).I[feature].dframe()
            np.testing.assert_allclose(line.layer, (boxes.left + boxes.right) / 2)
            expected = factor * together.importance.sel(feature=feature)
            np.testing.assert_allclose(line.importance, expected)
    assert "line: all units, dashed: best k units" in figure.label
    with pytest.raises(InputError, match="^top_units: no coordinate 'k'"):
        plot.unit_distribution(result, top_units=together)
    with pytest.raises(InputError, match="^multivariate: none of its labels"):
        plot.unit_distribution(result, multivariate=together.assign_coords(layer=[8, 9]))


def test_boxes_have_the_colors_of_their_features():
    result = scan().assign_attrs(features=FEATURES)
    figure = plot.unit_distribution(result, features=["gender", "number"])
    for backend, color in (("bokeh", "fill_color"), ("matplotlib", "facecolor")):
        options = hv.Store.lookup_options(backend, figure.Boxes.I["gender"], "style").kwargs
        assert options[color].values == [COLORS[2], COLORS[1]]


def test_unit_distribution_draws_scores_and_selects_features():
    result = scan()
    boxes = plot.unit_distribution(result, show="r2").Boxes.I["units"].dframe()
    np.testing.assert_allclose(boxes["median"], result.r2.median("unit"))
    figure = plot.unit_distribution(result, top=2)
    assert len(figure.Boxes.I) == 2
    assert "top 2 of 3 features" in figure.label
    with pytest.raises(InputError, match="^features: unknown value 'person'"):
        plot.unit_distribution(result, features=["person"])
    with pytest.raises(InputError, match="^univariate: 'r2' has no dimension 'unit'"):
        plot.unit_distribution(result.isel(unit=0), show="r2")


def test_a_feature_without_values_in_one_frame_leaves_its_place_empty():
    result = xr.concat([scan(), scan()], xr.Variable("pooling", ["first-token", "mean"]))
    result["importance"] = result.importance.where(
        (result.pooling == "mean") | (result.feature != "tense")
    )
    frames = plot.unit_distribution(result, features=["tense", "number"])
    rows = [len(frame.Boxes.I["tense"].dframe()) for frame in frames]
    assert rows == [0, result.sizes["layer"]]


def test_unit_map_shows_every_unit_of_every_layer():
    result = scan()
    result.importance[1, 9:] = np.nan
    figure = plot.unit_map(result, features=["gender"], log=False)
    drawn = figure.dimension_values("importance", flat=False)
    expected = result.importance.sel(feature="gender").transpose("layer", "unit")
    np.testing.assert_array_equal(drawn, expected)
    for backend in ("bokeh", "matplotlib"):
        options = hv.Store.lookup_options(backend, figure, "plot").kwargs
        assert options["yticks"] == [(0, "1"), (1, "2")]
        assert options["invert_yaxis"]
        assert options["clim"] == (expected.min(), expected.max())
    p_values = result[["importance"]].rename(importance="p_value")
    for drawn in (figure, plot.unit_map(result, features=["gender"], significant=p_values)):
        image = hv.render(drawn, backend="matplotlib")
        assert image.get_size_inches().tolist() == [7.0, 2.72]
        assert image.axes[0].get_aspect() == "auto"


def test_unit_maps_of_several_features_are_on_one_scale_of_colors():
    result = scan()
    result.importance[0, 0, 0] = -1.0
    figure = plot.unit_map(result, features=FEATURES)
    assert list(figure.keys()) == FEATURES
    ends = {hv.Store.lookup_options("bokeh", frame, "plot").kwargs["clim"] for frame in figure}
    assert len(ends) == 1
    low, high = ends.pop()
    assert high == pytest.approx(float(result.importance.max()))
    assert figure["tense"].dimension_values("importance", flat=False)[0, 0] == low


def test_a_wide_unit_map_shows_the_largest_of_neighbors():
    rng = np.random.default_rng(0)
    values = rng.uniform(size=(2, 2500))
    result = xr.Dataset({"r2": (("layer", "unit"), values)}, {"layer": [1, 2]})
    figure = plot.unit_map(result, show="r2", columns=1000)
    drawn = figure.dimension_values("r2", flat=False)
    assert drawn.shape == (2, 834)
    np.testing.assert_array_equal(drawn[:, :833], values[:, :2499].reshape(2, 833, 3).max(2))
    assert "largest of 3 neighbors" in figure.label


@pytest.mark.parametrize("n_units", [12, 768])
def test_a_page_has_a_pixel_for_every_unit_of_a_map(n_units):
    values = xr.DataArray(np.ones((2, n_units, 1)), dims=("layer", "unit", "feature"))
    result = xr.Dataset({"importance": values, "p_value": values / 100}).assign_coords(
        layer=[1, 2], unit=range(n_units), feature=["tense"]
    )
    for figure in (plot.unit_map(result), plot.unit_map(result, significant=result)):
        width = hv.render(figure, backend="bokeh").width
        assert width == max(760, n_units + 200)


def test_units_of_concatenated_layers_go_back_to_their_layers():
    values = np.arange(12.0)
    result = xr.Dataset(
        {"r2": ("unit", values)},
        coords={
            "unit_layer": ("unit", np.repeat([1, 2, 3], 4)),
            "unit_number": ("unit", np.tile(range(4), 3)),
        },
    )
    drawn = plot.unit_map(result, show="r2").dimension_values("r2", flat=False)
    np.testing.assert_array_equal(drawn, values.reshape(3, 4))


def test_unit_map_names_bad_input():
    with pytest.raises(InputError, match="^univariate: 'importance' has no dimension 'unit'"):
        plot.unit_map(scan().isel(unit=0))
    with pytest.raises(InputError, match="^columns: found 0"):
        plot.unit_map(scan(), columns=0)
    with pytest.raises(InputError, match="^show: unknown value 'auc'"):
        plot.unit_map(scan(), show="auc")


def p_values_of_units() -> xr.Dataset:
    """Return what a randomization test of the units of `scan` returns: a third are significant."""
    flat = np.random.default_rng(1).permutation(np.linspace(0.01, 0.145, 72))
    result = scan()
    dims = result.importance.dims
    p_value = xr.DataArray(flat.reshape(2, 12, 3), dims=dims, coords=result.coords)
    return xr.Dataset(
        {"p_value": p_value / 2, "p_value_max": p_value},
        attrs={"analysis": "randomization_test", "settings": {"per": "unit", "n_draws": 999}},
    )


def veil(frame):
    return frame.Significant.I.dimension_values("significant", flat=False)


def test_a_map_is_pale_where_units_are_not_significant_and_counts_those_that_are():
    result, test = scan(), p_values_of_units()
    result.importance[1, 9:] = np.nan
    figure = plot.unit_map(result, features=FEATURES, significant=test)
    plain = plot.unit_map(result, features=FEATURES)
    words = "full color: p < 0.05 family-wise by randomization"
    for feature in FEATURES:
        frame = figure[feature]
        there = result.importance.sel(feature=feature).notnull().values
        expected = (test.p_value_max.sel(feature=feature) < 0.05).values
        np.testing.assert_array_equal(veil(frame), np.where(there, expected, np.nan))
        drawn = frame.Units.I.dimension_values("importance", flat=False)
        shown = plain[feature].dimension_values("importance", flat=False)
        np.testing.assert_array_equal(drawn, shown)
        count = (expected & there).sum()
        assert 0 < count < 21
        assert frame.label == f"bert, {words}, {count} of 21 units"


@pytest.mark.parametrize(
    ("attrs", "variables", "words"),
    [
        ({}, ["p_value"], "of p_value"),
        ({}, ["p_value_max", "p_value"], "family-wise"),
        ({"analysis": "correct_p_values"}, ["p_value"], "corrected"),
        ({"analysis": "randomization_test"}, ["p_value"], "uncorrected by randomization"),
        (
            {"analysis": "univariate_importance", "settings": {"folds": "pairs"}},
            ["p_value"],
            "uncorrected over pairs as if independent",
        ),
    ],
)
def test_the_title_says_which_p_values_mark_units(attrs, variables, words):
    test = (
        p_values_of_units()[variables].assign_attrs(attrs)
        if attrs
        else p_values_of_units()[variables].drop_attrs()
    )
    if "settings" not in attrs:
        test.attrs.pop("settings", None)
    figure = plot.unit_distribution(scan(), significant=test, alpha=0.1)
    assert f"units with p < 0.1 {words}" in figure.label
    boxes = figure.Boxes.I["gender"].dframe()
    count = (test[variables[0]].sel(feature="gender") < 0.1).sum("unit")
    assert boxes.significant.tolist() == count.values.tolist()


@pytest.mark.parametrize(("method", "words"), [("fdr", "FDR"), ("holm-sidak", "Holm-Sidak")])
def test_corrected_p_values_go_before_family_wise_ones(method, words):
    corrected = mx.correct_p_values(p_values_of_units(), method=method)
    assert "p_value_max" in corrected
    figure = plot.unit_map(scan(), features=["tense"], significant=corrected, alpha=0.06)
    expected = corrected.p_value.sel(feature="tense").transpose("layer", "unit") < 0.06
    np.testing.assert_array_equal(veil(figure), expected)
    assert f"p < 0.06 {words} by randomization" in figure.label


def test_the_distribution_has_a_tick_and_a_count_for_significant_units():
    result, test = scan(), p_values_of_units()
    figure = plot.unit_distribution(result, features=FEATURES, significant=test)
    assert "ticks and numbers: units with p < 0.05 family-wise by randomization" in figure.label
    for feature in FEATURES:
        mask = (test.p_value_max.sel(feature=feature) < 0.05).values
        heights = figure.Significant.I[feature].dframe()
        expected = result.importance.sel(feature=feature).values[mask]
        np.testing.assert_allclose(np.sort(heights.importance), np.sort(expected))
        boxes = figure.Boxes.I[feature].dframe()
        assert boxes.significant.tolist() == mask.sum(axis=1).tolist()
        counts = figure.Counts.I[feature].dframe().text.tolist()
        assert counts == [str(n) for n in mask.sum(axis=1)]
        assert (heights.layer.min() > boxes.left.min()).all()


def test_p_values_belong_to_units_by_their_labels():
    result, test = (
        scan().assign_coords(unit=range(12)),
        p_values_of_units().assign_coords(unit=range(12)),
    )
    expected = veil(plot.unit_map(result, features=["gender"], significant=test))
    shuffled = test.isel(unit=slice(None, None, -1), layer=[1, 0], feature=[2, 0, 1]).transpose()
    found = plot.unit_map(result, features=["gender"], significant=shuffled.chunk())
    np.testing.assert_array_equal(veil(found), expected)
    more = xr.concat([test, test.assign_coords(layer=[7, 8])], "layer")
    # Of one model, as the result is, and of one seed, of which the result says nothing.
    more = more.expand_dims(model=["bert"], seed=[0])
    found = plot.unit_map(result, features=["gender"], significant=more)
    np.testing.assert_array_equal(veil(found), expected)


def test_units_of_concatenated_layers_find_their_p_values():
    layers = {
        "unit_layer": ("unit", np.repeat([1, 2], 12)),
        "unit_number": ("unit", np.tile(range(12), 2)),
    }
    dims = ("unit", "feature")
    whole = xr.Dataset(
        {"importance": (dims, scan().importance.values.reshape(24, 3))},
        coords={"feature": FEATURES, **layers},
    )
    test = xr.Dataset(
        {"p_value": (dims, p_values_of_units().p_value_max.values.reshape(24, 3))},
        coords=whole.coords,
    )
    drawn = plot.unit_map(
        whole, features=["tense"], significant=test.isel(unit=slice(None, None, -1))
    )
    np.testing.assert_array_equal(
        veil(drawn), p_values_of_units().p_value_max.sel(feature="tense") < 0.05
    )
    with pytest.raises(InputError, match=r"^significant: no p-values for unit \(2, 0\)"):
        plot.unit_map(whole, significant=test.isel(unit=slice(12)))


def test_a_wide_map_is_in_full_color_where_one_of_the_neighbors_is_significant():
    values = np.arange(1.0, 9.0)[:, np.newaxis]
    result = xr.Dataset({"importance": (("unit", "feature"), values)}, {"feature": ["tense"]})
    p_values = np.array([1, 0.01, 1, 1, 0.01, 0.01, 1, 1])[:, np.newaxis]
    test = xr.Dataset({"p_value": (("unit", "feature"), p_values)}, {"feature": ["tense"]})
    figure = plot.unit_map(result, columns=4, significant=test)
    assert veil(figure).tolist() == [[1, 0, 1, 0]]
    assert "3 of 8 units" in figure.label


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("extension", ["png", "html"])
@pytest.mark.parametrize("draw", [plot.unit_map, plot.unit_distribution])
@pytest.mark.parametrize("alpha", [1e-6, 0.9])
def test_figures_with_none_or_all_units_significant_are_saved(tmp_path, extension, draw, alpha):
    figure = draw(scan().isel(layer=[0]), top=2, significant=p_values_of_units(), alpha=alpha)
    path = tmp_path / f"units.{extension}"
    plot.save(figure, path)
    assert path.stat().st_size > 5000


@pytest.mark.parametrize("draw", [plot.unit_map, plot.unit_distribution])
def test_p_values_that_cannot_mark_units_are_named(draw):
    result, test = scan(), p_values_of_units()
    for significant, message in (
        (test[["p_value"]].isel(unit=0), "'p_value' has no dimension 'unit'"),
        (
            test.rename(p_value="p", p_value_max="q"),
            "no variable p_value_max or p_value; found: 'p",
        ),
        (test.sel(layer=[1]), "no p-values for layer 2; expected those of all that is drawn"),
        (test.isel(layer=0), "no p-values for layer 2"),
        (test.isel(layer=0, drop=True), "no dimension 'layer', of which several are drawn"),
        (test.isel(unit=slice(10)), "no p-values for unit 10, 11"),
        (test.sel(feature=["tense"]), "no p-values for feature 'number', 'gender'"),
        (test.assign_coords(model="mini"), "no p-values for model 'bert'"),
        (test.expand_dims(k=2), "it has the dimensions 'k'; select one of each"),
        (test.expand_dims(seed=2), "it has the dimension 'seed'; select one"),
        (test + 1, "'p_value_max' holds values below 0 or above 1"),
        (test.where(test.layer == 1), r"'p_value_max' is NaN where .* \(layer 2, unit 0, feature"),
    ):
        with pytest.raises(InputError, match=f"^significant: {message}"):
            draw(result, features=FEATURES, significant=significant)
    with pytest.raises(InputError, match="^significant: .* expected show='importance'"):
        draw(result, show="r2", significant=test)
    for alpha in (0, 1, -0.1, True, "0.05", float("nan")):
        with pytest.raises(InputError, match="^alpha: found .*; expected a number between 0 and 1"):
            draw(result, alpha=alpha)


@pytest.mark.parametrize("log", [True, False])
def test_numbers_above_the_highest_units_are_not_cut(log):
    result = scan()
    result.importance[0, 0] = 1e-9
    made = grid.drawn(grid.cells_of(plot.unit_distribution(result, log=log)), width=120)
    made.draw_without_rendering()
    for axis in made.axes:
        top = axis.get_window_extent().y1
        heights = [text.get_window_extent().y1 for text in axis.texts]
        assert heights
        assert max(heights) < top


def test_importances_of_zero_alone_are_on_a_linear_axis():
    result = scan()
    result.importance[:] = 0.0
    figure = plot.unit_distribution(result, features=["tense"])
    options = hv.Store.lookup_options("bokeh", figure, "plot").kwargs
    assert not options.get("logy") and options["ylim"][0] < 0 < options["ylim"][1]
