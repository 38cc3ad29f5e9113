"""Shares, subsets and the feature ceiling: against plain loops, and what must hold of them."""

import math
from itertools import combinations

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.optimize import nnls

import mlem_xr as mx
import plain
from helpers import lazy, refuse
from mlem_xr.schema import InputError

pytestmark = pytest.mark.filterwarnings("ignore:features.*differ between")

PARTS = ["share", "unique", "alone", "common"]


def dataset(columns, activation, **dims) -> xr.Dataset:
    leading = list(dims)
    data = xr.Dataset({"activation": ((*leading, "sentence", "unit"), activation)}, dims)
    return data.assign_coords({name: ("sentence", values) for name, values in columns.items()})


def random_columns(rng, n, names="abcd"):
    """Features with two to four levels, some of them undefined, some correlated."""
    columns = {}
    for i, name in enumerate(names):
        levels = rng.integers(0, 2 + i % 3, n).astype(float)
        if i % 2:
            same = rng.random(n) < 0.5
            levels[same] = columns[names[i - 1]][same]
            levels[rng.random(n) < 0.2] = np.nan
        columns[name] = levels
    return columns


def random_data(seed, n=30, names="abcd", n_units=3, **dims) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    columns = random_columns(rng, n, names)
    shape = [len(v) for v in dims.values()]
    signal = np.nan_to_num(np.stack(list(columns.values()), axis=1))
    units = rng.normal(size=(*shape, n, n_units))
    units += signal @ rng.normal(size=(*shape, len(names), n_units))
    return dataset(columns, units, **dims)


def splits_of(n, folds, seed=0):
    if folds == "sentences":
        return plain.sentence_splits(n, seed)
    return plain.pair_splits(n * (n - 1) // 2, seed)


def fitted(x, y, alpha):
    """Non-negative ridge regression by scipy: weights and intercept."""
    mean_x, mean_y = x.mean(axis=0), y.mean()
    rows = np.vstack([x - mean_x, np.sqrt(alpha) * np.eye(x.shape[1])])
    weight = nnls(rows, np.append(y - mean_y, np.zeros(x.shape[1])))[0]
    return weight, mean_y - mean_x @ weight


def plain_r2(x, y, splits, alphas=plain.ALPHAS):
    """R2 of a metric, fitted and scored pair by pair: the mean over folds."""
    scores = []
    for train, validation, refit, test in splits:

        def error(alpha, train=train, validation=validation):
            weight, intercept = fitted(x[train], y[train], alpha)
            return ((y[validation] - intercept - x[validation] @ weight) ** 2).mean()

        prediction = np.full(len(test), y[refit].mean())
        if x.shape[1]:
            weight, intercept = fitted(x[refit], y[refit], min(alphas, key=error))
            prediction = intercept + x[test] @ weight
        scores.append(1 - ((y[test] - prediction) ** 2).mean() / y[test].var())
    return np.mean(scores)


def plain_shares(r2, n):
    """The textbook's Shapley values of R2, by subset (tuples)."""
    shares = np.zeros(n)
    for k in range(n):
        rest = [i for i in range(n) if i != k]
        for size in range(n):
            for subset in combinations(rest, size):
                weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
                shares[k] += weight * (r2[tuple(sorted((*subset, k)))] - r2[subset])
    return shares


def pairs_of(data, unit=None, **options):
    """Feature distances (pair, feature) and targets (pair), the plain way."""
    options = {"distance": "euclidean", "min_max": True, "zscore": False} | options
    values = data.activation.values if unit is None else data.activation.values[:, [unit]]
    names = mx.decompose(data).feature.values
    return plain.feature_distances([data[f].values for f in names]), plain.target(values, **options)


def assert_is_plain(result, x, y, splits):
    n = x.shape[1]
    subsets = [s for size in range(n + 1) for s in combinations(range(n), size)]
    r2 = {s: plain_r2(x[:, list(s)], y, splits) for s in subsets}
    close = {"rtol": 1e-7, "atol": 1e-9}
    np.testing.assert_allclose(result.r2, list(r2.values()), **close)
    np.testing.assert_allclose(result.share, plain_shares(r2, n), **close)
    whole = tuple(range(n))
    unique = [r2[whole] - r2[tuple(i for i in whole if i != k)] for k in whole]
    alone = [r2[(k,)] - r2[()] for k in whole]
    np.testing.assert_allclose(result.unique, unique, **close)
    np.testing.assert_allclose(result.alone, alone, **close)
    np.testing.assert_allclose(result.common, np.subtract(alone, unique), **close)


@pytest.mark.parametrize("folds", ["pairs", "sentences"])
@pytest.mark.parametrize("seed", range(4))
def test_every_subset_and_share_is_that_of_a_plain_loop(seed, folds):
    data = random_data(seed, n=30 + 5 * seed)
    result = mx.decompose(data, folds=folds, random_state=seed)
    x, y = pairs_of(data, min_max=folds == "pairs")
    assert_is_plain(result, x, y, splits_of(data.sizes["sentence"], folds, seed))


@pytest.mark.parametrize("distance", ["norm_diff", "cosine"])
def test_other_distances_are_decomposed_too(distance):
    data = random_data(3)
    result = mx.decompose(data, distance=distance, zscore=True, min_max=False)
    x, y = pairs_of(data, distance=distance, zscore=True, min_max=False)
    assert_is_plain(result, x, y, splits_of(30, "pairs"))


@pytest.mark.parametrize("distance", ["euclidean", "canberra"])
def test_a_unit_is_decomposed_like_a_layer_of_one_unit(distance):
    data = random_data(5, n_units=67 if distance == "euclidean" else 3)
    result = mx.decompose(data, per="unit", distance=distance)
    for unit in (0, 2, data.sizes["unit"] - 1):
        alone = mx.decompose(data.isel(unit=[unit]), distance=distance)
        xr.testing.assert_allclose(result.isel(unit=unit, drop=True), alone, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("folds", ["pairs", "sentences"])
def test_all_features_have_the_r2_of_the_importances(folds):
    data = random_data(1, n=50, layer=[1, 2])
    options = {"folds": folds, "alphas": [0.1, 10, 1000], "zscore": True}
    whole = mx.decompose(data, **options).r2.isel(subset=-1, drop=True)
    xr.testing.assert_allclose(whole, mx.multivariate_importance(data, **options).r2)
    of_units = mx.decompose(data, per="unit", **options).r2.isel(subset=-1, drop=True)
    xr.testing.assert_allclose(of_units, mx.univariate_importance(data, **options).r2, rtol=1e-5)


@pytest.mark.parametrize("folds", ["pairs", "sentences"])
@pytest.mark.parametrize("seed", range(4))
def test_the_ceiling_is_that_of_means_of_groups(seed, folds):
    data = random_data(seed, n=20, names="abcdef")
    result = mx.decompose(data, folds=folds)
    x, y = pairs_of(data, min_max=folds == "pairs")
    table = pd.DataFrame(x).assign(y=y)
    keys = list(range(x.shape[1]))
    lower, upper = [], []
    unknown = 0
    for _, _, refit, test in splits_of(20, folds):
        own, training = table.iloc[test], table.iloc[refit]
        found = own.merge(training.groupby(keys).y.mean().rename("mean").reset_index(), how="left")
        unknown += found["mean"].isna().sum()
        learned = found["mean"].fillna(training.y.mean()).values
        square = ((own.y - own.y.mean()) ** 2).sum()
        lower.append(1 - ((own.y.values - learned) ** 2).sum() / square)
        upper.append(1 - ((own.y - own.groupby(keys).y.transform("mean")) ** 2).sum() / square)
    assert unknown > 0
    np.testing.assert_allclose(result.r2_ceiling.sel(bound="lower"), np.mean(lower), rtol=1e-9)
    np.testing.assert_allclose(result.r2_ceiling.sel(bound="upper"), np.mean(upper), rtol=1e-9)


@pytest.mark.parametrize("per", ["layer", "unit"])
@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_above_the_upper_ceiling(seed, per):
    result = mx.decompose(random_data(seed, names="abcde", n_units=6), per=per)
    lower, upper = (result.r2_ceiling.sel(bound=bound) for bound in ("lower", "upper"))
    assert (lower <= upper).all()
    assert (result.r2 <= upper + 1e-9).all()


def test_a_feature_that_acts_with_another_one_is_in_the_ceiling_alone():
    """Distances are large where just one of two features differs: no weights say so."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, (2, 80))
    data = dataset({"a": a, "b": b}, np.where(a != b, 3.0, 0.0)[:, np.newaxis])
    data = data.assign(activation=data.activation + rng.normal(0, 0.01, (80, 1)))
    result = mx.decompose(data)
    assert (result.r2_ceiling > 0.99).all()
    assert (result.r2 < 0.1).all()


@pytest.mark.parametrize("method", ["shapley", "sampled"])
def test_shares_add_up(method):
    result = mx.decompose(random_data(2, layer=[1, 2, 3]), method=method, n_draws=3)
    gained = result.r2.sel(subset="a+b+c+d") - result.r2.sel(subset="none")
    np.testing.assert_allclose(result.share.sum("feature"), gained, rtol=1e-12)


@pytest.mark.parametrize("method", ["shapley", "sampled"])
def test_a_feature_that_never_differs_has_no_part(method):
    data = random_data(4).assign_coords(never=("sentence", np.full(30, "x")))
    with pytest.warns(UserWarning, match="never never differ between two sentences; share 0"):
        result = mx.decompose(data, method=method)
    np.testing.assert_allclose(result[PARTS].sel(feature="never").to_array(), 0, atol=1e-14)
    assert (np.abs(result.share.drop_sel(feature="never")) > 0).any()


def test_two_equal_features_share_equally():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 3, (2, 60))
    units = rng.normal(size=(60, 3)) + np.outer(one, [4, 0, 0]) + np.outer(other, [0, 2, 0])
    result = mx.decompose(dataset({"one": one, "other": other, "twin": one}, units))
    share = result.share.sel(feature=["one", "twin"])
    assert share[0] > 0.05
    np.testing.assert_allclose(share[0], share[1], rtol=1e-6)
    # Each does without the other: next to nothing is lost (half a penalty), so all is in common.
    assert abs(result.unique.sel(feature="one")) < 0.01 * result.alone.sel(feature="one")


def test_the_order_of_the_features_changes_nothing():
    data = random_data(7)
    one = mx.decompose(data)
    other = mx.decompose(data, features=["d", "b", "a", "c"])
    xr.testing.assert_allclose(other[PARTS].sel(feature=one.feature), one[PARTS], rtol=1e-9)
    assert other.subset.values[[0, 1, 5, -1]].tolist() == ["none", "d", "d+b", "d+b+a+c"]


@pytest.mark.parametrize("method", ["shapley", "sampled"])
def test_a_single_feature_has_all_of_it(method):
    result = mx.decompose(random_data(8), features=["a"], method=method, n_draws=2)
    assert result.subset.values.tolist() == ["none", "a"]
    gained = (result.r2.sel(subset="a") - result.r2.sel(subset="none")).item()
    for name in ("share", "unique", "alone"):
        assert result[name].item() == pytest.approx(gained, rel=1e-12)
    assert result.common.item() == 0
    # All functions of one feature distance, 0 or 1, are a metric, but for its sign and penalty.
    assert result.r2.sel(subset="a") <= result.r2_ceiling.sel(bound="upper")


def test_drawn_orders_come_close_to_all_of_them():
    data = random_data(9, names="abcdef", layer=[1, 2, 3, 4])
    exact = mx.decompose(data)
    assert exact.share_std_error.isnull().all()
    few, many = (mx.decompose(data, method="sampled", n_draws=n) for n in (20, 500))
    for result in (few, many):
        error = result.share_std_error
        assert (error > 0).any()
        assert (np.abs(result.share - exact.share) <= 4.5 * error + 1e-12).all()
    assert many.share_std_error.mean() < 0.4 * few.share_std_error.mean()
    # What needs no order is the same.
    xr.testing.assert_allclose(
        many[["unique", "alone", "common", "r2_ceiling"]],
        exact[["unique", "alone", "common", "r2_ceiling"]],
    )
    xr.testing.assert_allclose(many.r2, exact.r2.sel(subset=many.subset))
    assert many.sizes["subset"] == 14


def test_two_features_have_two_orders():
    """An order and its reverse are both of them, so that nothing is left to chance."""
    data = random_data(10, names="ab")
    drawn = mx.decompose(data, method="sampled", n_draws=5)
    xr.testing.assert_allclose(drawn.share, mx.decompose(data).share)
    np.testing.assert_allclose(drawn.share_std_error, 0, atol=1e-15)


def test_the_seed_says_which_orders_are_drawn():
    data = random_data(11, names="abcde")
    one, same = (mx.decompose(data, method="sampled", n_draws=4) for _ in range(2))
    xr.testing.assert_identical(one, same)


def test_orders_of_many_features_are_drawn():
    data = random_data(12, n=40, names="abcdefghijlmnop")
    result = mx.decompose(data, n_draws=10)
    assert result.sizes == {"feature": 15, "subset": 32, "bound": 2}
    assert result.subset.values[-2] == "b+c+d+e+f+g+h+i+j+l+m+n+o+p"
    assert (result.share_std_error > 0).any()
    gained = result.r2.isel(subset=-1) - result.r2.isel(subset=0)
    assert result.share.sum().item() == pytest.approx(gained.item(), rel=1e-12)
    but_a = mx.decompose(data, features=list("bcdefghijlmnop"))
    assert but_a.share_std_error.isnull().all()
    assert but_a.sizes["subset"] == 2**14
    np.testing.assert_allclose(but_a.r2[-1], result.r2[-2], rtol=1e-12)


@pytest.mark.parametrize("per", ["layer", "unit"])
def test_chunks_change_nothing_and_nothing_is_computed_early(per):
    data = random_data(13, layer=[1, 2, 3])
    expected = mx.decompose(data, per=per)
    for chunks in ({"layer": 1}, {"layer": 2, "unit": 2}, {"sentence": 7}):
        with dask.config.set(scheduler=refuse):
            result = mx.decompose(lazy(data, **chunks), per=per)
        assert all(variable.chunks is not None for variable in result.values())
        xr.testing.assert_identical(result.compute(), expected)


@pytest.mark.parametrize("method", ["shapley", "sampled"])
@pytest.mark.parametrize("per", ["layer", "unit"])
def test_where_nothing_varies_there_is_nothing_to_decompose(per, method):
    data = random_data(14, layer=[1, 2])
    data.activation[0] = 3.25
    with pytest.warns(UserWarning, match="nothing to explain in layer=1"):
        result = mx.decompose(data, per=per, method=method)
    assert result.sel(layer=1).isnull().all().to_array().all()
    assert result.drop_vars("share_std_error").sel(layer=2).notnull().all().to_array().all()


def test_units_that_a_layer_lacks_are_nan_and_change_nothing():
    data = random_data(15, layer=[1, 2])
    wider = data.pad(unit=(0, 2), constant_values={"activation": np.nan})
    xr.testing.assert_allclose(
        mx.decompose(wider).drop_attrs(), mx.decompose(data).drop_attrs(), rtol=1e-12
    )
    of_units = mx.decompose(wider, per="unit")
    assert of_units.isel(unit=slice(3, 5)).isnull().all().to_array().all()
    assert of_units.r2.isel(unit=slice(0, 3)).notnull().all()


def test_a_table_has_a_row_per_feature_or_per_subset():
    result = mx.decompose(random_data(16, layer=[1, 2]), method="sampled")
    table = mx.to_dataframe(result)
    names = ["share", "share_std_error", "unique", "alone", "common"]
    ends = ["r2_ceiling_lower", "r2_ceiling_upper"]
    assert table.columns.tolist() == ["layer", "feature", *names, *ends]
    assert len(table) == 8
    assert table[ends[0]][4] == result.r2_ceiling.sel(layer=2, bound="lower")
    subsets = mx.to_dataframe(result[["r2"]])
    assert subsets.columns.tolist() == ["layer", "subset", "r2"]
    np.testing.assert_array_equal(subsets.r2, result.r2.values.ravel())
    lower = mx.to_dataframe(result.sel(bound="lower"))
    np.testing.assert_array_equal(lower.r2_ceiling, table[ends[0]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "owen"}, r"method: unknown value 'owen'; known: 'shapley', 'sampled'"),
        ({"per": "network"}, r"per: unknown value 'network'; known: 'layer', 'unit'"),
        ({"n_draws": 1}, "n_draws: found 1; expected an integer of at least 2"),
        ({"alphas": [0]}, "alphas: found 0; expected finite numbers"),
        (
            {"per": "unit", "distance": "cosine"},
            "distance: 'cosine' means nothing for a single unit; .*, or per='layer'",
        ),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        mx.decompose(random_data(0), **options)


@pytest.mark.parametrize("names", [["a", "b", "a+b"], ["a", "none"]])
def test_names_that_make_subsets_ambiguous_are_refused(names):
    rng = np.random.default_rng(0)
    data = dataset({name: rng.integers(0, 2, 30) for name in names}, rng.normal(size=(30, 2)))
    with pytest.raises(InputError, match="^features: found .*two subsets would be called"):
        mx.decompose(data)


def test_too_few_sentences_are_named():
    data = random_data(0, n=6)
    with pytest.raises(InputError, match="^folds: 6 sentences leave a fold of 'sentences' without"):
        mx.decompose(data, folds="sentences")


@pytest.mark.parametrize("options", [{"distance": "canberra"}, {"target": "none"}], ids=str)
def test_units_without_a_short_way_are_decomposed_like_layers_of_one_unit(options):
    data = random_data(5, n_units=2)
    # A given feature distance has as many values as there are pairs.
    number = np.random.default_rng(6).normal(size=(1, data.sizes["sentence"]))
    apart = np.abs(number[..., np.newaxis] - number[:, np.newaxis])
    given = data.assign(feature_distance=(("feature", "sentence", "other_sentence"), apart))
    given = given.assign_coords(feature=["edits"], other_sentence=data["sentence"].values)
    for one in (data, given):
        result = mx.decompose(one, per="unit", **options)
        for unit in (0, 1):
            alone = mx.decompose(one.isel(unit=[unit]), **options)
            found = result.isel(unit=unit, drop=True)
            xr.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-7)
