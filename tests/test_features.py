"""Features that are numbers and points: from the table to importances."""

import warnings
from dataclasses import replace
from itertools import combinations

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import mlem_xr as mx
import plain
from helpers import N, layers, write
from mlem_xr.cli.options import read_stimuli as read_with_options
from mlem_xr.kernels import design, patterns
from mlem_xr.kernels.draws import items_of
from mlem_xr.kernels.randomization import randomization_design
from mlem_xr.schema import InputError
from mlem_xr.stimuli.pairs import features_in
from mlem_xr.stimuli.table import from_dataframe

KINDS = {
    "tense": "categorical",
    "length": "numeric",
    "zipf": "numeric",
    "place": "vector",
    "number": "categorical",
}


def table_of(n=40, seed=0, *, few=False):
    """Sentences with features of all kinds and undefined values; `few` distances or many."""
    rng = np.random.default_rng(seed)
    zipf = rng.integers(0, 4, n) / 3 if few else rng.normal(size=n)
    place = rng.integers(0, 2, (n, 2)) * 1.0 if few else rng.normal(size=(n, 2))
    zipf[rng.choice(n, 3, replace=False)] = np.nan
    place[rng.choice(n, 2, replace=False), 1] = np.nan
    tense = rng.choice(["past", "present", None], n)
    return pd.DataFrame(
        {
            "sentence": [f"sentence {i}" for i in range(n)],
            "tense": tense,
            "length": rng.integers(3, 7, n),
            "zipf": zipf,
            "place_x": place[:, 0],
            "place_y": place[:, 1],
            "number": rng.choice(["sg", "pl"], n),
        }
    )


def stimuli_of(table):
    return mx.read_stimuli(table, numeric=["length", "zipf"], vector={"place": "place_*"})


def columns_of(table):
    points = table[["place_x", "place_y"]].to_numpy()
    values = {name: table[name].to_numpy() for name in ("tense", "number")}
    values |= {name: table[[name]].to_numpy(float) for name in ("length", "zipf")}
    return [(values | {"place": points})[name] for name in KINDS]


def distances_of(table):
    return plain.distances_of_kinds(columns_of(table), list(KINDS.values()))


def data_of(table, *, n_units=4, seed=1):
    """Activations that carry the numbers, the points and a category."""
    rng = np.random.default_rng(seed)
    units = rng.normal(size=(len(table), n_units))
    units[:, 0] += 2 * table["zipf"].fillna(0)
    units[:, 1] += 2 * table["place_x"].fillna(0)
    units[:, 2] += 2.0 * (table["number"] == "pl")
    return stimuli_of(table).assign(activation=(("sentence", "unit"), units))


@pytest.mark.parametrize("few", [True, False])
def test_feature_distances_of_all_kinds_are_those_of_the_plain_loop(few):
    table = table_of(few=few)
    stimuli = stimuli_of(table)
    assert stimuli.attrs["features"] == list(KINDS)
    found = mx.feature_distances(stimuli)
    assert found["feature"].values.tolist() == list(KINDS)
    expected = distances_of(table)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        mx.feature_correlation(stimuli), np.corrcoef(expected.T), rtol=1e-9, atol=1e-12
    )
    assert mx.feature_distances(stimuli, features=["tense"]).dtype == np.uint8


@pytest.mark.parametrize("few", [True, False])
def test_patterns_of_numbers_are_the_distinct_rows(few):
    table = table_of(few=few)
    found = patterns.pair_patterns(features_in(stimuli_of(table)))
    assert found is not None
    pattern, index = found
    np.testing.assert_allclose(pattern[index], distances_of(table), rtol=1e-11, atol=1e-11)
    assert len(np.unique(pattern, axis=0)) == len(pattern)


OPTIONS = [
    {"mae": True},
    {"min_max": False, "zscore": True},
    {"distance": "cosine"},
    {"folds": "sentences", "mae": True},
    {"folds": "sentences", "min_max": True, "distance": "manhattan", "target": "none"},
    {"scale": "squared"},
    {"scale": "squared", "folds": "sentences"},
]


def expected_of(table, units, options):
    own = {"distance": "euclidean", "zscore": False, "target": "square", "folds": "pairs"} | options
    x = distances_of(table)
    if own.get("scale") == "squared":
        x = x**2
    min_max = own.get("min_max", own["folds"] == "pairs")
    y = plain.target(units, own["distance"], min_max=min_max, zscore=own["zscore"])
    y = y if own["target"] == "square" else np.sqrt(y)
    over_sentences = own["folds"] == "sentences"
    splits = (
        plain.sentence_splits(len(units), 0) if over_sentences else plain.pair_splits(len(y), 0)
    )
    found = plain.explain(x, y, splits, sentences=over_sentences)
    return found if own.get("mae") else {k: v for k, v in found.items() if k != "mae"}


def check(result, expected):
    assert set(result.data_vars) == set(expected)
    for name, value in expected.items():
        scale = np.max(np.abs(value))
        np.testing.assert_allclose(
            result[name].values, value, rtol=2e-4, atol=2e-4 * scale, err_msg=name
        )


@pytest.fixture(params=["patterns", "pairs"])
def road(request, monkeypatch):
    """Take either road: with few distances, both lead to the same."""
    most = {"patterns": 10**6, "pairs": 0}[request.param]
    for module in ("patterns", "explain_patterns"):
        monkeypatch.setattr(f"mlem_xr.kernels.{module}.worthwhile", lambda n: most)
    return request.param


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_importances_of_all_kinds_are_those_of_the_plain_loop(options, road):
    table = table_of()
    data = data_of(table)
    result = mx.multivariate_importance(data, **options)
    check(result, expected_of(table, data["activation"].values, options))


@pytest.mark.parametrize("options", [o for o in OPTIONS if o.get("distance") != "cosine"], ids=str)
def test_units_of_all_kinds_are_those_of_the_plain_loop(options, road):
    table = table_of(30, seed=4, few=True)
    data = data_of(table)
    scan = mx.univariate_importance(data, **options)
    for unit in range(data.sizes["unit"]):
        column = data["activation"].values[:, [unit]]
        check(scan.sel(unit=unit), expected_of(table, column, options))


@pytest.mark.parametrize("folds", ["pairs", "sentences"])
def test_both_roads_give_categorical_features_the_same(folds, monkeypatch):
    rng = np.random.default_rng(3)
    codes = {f"f{k}": ("sentence", rng.integers(0, 3, 90)) for k in range(4)}
    units = rng.normal(size=(90, 70)) + 2 * (codes["f1"][1] == 1)[:, np.newaxis]
    data = xr.Dataset({"activation": (("sentence", "unit"), units)}, coords=codes)
    options = {"folds": folds, "min_max": True, "mae": True}
    expected = [f(data, **options) for f in (mx.multivariate_importance, mx.univariate_importance)]
    monkeypatch.setattr("mlem_xr.kernels.explain_patterns.worthwhile", lambda n: 0)
    design._cached_design.cache_clear()
    found = [f(data, **options) for f in (mx.multivariate_importance, mx.univariate_importance)]
    for one, other in zip(found, expected, strict=True):
        # Short runs of a pattern are added up in single precision.
        xr.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_top_units_and_chunks_give_the_same():
    table = table_of()
    data = data_of(table, n_units=6)
    lazy = data.chunk(unit=2)
    scan = mx.univariate_importance(data)
    with dask.config.set(scheduler="sync"):
        xr.testing.assert_allclose(mx.univariate_importance(lazy).compute(), scan)
        top = mx.top_unit_importance(lazy, scan, k=[2, 6]).compute()
    whole = mx.multivariate_importance(data)
    np.testing.assert_allclose(top["importance"].sel(k=6), whole["importance"], rtol=1e-6)


def test_a_number_that_is_encoded_is_found():
    """What the issue of measurements is about: as levels, nothing is found."""
    rng = np.random.default_rng(0)
    length = rng.normal(size=80)
    units = rng.normal(size=(80, 5)) + 2 * length[:, np.newaxis]
    coords = {"length": ("sentence", length), "other": ("sentence", np.arange(80) % 2)}
    data = xr.Dataset({"activation": (("sentence", "unit"), units)}, coords=coords)
    with pytest.warns(UserWarning, match=r'numeric=\["length"\]'):
        as_levels = mx.multivariate_importance(data)
    data["length"].attrs["kind"] = "numeric"
    as_number = mx.multivariate_importance(data)
    assert float(as_levels["importance"].sel(feature="length")) < 1e-3
    assert float(as_number["importance"].sel(feature="length")) > 0.01
    assert float(as_number["r2"]) > 0.5


def test_kinds_survive_tables_stores_and_selections(tmp_path):
    table = table_of()
    stimuli = stimuli_of(table)
    assert stimuli.attrs["stimuli_hash"] != mx.read_stimuli(table).attrs["stimuli_hash"]
    mx.write_stimuli(stimuli, tmp_path / "table.csv")
    again = mx.read_stimuli(
        tmp_path / "table.csv", numeric=["zipf", "length"], vector={"place": ["place_x", "place_y"]}
    )
    assert again.attrs["stimuli_hash"] == stimuli.attrs["stimuli_hash"]
    xr.testing.assert_identical(mx.read_stimuli(stimuli), stimuli)
    some = stimuli.isel(sentence=slice(0, 30))
    assert mx.feature_distances(some)["feature"].values.tolist() == list(KINDS)
    kinds = mx.describe_stimuli(stimuli)["kind"].to_series().to_dict()
    assert kinds == KINDS


def test_a_store_keeps_kinds(tmp_path):
    stimuli = stimuli_of(table_of(N))
    path = mx.create_store(stimuli, tmp_path / "kinds.zarr", pooling=["first-token", "mean"])
    write(path, layers())
    opened = mx.open_store(path)
    for name in ("length", "zipf", "place_x", "place_y"):
        np.testing.assert_array_equal(opened[name], stimuli[name])
        assert opened[name].attrs == stimuli[name].attrs
    assert opened.attrs["features"] == list(KINDS)
    result = mx.save_results(mx.multivariate_importance(opened))
    assert result["feature"].values.tolist() == list(KINDS)


def test_numbers_are_described_by_their_range():
    description = mx.describe_stimuli(stimuli_of(table_of()))
    zipf = table_of()["zipf"]
    np.testing.assert_allclose(
        description["quantile"].sel(feature="zipf"), zipf.quantile([0, 0.25, 0.5, 0.75, 1])
    )
    assert np.isnan(description["quantile"].sel(feature="tense")).all()
    expected = {"tense": 3, "number": 2}  # Undefined is one of the levels.
    n_levels = description["n_levels"].to_series().to_dict()
    assert n_levels == {name: expected.get(name, 0) for name in KINDS}
    differ = [a != b for a, b in combinations(zipf, 2) if not (np.isnan(a) or np.isnan(b))]
    assert int(description["differing_pairs"].sel(feature="zipf")) == sum(differ)
    assert not description["determines"].sel(feature="zipf").any()


def test_conditional_importance_takes_few_distances():
    table = table_of(few=True)
    data = data_of(table)
    for conditional in (True, "exact"):
        assert np.isfinite(
            mx.multivariate_importance(data, conditional=conditional)["importance"]
        ).all()
    many = data_of(table_of(300))
    with pytest.raises(InputError, match="^conditional: .* too many different distances"):
        mx.multivariate_importance(many, conditional="exact")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"numeric": "tense"}, "numeric: column 'tense' holds '(past|present)'; expected numbers"),
        ({"numeric": "age"}, "numeric: unknown value 'age'; known: 'tense'"),
        ({"vector": {"place": "spot_*"}}, "vector: no column 'spot_\\*'; found: "),
        ({"vector": {"tense": "place_*"}}, "vector: 'tense' is a column; expected another name"),
        ({"vector": "place_*"}, "vector: found 'place_\\*'; expected a mapping"),
        (
            {"vector": {"place": "place_*", "spot": "place_x"}},
            "vector: column 'place_x' is in 'spot' and in place",
        ),
        ({"numeric": "place_x", "vector": {"p": "place_*"}}, "'p' and in the numeric features"),
        ({"numeric": "length", "items": "length"}, "numeric: unknown value 'length'"),
        ({"vector": {"place": []}}, "vector: columns of 'place': an empty list"),
    ],
)
def test_kinds_that_cannot_be_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        mx.read_stimuli(table_of(), **arguments)


def test_the_name_of_a_column_is_no_pattern(tmp_path):
    table = table_of(few=True)[["sentence", "tense", "place_x", "place_y"]]
    for names in (["e[1]", "e1"], ["e1", "e[1]"], ["e[1]", "x"], ["e*", "ee"], ["e?", "e1"]):
        own = table.set_axis(["sentence", "tense", *names], axis=1)
        name = next(name for name in names if not name.isalnum())
        other = next(other for other in names if other != name)
        own.to_csv(tmp_path / "table.csv", index=False)
        for source in (own, tmp_path / "table.csv", mx.read_stimuli(own)):
            stimuli = mx.read_stimuli(source, vector={"v": [name]})
            assert stimuli[name].attrs == {"vector": "v"} and stimuli[other].attrs == {}
            stimuli = mx.read_stimuli(source, vector={"v": [name, other]})
            assert stimuli[other].attrs == {"vector": "v"}
        stimuli = read_with_options(tmp_path / "table.csv", [], [], [f"v={name}"])
        assert stimuli[name].attrs == {"vector": "v"} and stimuli[other].attrs == {}


def test_a_constant_number_has_no_importance():
    table = table_of()
    table["length"] = 5
    with pytest.warns(UserWarning, match="length never differ"):
        result = mx.multivariate_importance(data_of(table))
    assert float(result["importance"].sel(feature="length")) == 0
    assert float(result["p_value"].sel(feature="length")) == 1


@pytest.mark.filterwarnings("ignore:features. ")
def test_numbers_that_differ_by_rounding_alone_are_the_same():
    """Their differences would be stretched to distances of 1."""
    table = table_of()
    one = table["number"] == "pl"
    table["length"] = np.where(one, 0.1 + 0.2, 0.3)
    table.loc[3, "length"] = np.nan
    table["place_x"] = np.where(one, 1e-20, 0)
    table["place_y"] = 7.0
    assert table["length"].nunique() == table["place_x"].nunique() == 2
    stimuli = stimuli_of(table)
    distances = mx.feature_distances(stimuli, features=["length", "place", "number"])
    assert distances.max("pair").values.tolist() == [0, 0, 1]
    with pytest.warns(UserWarning, match="^features: length, place never differ"):
        result = mx.multivariate_importance(data_of(table))
    assert (result["importance"].sel(feature=["length", "place"]) == 0).all()
    with pytest.warns(UserWarning, match="^features: length cannot be decoded"):
        areas = mx.decoding_baseline(data_of(table), features=["length", "number"])["auc"]
    assert areas.isnull().values.tolist() == [True, False]
    # What is far from 0 is no rounding while it differs by more than that.
    far = mx.read_stimuli(table.assign(length=1e9 + 1e-3 * one), numeric=["length"])
    assert mx.feature_distances(far, features=["length"]).max() == 1


@pytest.mark.filterwarnings("ignore:features. length")
def test_numbers_that_differ_by_the_rounding_of_float32_are_the_same():
    """Tables and models make them float64, which has other roundings."""
    table = table_of(few=True)
    noise = np.random.default_rng(0).integers(-2, 3, len(table))
    table["length"] = np.float32(0.3) * (1 + np.float32(1.2e-7) * noise.astype(np.float32))
    table["place_x"] = table["length"].astype(np.float64)
    table["place_y"] = np.float32(0.1)
    assert table["length"].dtype == np.float32 and table["length"].nunique() > 2
    stimuli = stimuli_of(table)
    as_it_is = stimuli.assign_coords(length=stimuli["length"].astype(np.float32))
    units = data_of(table)["activation"].values
    roles = {"numeric": ["length", "zipf"], "vector": {"place": ["place_x", "place_y"]}}
    given = mx.from_arrays(units, table, dims=("sentence", "unit"), **roles)
    for one in (stimuli, as_it_is, given):
        distances = mx.feature_distances(one, features=["length", "place", "zipf"])
        assert distances.max("pair").values.tolist() == [0, 0, 1]
        np.testing.assert_array_equal(one["length"], table["length"])
        np.testing.assert_array_equal(one["place_x"], table["place_x"])
    model = mx.MLEM().fit(table[["length", "number"]], units)
    assert model.importance_["length"] == 0 and model.coef_[0] == 0


@pytest.mark.parametrize("factor", [1e160, 1e300, 1e-170, 1e-310])
def test_the_scale_of_numbers_and_points_does_not_matter(factor):
    """Their squares may be infinite, or 0."""
    table = table_of(few=True)
    numbers = ["length", "zipf", "place_x", "place_y"]
    scaled = stimuli_of(table.assign(**{name: factor * table[name] for name in numbers}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = mx.feature_distances(scaled)
    np.testing.assert_allclose(found, mx.feature_distances(stimuli_of(table)), rtol=1e-9)


def test_the_range_of_a_number_may_be_infinite():
    table = table_of(few=True)
    far = table.assign(length=1e308 * (table["length"] - 4.5))
    units = data_of(table)["activation"].values
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        distances = mx.feature_distances(stimuli_of(far))
        known = ["length", "number"]
        predicted = [
            mx.MLEM(numeric=["length"]).fit(one[known], units).predict_pairs(one[known][::2])
            for one in (table.astype({"length": float}), far)
        ]
    np.testing.assert_allclose(distances, mx.feature_distances(stimuli_of(table)))
    np.testing.assert_allclose(predicted[1], predicted[0])


def test_numbers_that_differ_by_more_than_rounding_are_no_rounding():
    """As float32, these would differ by some units in the last place."""
    one = np.arange(40) % 2
    for far in (1e7 + one, 0.3 + 1e-8 * one, 1e6 + one / 3, 1e6 + one / 4, 2459000.5 + one):
        stimuli = mx.read_stimuli(table_of().assign(length=far), numeric=["length"])
        assert mx.feature_distances(stimuli, features=["length"]).max() == 1
    # A number of few digits says nothing of how others were rounded.
    beside = table_of(few=True).assign(place_x=1e-4 * (1 + one / 3), place_y=1000.5)
    assert mx.feature_distances(stimuli_of(beside), features=["place"]).max() == 1


def plain_t(x, y, k):
    design = np.column_stack([x, np.ones(len(y))])
    coefficient, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    residual = y - design @ coefficient
    variance = residual @ residual / (len(y) - rank)
    return coefficient[k] / np.sqrt(variance * np.linalg.inv(design.T @ design)[k, k])


def drawn_columns(design, table, k):
    """A feature as it is, then in every draw, as columns of the plain loop."""
    own = design.drawn(k)
    number = own.items.number
    for value in own.value:
        column = np.full((len(table), *value.shape[1:]), np.nan)
        column[number >= 0] = value[number[number >= 0]]
        yield column


CASES = [
    {"per": "unit"},
    {"per": "layer"},
    {"per": "layer", "distance": "cosine"},
    {"per": "unit", "scale": "squared"},
    {"per": "layer", "scale": "squared"},
    {"per": "layer", "distance": "manhattan", "target": "none", "scale": "squared"},
]


@pytest.mark.parametrize("by_item", [False, True], ids=["sentences", "items"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_test_of_all_kinds_is_that_of_the_plain_loop(case, by_item):
    table = table_of(24, few=True)
    noun = np.arange(24) % 11
    if by_item:
        table["zipf"] = table["zipf"].to_numpy()[noun]
        table["noun"] = noun
    roles = {"numeric": ["length", "zipf"], "vector": {"place": "place_*"}}
    stimuli = mx.read_stimuli(table, **roles, items=["noun"] if by_item else [])
    units = data_of(table.drop(columns="noun", errors="ignore"))["activation"].values
    data = stimuli.assign(activation=(("sentence", "unit"), units))
    items = {"zipf": "noun"} if by_item else {}
    found = mx.randomization_test(data, n_draws=19, random_state=3, items=items, **case)
    squared = case.get("scale") == "squared"
    known = replace(features_in(data), squared=squared)
    numbers = np.repeat(np.arange(24)[:, np.newaxis], len(KINDS), axis=1)
    if by_item:
        numbers[:, list(KINDS).index("zipf")] = 24 + noun
    design = randomization_design(known, numbers, 19, 3)
    columns, kinds = columns_of(table), list(KINDS.values())
    x = distances_of(table)
    x = x**2 if squared else x
    for unit in range(units.shape[1]) if case["per"] == "unit" else [None]:
        own = units if unit is None else units[:, [unit]]
        distance = case.get("distance", "euclidean")
        y = plain.target(own, distance, min_max=False, zscore=False)
        y = np.sqrt(y) if case.get("target") == "none" else y
        for k, name in enumerate(KINDS):
            t = []
            for column in drawn_columns(design, table, k):
                drawn = x.copy()
                one = [
                    np.where(column < 0, np.nan, column) if kinds[k] == "categorical" else column
                ]
                drawn[:, k] = plain.distances_of_kinds(one, [kinds[k]])[:, 0]
                drawn[:, k] = drawn[:, k] ** 2 if squared else drawn[:, k]
                t.append(plain_t(drawn, y, k))
            own_result = found.sel(feature=name)
            own_result = own_result if unit is None else own_result.sel(unit=unit)
            assert float(own_result["statistic"]) == pytest.approx(t[0], rel=1e-7)
            expected = (1 + sum(value >= t[0] - 1e-9 for value in t[1:])) / 20
            assert float(own_result["p_value"]) == pytest.approx(expected)
    assert len(columns) == len(kinds)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_where_numbers_and_points_begin_does_not_matter(case):
    """Seconds since 1970 are far from 0 beside their range."""
    table = table_of(few=True)
    table[["place_x", "place_y"]] *= 4
    units = data_of(table)["activation"]
    far = table.assign(length=table["length"] + 1.7e9, place_y=table["place_y"] - 3e8)
    found = [
        mx.randomization_test(stimuli_of(one).assign(activation=units), n_draws=19, **case)
        for one in (table, far)
    ]
    assert np.isfinite(found[0]["statistic"]).all()
    xr.testing.assert_allclose(found[1], found[0], rtol=1e-9)


def test_drawn_numbers_are_the_linear_fit_and_its_residuals_in_another_order():
    table = table_of(200)
    table["zipf"] = table["zipf"].fillna(0) + table["length"]
    design = randomization_design(
        features_in(stimuli_of(table)), np.repeat(np.arange(200)[:, np.newaxis], 5, axis=1), 50, 0
    )
    k = list(KINDS).index("zipf")
    value = design.drawn(k).value[:, :, 0]
    other = (table["length"] - table["length"].mean()).to_numpy()
    slopes = [np.polyfit(other, row, 1)[0] for row in value]
    assert np.std(slopes[1:]) < 0.2 * slopes[0] and min(slopes[1:]) > 0.5 * slopes[0]
    assert all(np.corrcoef(row, value[0])[0, 1] < 0.9 for row in value[1:])
    np.testing.assert_allclose(value.mean(axis=1), value[0].mean())


def test_a_number_that_others_determine_has_nothing_to_draw():
    table = table_of()
    table["twice"] = 2.0 * table["length"] + (table["number"] == "pl")
    stimuli = mx.read_stimuli(table.drop(columns=["zipf"]), numeric=["length", "twice"])
    data = stimuli.assign(
        activation=(("sentence", "unit"), np.random.default_rng(0).normal(size=(40, 3)))
    )
    with pytest.warns(UserWarning, match="determine length, number, twice|determine length, twice"):
        result = mx.randomization_test(data, features=["length", "number", "twice"], n_draws=9)
    assert (result["p_value"].sel(feature="twice") == 1).all()


def test_an_axis_that_varies_by_rounding_alone_says_nothing_of_sentences():
    """As a covariate it would be brought to a standard deviation of 1."""
    rng = np.random.default_rng(0)
    n = 60
    x, noise = rng.normal(size=n), rng.integers(-2, 3, n)
    tense = np.where(rng.random(n) < 1 / (1 + np.exp(-x)), "past", "present")
    units = rng.normal(size=(n, 6))
    y = np.full(n, 0.3)
    rounded = (
        0.3 * (1 + 2.2e-16 * noise),
        (np.float32(0.3) * (1 + 1.2e-7 * noise)).astype(np.float32),
    )
    found = [
        mx.randomization_test(
            mx.from_arrays(
                units,
                pd.DataFrame({"tense": tense, "x": x, "y": one}),
                dims=("sentence", "unit"),
                vector={"place": ["x", "y"]},
            ),
            n_draws=99,
        )
        for one in (y, *rounded)
    ]
    for one in found[1:]:
        xr.testing.assert_equal(one, found[0])


def test_an_axis_that_varies_by_rounding_among_those_that_are_drawn_says_nothing():
    """A number may vary where the feature that is drawn is undefined."""
    rng = np.random.default_rng(0)
    table = table_of(few=True)
    undefined = table["tense"].isna()
    table[["place_x", "place_y"]] = rng.normal(size=(len(table), 2))
    known = []
    for other in (0.3, 0.1 + 0.2):
        table["length"] = np.where(undefined, 5.0, np.where(rng.random(40) < 0.5, 0.3, other))
        features = features_in(stimuli_of(table), ["tense", "length", "place"])
        items = np.repeat(np.arange(40)[:, np.newaxis], 3, axis=1)
        known.append(items_of(features, items, 0).number_covariate)
    assert known[0].shape[1] == 2
    np.testing.assert_array_equal(known[1], known[0])


def test_the_test_holds_for_numbers():
    """A number that correlates with one that is encoded is not significant too often."""
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(60):
        length = rng.normal(size=60)
        other = 0.8 * length + 0.6 * rng.normal(size=60)
        units = rng.normal(size=(60, 20)) + length[:, np.newaxis]
        coords = {
            name: ("sentence", v, {"kind": "numeric"}) for name, v in [("a", length), ("b", other)]
        }
        data = xr.Dataset({"activation": (("sentence", "unit"), units)}, coords=coords)
        test = mx.randomization_test(data, per="unit", n_draws=99)["p_value"]
        p_values.append(test.values)
    share = (np.array(p_values) <= 0.05).mean(axis=(0, 1))
    assert share[0] > 0.9 and 0.005 < share[1] < 0.09


def edits(words):
    """How many letters of words of one length differ: (sentence, sentence)."""
    letters = np.array([list(word) for word in words])
    return (letters[:, np.newaxis] != letters).sum(axis=2).astype(float)


def with_given(table, **distances):
    stimuli = stimuli_of(table)
    values = np.stack(list(distances.values()))
    dims = ("feature", "sentence", "other_sentence")
    data = stimuli.assign(feature_distance=(dims, values)).assign_coords(feature=list(distances))
    return data.assign_coords(other_sentence=data["sentence"].values)


WORDS = ["".join(word) for word in np.random.default_rng(8).choice(list("ab"), (40, 4))]


def test_given_feature_distances_that_are_all_zero_never_differ():
    table = table_of()
    activation = data_of(table)["activation"].variable
    data = with_given(table, sound=np.zeros((40, 40))).assign(activation=activation)
    with pytest.warns(UserWarning, match="^features: sound never differ"):
        result = mx.multivariate_importance(data)
    assert float(result["importance"].sel(feature="sound")) == 0


@pytest.mark.parametrize("folds", ["pairs", "sentences"])
def test_given_feature_distances_are_a_feature(folds):
    table = table_of(few=True)
    units = (
        data_of(table)["activation"].values + 3 * np.array([w == "abab" for w in WORDS])[:, None]
    )
    data = with_given(table, edits=edits(WORDS)).assign(activation=(("sentence", "unit"), units))
    assert mx.feature_distances(data)["feature"].values.tolist() == [*KINDS, "edits"]
    pairs = edits(WORDS)[np.triu_indices(40, 1)] / 4
    x = np.column_stack([distances_of(table), pairs])
    np.testing.assert_allclose(mx.feature_distances(data), x, atol=1e-12)
    y = plain.target(units, "euclidean", min_max=folds == "pairs", zscore=False)
    over_sentences = folds == "sentences"
    splits = plain.sentence_splits(40, 0) if over_sentences else plain.pair_splits(len(y), 0)
    expected = plain.explain(x, y, splits, sentences=over_sentences)
    del expected["mae"]
    check(mx.multivariate_importance(data, folds=folds), expected)
    lazy = mx.multivariate_importance(data.chunk(), folds=folds).compute()
    check(lazy, expected)


@pytest.mark.parametrize(
    "case", [{"per": "unit"}, {"per": "layer"}, {"distance": "cosine"}], ids=str
)
def test_given_feature_distances_count_in_the_test_and_are_not_tested(case):
    table = table_of(few=True)
    units = data_of(table)["activation"].values
    data = with_given(table, edits=edits(WORDS)).assign(activation=(("sentence", "unit"), units))
    with pytest.warns(UserWarning, match="edits"):
        found = mx.randomization_test(data, n_draws=9, **case)
    x = np.column_stack([distances_of(table), edits(WORDS)[np.triu_indices(40, 1)] / 4])
    own = units[:, [2]] if case.get("per") == "unit" else units
    found = found.sel(unit=2) if case.get("per") == "unit" else found
    y = plain.target(own, case.get("distance", "euclidean"), min_max=False, zscore=False)
    expected = [plain_t(x, y, k) for k in range(x.shape[1])]
    np.testing.assert_allclose(found["statistic"], expected, rtol=1e-7)
    assert float(found["p_value"].sel(feature="edits")) == 1


@pytest.mark.parametrize("folds", ["pairs", "sentences"])
def test_precomputed_distances_are_explained_like_those_of_activations(folds):
    data = data_of(table_of())
    distance = mx.distances(data, distance="manhattan")
    given = stimuli_of(table_of()).assign(distance=distance)
    expected = mx.multivariate_importance(data, distance="manhattan", folds=folds)
    found = mx.multivariate_importance(given, distance="precomputed", folds=folds)
    xr.testing.assert_allclose(found, expected)
    three = xr.concat([given["distance"]] * 3, "subject").assign_coords(subject=["a", "b", "c"])
    several = mx.multivariate_importance(
        given.assign(distance=three).chunk(), distance="precomputed", folds=folds
    ).compute()
    assert several["importance"].dims == ("subject", "feature")
    xr.testing.assert_allclose(several.sel(subject="b", drop=True), expected)
    test = mx.randomization_test(given, distance="precomputed", n_draws=9)
    xr.testing.assert_allclose(test, mx.randomization_test(data, distance="manhattan", n_draws=9))


def changed_at(distance, where, value):
    values = distance.values.copy()
    values[where] = value
    return distance.copy(data=values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: changed_at(d, (2, 5), 9.0), "differ by .* there and back"),
        (lambda d: changed_at(d, (2, 2), 1.0), "of a sentence to itself"),
        (lambda d: -d, "a distance of -"),
        (lambda d: changed_at(d, (2, 5), np.nan), "NaN or infinite"),
        (lambda d: d.isel(other_sentence=slice(10)), "select both"),
        (lambda d: d.isel(other_sentence=slice(None, None, -1)), "select both"),
        (lambda d: d.rename(other_sentence="other"), "no dimension 'other_sentence'|dimensions"),
    ],
)
def test_distances_that_are_none_are_named(change, message):
    data = data_of(table_of())
    distance = mx.distances(data)
    stimuli = stimuli_of(table_of())
    with pytest.raises(InputError, match=message):
        mx.multivariate_importance(
            stimuli.assign(distance=change(distance)), distance="precomputed"
        )
    feature = change(distance).expand_dims(feature=["given"])
    with pytest.raises(InputError, match=message):
        mx.multivariate_importance(data.assign(feature_distance=feature))


def test_precomputed_distances_are_asked_for_in_words(activations):
    with pytest.raises(InputError, match="^activations: no variable 'distance', which distance="):
        mx.multivariate_importance(activations, distance="precomputed")
    distance = mx.distances(activations).to_dataset(name="distance")
    with pytest.raises(InputError, match="no variable 'activation'"):
        mx.multivariate_importance(distance)
    with pytest.raises(InputError, match="^zscore: found True; expected False"):
        mx.multivariate_importance(distance, distance="precomputed", zscore=True)
    with pytest.raises(InputError, match="'precomputed' means nothing for a single unit"):
        mx.univariate_importance(activations, distance="precomputed")


@pytest.mark.parametrize("per", ["layer", "unit"])
@pytest.mark.parametrize("folds", ["pairs", "sentences"])
def test_r2_is_decomposed_with_and_without_patterns(per, folds, monkeypatch):
    options = {"per": per, "folds": folds, "min_max": True}
    few = data_of(table_of(few=True))
    expected = mx.decompose(few, **options)
    monkeypatch.setattr("mlem_xr.kernels.decompose.pair_design", lambda *a, **o: None)
    found = mx.decompose(few, **options)
    for name in ("share", "unique", "alone", "common", "r2"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6)
    assert np.isfinite(expected["r2_ceiling"]).all() and np.isnan(found["r2_ceiling"]).all()


def test_r2_of_all_numbers_is_that_of_the_importances():
    data = data_of(table_of(300))
    parts = mx.decompose(data)
    assert np.isnan(parts["r2_ceiling"]).all()
    whole = float(mx.multivariate_importance(data)["r2"])
    assert float(parts["r2"][-1]) == pytest.approx(whole, rel=1e-9)
    assert float(parts["share"].sum() + parts["r2"][0]) == pytest.approx(whole, rel=1e-9)


def test_a_generated_set_is_warned_of_once(monkeypatch):
    table = table_of()
    table.loc[1, "sentence"] = table.loc[0, "sentence"]
    table = table.drop(columns=["zipf", "place_x", "place_y"])
    monkeypatch.setattr(
        "mlem_xr.stimuli.files.generate_stimuli", lambda _: from_dataframe(table, name="generated")
    )
    with pytest.warns(UserWarning, match="1 sentences repeat an earlier one") as caught:
        mx.read_stimuli("short_sentence")
    assert len(caught) == 1


def test_given_feature_distances_below_one_are_brought_to_it():
    small = with_given(table_of(few=True), edits=edits(WORDS) / 100)
    found = mx.feature_distances(small, features=["edits"]).values.ravel()
    np.testing.assert_allclose(found, edits(WORDS)[np.triu_indices(40, 1)] / 4)
