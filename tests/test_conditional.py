import numpy as np
import pandas as pd
import pytest
import xarray as xr

import mlem_xr as mx
import plain
from mlem_xr.kernels.conditional import residuals
from mlem_xr.kernels.design import pair_design
from mlem_xr.kernels.features import features_of
from mlem_xr.stimuli.pairs import feature_codes


@pytest.fixture
def related(stimuli, activations):
    """Activations of sentences two of whose features go together most of the time."""
    number = stimuli["number"].values
    same = np.where(np.arange(40) % 5 == 0, "sg", number)
    return activations.assign_coords(animate=("sentence", same))


def pair_rows(data):
    columns = [data[name].values for name in data.attrs["features"]]
    return plain.feature_distances(columns)


@pytest.mark.parametrize("method", [True, "exact"])
def test_conditional_importance_is_that_of_resampled_residuals(related, method):
    """Replace a feature by its prediction plus the residual of every other pair, one by one."""
    cell = {"model": 0, "seed": 0, "step": 0, "pooling": 1, "layer": 1}
    result = mx.multivariate_importance(related, conditional=method).isel(cell)
    x = pair_rows(related)
    y = plain.target(
        related["activation"].isel(cell).values, "euclidean", min_max=True, zscore=False
    )
    splits = plain.pair_splits(len(y), 0)
    design = pair_design(features_of(feature_codes(related).values))
    rows = [tuple(row) for row in design.pattern]
    permuted = []
    for fold, (_, _, _, test) in enumerate(splits):
        left = residuals(design.pattern, design.n_pairs[fold].sum(axis=0), method, 0)
        permuted.append(left[[rows.index(tuple(row)) for row in x[test]]])
    expected = plain.explain(x, y, splits, permuted=permuted)
    for name in ("importance", "std_error", "weight", "r2"):
        scale = np.max(np.abs(expected[name]))
        np.testing.assert_allclose(result[name], expected[name], rtol=2e-4, atol=2e-4 * scale)


def test_exact_residuals_are_those_of_a_loop_over_pairs(related):
    x = pair_rows(related)
    pattern, index, count = np.unique(x, axis=0, return_inverse=True, return_counts=True)
    found = residuals(pattern, count.astype(float), "exact", 0)[index.ravel()]
    for k in range(x.shape[1]):
        others = np.delete(x, k, axis=1)
        for p in range(0, len(x), 37):
            alike = (others == others[p]).all(axis=1)
            assert found[p, k] == pytest.approx(x[p, k] - x[alike, k].mean())


def test_a_forest_finds_what_the_other_features_predict():
    """x_2 is x_0 or x_1, which a forest of depth 2 knows; x_3 is independent."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2, (4000, 4)).astype(float)
    rows[:, 2] = np.maximum(rows[:, 0], rows[:, 1])
    pattern, count = np.unique(rows, axis=0, return_counts=True)
    left = residuals(pattern, count.astype(float), True, 0)
    np.testing.assert_allclose(left[:, 2], 0, atol=1e-12)
    np.testing.assert_allclose(np.abs(left[:, 3]), 0.5, atol=0.05)
    np.testing.assert_array_equal(left, residuals(pattern, count.astype(float), True, 0))


def test_the_forest_is_a_random_forest_over_pairs():
    """The weighted patterns give what scikit-learn's forest gives for one row per pair."""
    from sklearn.ensemble import RandomForestRegressor

    rng = np.random.default_rng(1)
    rows = rng.integers(0, 2, (3000, 5)).astype(float)
    rows[:, 4] = (rows[:, :4].sum(axis=1) + rng.integers(0, 2, 3000) > 2).astype(float)
    pattern, count = np.unique(rows, axis=0, return_counts=True)
    left = residuals(pattern, count.astype(float), True, 0)[:, 4]
    forest = RandomForestRegressor(200, max_depth=5, random_state=0).fit(rows[:, :4], rows[:, 4])
    np.testing.assert_allclose(pattern[:, 4] - left, forest.predict(pattern[:, :4]), atol=0.05)


def test_a_feature_that_another_determines_has_no_conditional_importance(activations, stimuli):
    twin = activations.assign_coords(animate=("sentence", stimuli["number"].values == "sg"))
    plainly = mx.univariate_importance(twin)["importance"].isel(unit=0)
    exact = mx.univariate_importance(twin, conditional="exact")
    assert (plainly.sel(feature=["number", "animate"]) > 0).all()
    np.testing.assert_allclose(
        exact["importance"].isel(unit=0).sel(feature=["number", "animate"]), 0, atol=1e-15
    )
    assert (exact["p_value"].isel(unit=0).sel(feature=["number", "animate"]) == 1).all()


@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("folds", ["pairs", "sentences"])
@pytest.mark.parametrize("method", [True, "exact"])
def test_what_rounding_leaves_of_a_number_is_nothing(method, folds, seed):
    """Its mean over pairs that are alike is not quite the number itself."""
    rng = np.random.default_rng(seed)
    length = rng.choice(rng.normal(size=6).round(2), 60)
    tense = rng.integers(0, 2, 60)
    units = np.column_stack([3 * length, 3 * tense]) + rng.normal(size=(60, 2))
    columns = {"length": length, "twice": 2 * length, "tense": tense}
    data = mx.from_arrays(
        units, pd.DataFrame(columns), dims=("sentence", "unit"), numeric=["length", "twice"]
    )
    both = {"both": ["length", "twice"]}
    result = mx.multivariate_importance(data, conditional=method, folds=folds, groups=both)
    determined = result.sel(feature=["length", "twice"])
    assert (determined["importance"] == 0).all() and (determined["p_value"] == 1).all()
    assert (result["importance"].sel(feature=["tense", "both"]) > 0).all()


@pytest.mark.parametrize("method", [True, "exact"])
def test_conditional_results_differ_in_the_importance_alone(related, method):
    plainly = mx.multivariate_importance(related)
    result = mx.multivariate_importance(related, conditional=method)
    changed = ["importance", "std_error", "p_value"]
    xr.testing.assert_identical(
        result.drop_vars(changed).drop_attrs(), plainly.drop_vars(changed).drop_attrs()
    )
    assert (np.abs(result["importance"] - plainly["importance"]) > 0).any()
