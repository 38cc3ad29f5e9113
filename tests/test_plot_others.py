import holoviews as hv
import numpy as np
import pytest
import xarray as xr

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
    assert texts[1, 0] == "0.25"
    assert texts[2, 0] == "-0.60"
    assert texts[2, 1] == "–"
    assert len(texts) == 9
    assert sorted(dark.text) == ["-0.60", "-0.60", "1.00", "1.00", "1.00"]


def test_correlation_has_a_symmetric_diverging_scale_and_named_axes():
    figure = plot.correlation(matrix())
    for backend in ("bokeh", "matplotlib"):
        cells = hv.Store.lookup_options(backend, figure.Rectangles.I, "plot").kwargs
        assert cells["clim"] == (-1, 1)
        axes = hv.Store.lookup_options(backend, figure, "plot").kwargs
        assert axes["xticks"] == axes["yticks"] == list(enumerate(FEATURES))
        assert axes["invert_yaxis"]


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
    with pytest.raises(InputError, match=f"correlations: .*{message}"):
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
def test_clusters_draws_the_mean_over_the_units_of_each_cluster(cluster):
    result = scan()
    figure = plot.clusters(result.chunk({"unit": 5}), cluster)
    assert sorted(figure.keys()) == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
    sizes = {(1, 0): 4, (1, 1): 5, (1, 2): 3, (2, 0): 9, (2, 1): 1}
    for (layer, number), size in sizes.items():
        bars = figure[layer, number]
        units = groups().sel(layer=layer).values == number
        expected = result.importance.sel(layer=layer).values[units].mean(axis=0)
        assert bars.dframe().feature.tolist() == FEATURES
        np.testing.assert_allclose(bars.dframe().importance, expected)
        assert bars.label == f"bert, {size} of {12 if layer == 1 else 10} units"


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
    assert list(figure.keys()) == ["gender", "tense"]
    for feature in ("gender", "tense"):
        table = figure[feature].dframe()
        for layer, size in ((1, 12), (2, 8)):
            values = table.importance[table.layer == str(layer)]
            expected = result.importance.sel(layer=layer, feature=feature).values[:size]
            np.testing.assert_array_equal(values, expected)


def test_unit_distribution_puts_zero_and_less_at_the_end_of_a_logarithmic_axis():
    result = scan()
    result.importance[0, :3] = [[0.0], [-1e-3], [1e-20]]
    table = plot.unit_distribution(result, features=["tense"]).dframe()
    largest = float(result.importance.sel(feature="tense").max())
    lowest = table.importance[:3]
    assert lowest.nunique() == 1
    assert largest / 1e7 < lowest[0] < largest / 1e6
    linear = plot.unit_distribution(result, features=["tense"], log=False).dframe()
    assert linear.importance[1] == -1e-3


def test_unit_distribution_draws_scores_and_selects_features():
    result = scan()
    table = plot.unit_distribution(result, show="r2").dframe()
    np.testing.assert_array_equal(table.r2, result.r2.values.ravel())
    order = np.argsort(-result.importance.max(["layer", "unit"]).values)
    figure = plot.unit_distribution(result, top=2)
    assert list(figure.keys()) == [FEATURES[i] for i in order[:2]]
    with pytest.raises(InputError, match="features: unknown value 'person'"):
        plot.unit_distribution(result, features=["person"])
    with pytest.raises(InputError, match="univariate: 'r2' has no dimension 'unit'"):
        plot.unit_distribution(result.isel(unit=0), show="r2")
