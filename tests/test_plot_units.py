import holoviews as hv
import numpy as np
import pytest
import xarray as xr

from mlem_xr import plot
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
    with pytest.raises(InputError, match="cluster: its coordinates are not those of univariate"):
        plot.clusters(scan(), groups().assign_coords(layer=[1, 3]))
    with pytest.raises(InputError, match="cluster: no unit belongs"):
        plot.clusters(scan(), groups() * 0 - 1)
    with pytest.raises(InputError, match="cluster: expected a DataArray with a dimension 'unit'"):
        plot.clusters(scan(), groups().isel(unit=0))
    with pytest.raises(InputError, match="univariate: 'importance' has no dimension 'unit'"):
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
    with pytest.raises(InputError, match="top_units: no coordinate 'k'"):
        plot.unit_distribution(result, top_units=together)
    with pytest.raises(InputError, match="multivariate: none of its labels"):
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
    with pytest.raises(InputError, match="features: unknown value 'person'"):
        plot.unit_distribution(result, features=["person"])
    with pytest.raises(InputError, match="univariate: 'r2' has no dimension 'unit'"):
        plot.unit_distribution(result.isel(unit=0), show="r2")


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
    with pytest.raises(InputError, match="univariate: 'importance' has no dimension 'unit'"):
        plot.unit_map(scan().isel(unit=0))
    with pytest.raises(InputError, match="columns: found 0"):
        plot.unit_map(scan(), columns=0)
    with pytest.raises(InputError, match="show: unknown value 'auc'"):
        plot.unit_map(scan(), show="auc")
