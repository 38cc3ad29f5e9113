import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.spatial.distance import pdist

import mlem_xr as mx
from helpers import lazy
from mlem_xr.kernels.distances import distances_from_products
from mlem_xr.schema import InputError

WHERE = {"model": 0, "seed": 1, "step": 0, "pooling": 1, "layer": 2}


def plain_choice(scores, by, k):
    """The original's choice: pandas' nlargest and nsmallest with all ties."""
    series = pd.Series(scores)
    if by in ("mse", "mae"):
        return series.nsmallest(k, keep="all").index
    return series.nlargest(k, keep="all").index


@pytest.mark.parametrize("by", ["r2", "r", "mse", "mae", "number"])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_top_units_are_the_multivariate_importance_of_the_chosen(activations, by, distance):
    scan = mx.univariate_importance(activations, mae=True)
    ks = [2, 3, 5]
    result = mx.top_unit_importance(activations, scan, by=by, k=ks, distance=distance, mae=True)
    assert result["importance"].dims[-3:] == ("layer", "k", "feature")
    score = scan["importance"].sel(feature=by) if by == "number" else scan[by]
    for k in ks:
        chosen = plain_choice(score.isel(WHERE).values, by, k)
        found = np.flatnonzero(result["chosen"].isel(WHERE).sel(k=k))
        assert found.tolist() == sorted(chosen)
        part = activations.isel(WHERE).isel(unit=sorted(chosen))
        expected = mx.multivariate_importance(part, distance=distance, mae=True)
        ours = result.isel(WHERE).sel(k=k).drop_vars(["chosen", "k", "unit"])
        xr.testing.assert_allclose(ours, expected, rtol=1e-7, atol=1e-12)


def test_distances_from_products_are_scipy_s():
    activation = np.random.default_rng(0).normal(size=(30, 7))
    activation[4] = activation[9]
    out = np.full((30, 30), np.nan)
    distances_from_products(np.triu(activation @ activation.T), out)
    above = np.triu_indices(30, 1)
    np.testing.assert_allclose(out[above], pdist(activation), rtol=1e-10, atol=1e-7)
    assert np.isnan(out[np.tril_indices(30)]).all()


def test_rounding_leaves_no_square_below_zero():
    product = np.array([[1.0, 1.0 + 1e-15], [0.0, 1.0]])
    out = np.empty((2, 2))
    distances_from_products(product, out)
    assert out[0, 1] == 0.0


@pytest.mark.parametrize("zscore", [False, True])
def test_large_means_and_equal_sentences_lose_no_digits(activations, zscore):
    values = activations["activation"].astype(float)
    values = values + 1e5 * values["unit"]
    values[..., 7, :] = values[..., 8, :]
    data = activations.assign(activation=values)
    scan = mx.univariate_importance(data)
    result = mx.top_unit_importance(data, scan, k=[2, 5], zscore=zscore).isel(WHERE)
    for k in (2, 5):
        units = np.flatnonzero(result["chosen"].sel(k=k))
        part = data.isel(WHERE).isel(unit=units)
        # Centered, or squares of 1e10 would leave six digits.
        part["activation"] = part["activation"] - part["activation"].mean("sentence")
        expected = mx.multivariate_importance(part, zscore=zscore)
        ours = result.sel(k=k).drop_vars(["chosen", "k", "unit"])
        xr.testing.assert_allclose(ours, expected, rtol=1e-7, atol=1e-12)


def test_threads_and_processes_agree_bit_for_bit(activations, processes):
    data = lazy(activations)
    result = mx.top_unit_importance(data, mx.univariate_importance(data), k=[1, 3])
    threads = result.compute(scheduler="threads")
    xr.testing.assert_identical(threads, result.compute(**processes))
    eager = mx.top_unit_importance(activations, mx.univariate_importance(activations), k=[1, 3])
    xr.testing.assert_identical(threads, eager)


def test_ties_are_all_in_and_units_without_a_score_never(activations):
    activations["activation"][..., 3] = activations["activation"][..., 0]
    activations["activation"][..., 4] = 1.0
    scan = mx.univariate_importance(activations)
    result = mx.top_unit_importance(activations, scan, k=[1, 4, 50])
    cell = result["chosen"].isel(WHERE)
    best = plain_choice(scan["r2"].isel(WHERE).values, "r2", 1)
    assert np.flatnonzero(cell.sel(k=1)).tolist() == sorted(best)
    assert np.flatnonzero(cell.sel(k=4)).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(cell.sel(k=50)).tolist() == [0, 1, 2, 3]
    assert {0, 3} <= set(best) or not {0, 3} & set(best)


def test_constant_units_are_never_among_the_best_of_a_feature(activations):
    """Their importance is 0, which is more than a negative one."""
    activations["activation"][..., 4] = 1.0
    scan = mx.univariate_importance(activations)
    chosen = mx.top_unit_importance(activations, scan, by="number", k=5)["chosen"]
    assert not chosen.sel(unit=4).any()
    assert chosen.drop_sel(unit=4).all()


def test_a_score_is_meant_where_a_feature_has_its_name(activations):
    named = activations.rename(number="r2").assign_attrs(features=["r2", "frequency"])
    scan = mx.univariate_importance(named)
    scan["r2"][..., 4] = 1.0
    chosen = mx.top_unit_importance(named, scan, by="r2", k=1)["chosen"]
    assert chosen.sel(unit=4).all()


def test_units_can_be_ranked_by_a_feature_with_the_name_of_a_score(activations):
    named = activations.rename(number="r2").assign_attrs(features=["r2", "frequency"])
    scan = mx.univariate_importance(named)
    best = mx.top_unit_importance(named, scan, by="feature:r2", k=1)
    plain_scan = mx.univariate_importance(activations, features=["number", "frequency"])
    options = {"features": ["number", "frequency"]}
    expected = mx.top_unit_importance(activations, plain_scan, by="number", k=1, **options)
    np.testing.assert_array_equal(best["chosen"], expected["chosen"])
    assert not (best["chosen"] == mx.top_unit_importance(named, scan, k=1)["chosen"]).all()
    with pytest.raises(InputError, match="^by: unknown value .*'feature:r2', 'frequency'"):
        mx.top_unit_importance(named, scan, by="feature:tense", k=1)


def test_what_was_not_recorded_stays_nan(activations):
    activations["activation"][:, 1] = np.nan
    activations["activation"][..., 0, :, 2:] = np.nan
    scan = mx.univariate_importance(activations)
    result = mx.top_unit_importance(activations, scan, k=[1, 3])
    assert np.isnan(result["r2"].isel(seed=1)).all()
    assert not result["chosen"].isel(seed=1).any()
    assert (result["chosen"].isel(seed=0, layer=0).sel(k=3).sum("unit") == 2).all()
    assert np.isfinite(result["importance"].isel(seed=0)).all()


def test_lazy_results_are_those_of_numpy(activations):
    eager = mx.top_unit_importance(activations, mx.univariate_importance(activations), k=[1, 3])
    for chunks in ({"layer": 1}, {"seed": 1, "unit": 2}, {"sentence": 9}):
        data = lazy(activations, **chunks)

        def refuse(*args, **kwargs):
            raise AssertionError("computed too early")

        with dask.config.set(scheduler=refuse):
            result = mx.top_unit_importance(data, mx.univariate_importance(data), k=[1, 3])
        xr.testing.assert_allclose(result.compute(), eager, rtol=1e-10)


def test_bad_options_are_named(activations):
    scan = mx.univariate_importance(activations)
    with pytest.raises(InputError, match="^univariate: no variable 'mae'; found: 'importance'"):
        mx.top_unit_importance(activations, scan, by="mae", k=1)
    with pytest.raises(InputError, match="^k: found 0; expected an integer of at least 1"):
        mx.top_unit_importance(activations, scan, k=[0, 3])
    for k in (2**40, np.array(3.0)):
        with pytest.raises(InputError, match="^k: found .*; expected an integer of at least 1"):
            mx.top_unit_importance(activations, scan, k=k)
    with pytest.raises(InputError, match="'mahalanobis' cannot be computed from .* shape .40, 1."):
        mx.top_unit_importance(activations, scan, k=1, distance="mahalanobis")
    with pytest.raises(InputError, match="^k: an empty list"):
        mx.top_unit_importance(activations, scan, k=[])
    with pytest.raises(InputError, match="its labels along 'layer' are not those"):
        mx.top_unit_importance(activations, scan.isel(layer=slice(0, 2)), k=1)
    with pytest.raises(InputError, match="'r2' has no dimension 'unit'"):
        mx.top_unit_importance(activations, mx.multivariate_importance(activations), k=1)


def test_a_representation_with_nan_is_named(activations):
    scan = mx.univariate_importance(activations)
    activations["activation"][0, 0, 0, 1, 2, 7, 3] = np.nan
    with pytest.raises(InputError, match="NaN or infinite values in .*layer=3"):
        mx.top_unit_importance(activations, scan, k=1)


def test_a_scan_of_an_earlier_recording_is_refused(activations):
    def recorded(name):
        marks = (("model", "seed", "step"), np.full((1, 2, 1), name, dtype=object))
        return activations.assign_coords(fingerprint=marks)

    scan = mx.univariate_importance(recorded("earlier"))
    with pytest.raises(InputError, match="^univariate: the activations have been recorded again"):
        mx.top_unit_importance(recorded("now"), scan, k=1)


def test_a_lazy_scan_of_activations_in_memory_gives_the_same(activations):
    scan = mx.univariate_importance(activations)
    expected = mx.top_unit_importance(activations, scan, k=[1, 3])
    result = mx.top_unit_importance(activations, scan.chunk({"unit": 2, "seed": 1}), k=[1, 3])
    xr.testing.assert_identical(result.compute(), expected)


@pytest.mark.filterwarnings("ignore:activations. all sentences have the same activations")
def test_layers_whose_units_are_all_constant_have_no_best_ones(activations):
    activations["activation"][0, 0, 0, 0, 1] = 3.0
    scan = mx.univariate_importance(activations)
    best = mx.top_unit_importance(activations, scan, k=[1, 2])
    constant = best.sel(seed=0, pooling="first-token", layer=2)
    assert np.isnan(constant["r2"]).all()
    assert not constant["chosen"].any()
    assert np.isfinite(best["r2"].sel(layer=[1, 3])).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"zscore": True}, {"folds": "sentences"}], ids=str)
@pytest.mark.parametrize("distance", ["euclidean", "manhattan", "norm_diff"])
def test_units_that_vary_by_rounding_alone_have_nothing_to_explain(dtype, options, distance):
    """Among these sentences; among those that they were chosen on they do vary."""
    rng = np.random.default_rng(0)
    values, feature = rng.normal(size=(120, 3)), np.tile([0, 1], 60)
    values[:60, 0] += 4 * feature[:60]
    values[60:, 0] = 0.3 * (1 + np.finfo(dtype).eps * rng.integers(-2, 3, 60))
    data = xr.Dataset(
        {"activation": (("sentence", "unit"), values.astype(dtype))},
        coords={"plural": ("sentence", feature)},
    )
    scan = mx.univariate_importance(data.isel(sentence=slice(60)))
    others = data.isel(sentence=slice(60, None))
    result = mx.top_unit_importance(others, scan, k=1, distance=distance, **options)
    assert np.isnan(result["r2"]).all()
    assert (result["importance"] == 0).all()
    assert (result["p_value"] == 1).all()
