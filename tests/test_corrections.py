import dask
import numpy as np
import pytest
import xarray as xr
from scipy.stats import false_discovery_control
from statsmodels.stats.multitest import multipletests

import mlem_xr as mx
from mlem_xr.analyses.corrections import correct_p_values
from mlem_xr.schema import InputError

STATSMODELS = {"fdr": "fdr_bh", "holm-sidak": "holm-sidak"}
METHODS = list(STATSMODELS)


@pytest.fixture
def scan() -> xr.Dataset:
    """Two seeds, two layers, thirty units, three features; some units have no results."""
    rng = np.random.default_rng(3)
    p_value = rng.uniform(size=(2, 2, 30, 3)) ** 4
    p_value[0, 0, :4] = [0, 1, 1e-300]
    p_value[0, 1, 10:] = np.nan
    p_value[1, 0] = np.nan
    p_value[1, 1, 5:9] = 0.02
    return xr.Dataset(
        {
            "p_value": (("seed", "layer", "unit", "feature"), p_value, {"long_name": "p"}),
            "r2": (("seed", "layer", "unit"), p_value[..., 0] / 2),
        },
        {"seed": [0, 1], "layer": [1, 2], "feature": list("abc"), "source": ("seed", ["x", "y"])},
        {"analysis": "univariate_importance", "settings": {"zscore": False}},
    )


def lazy(scan: xr.Dataset, **chunks: int) -> xr.Dataset:
    return scan.assign(p_value=scan["p_value"].chunk(chunks))


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning:statsmodels")
@pytest.mark.parametrize("method", METHODS)
def test_p_values_are_those_of_statsmodels(scan, method):
    result = correct_p_values(scan, method=method)
    for seed in range(2):
        for layer in range(2):
            for feature in range(3):
                cell = {"seed": seed, "layer": layer, "feature": feature}
                given = scan["p_value"].isel(cell).values
                expected = np.full(30, np.nan)
                present = ~np.isnan(given)
                if present.any():
                    tests = multipletests(given[present], method=STATSMODELS[method])
                    expected[present] = tests[1]
                found = result["p_value"].isel(cell).values
                np.testing.assert_allclose(found, expected, rtol=1e-13, atol=0)


def test_fdr_is_that_of_scipy(scan):
    given = scan["p_value"].isel(seed=0, layer=0)
    expected = false_discovery_control(given.values, axis=0)
    np.testing.assert_array_equal(correct_p_values(scan)["p_value"][0, 0], expected)


@pytest.mark.parametrize("method", METHODS)
def test_units_are_found_along_any_axis(scan, method):
    turned = scan.transpose("unit", "feature", "layer", "seed")
    result = correct_p_values(turned, method=method)
    assert result["p_value"].dims == ("unit", "feature", "layer", "seed")
    xr.testing.assert_equal(result.transpose(*scan.dims), correct_p_values(scan, method=method))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("chunks", [{}, {"seed": 1, "layer": 1}, {"unit": 7}, {"feature": 2}])
def test_lazy_results_are_those_of_numpy(scan, method, chunks):
    result = correct_p_values(lazy(scan, **chunks), method=method)
    assert result["p_value"].chunks is not None
    assert result["source"].chunks is None
    xr.testing.assert_identical(result.compute(), correct_p_values(scan, method=method))


def test_nothing_is_computed_before_it_is_asked_for(scan):
    def refuse(*args, **kwargs):
        raise AssertionError("computed too early")

    with dask.config.set(scheduler=refuse):
        result = correct_p_values(lazy(scan, layer=1, unit=10))
        with pytest.raises(AssertionError, match="computed too early"):
            result.compute()


def test_everything_else_stays_and_the_input_too(scan):
    before = scan.copy(deep=True)
    result = correct_p_values(scan, method="holm-sidak")
    xr.testing.assert_identical(scan, before)
    xr.testing.assert_identical(result.drop_vars("p_value").drop_attrs(), _rest(scan))
    assert result["p_value"].attrs == {"long_name": "p"}
    assert result.attrs["analysis"] == "correct_p_values"
    corrected = {"analysis": "univariate_importance", "zscore": False}
    assert result.attrs["settings"] == {"method": "holm-sidak", "result": corrected}
    xr.testing.assert_identical(correct_p_values(scan, method=None), scan)


def _rest(scan):
    return scan.drop_vars("p_value").drop_attrs()


def test_a_scan_of_activations_can_be_corrected(activations):
    scan = mx.univariate_importance(activations)
    corrected = correct_p_values(scan)["p_value"]
    assert corrected.dims == scan["p_value"].dims
    assert (corrected >= scan["p_value"]).all()
    assert (corrected > scan["p_value"]).any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [-1e-9, 1 + 1e-9])
def test_what_is_no_probability_is_refused(scan, method, value):
    scan["p_value"].loc[{"unit": 3}] = value
    with pytest.raises(InputError, match="^result: a p-value is below 0 or above 1"):
        correct_p_values(scan, method=method)


def test_bad_input_is_named(scan):
    with pytest.raises(InputError, match="^method: unknown value 'bonferroni'; known: 'fdr'"):
        correct_p_values(scan, method="bonferroni")
    with pytest.raises(InputError, match="^result: no variable 'p_value'; found: 'r2'"):
        correct_p_values(scan[["r2"]])
    with pytest.raises(
        InputError,
        match="^result: 'p_value' has no dimension 'unit'; found: 'seed',",
    ):
        correct_p_values(scan.isel(unit=0))
    with pytest.raises(InputError, match="has no dimension 'unit'"):
        correct_p_values(scan.isel(unit=0), method=None)
    with pytest.raises(InputError, match="^result: expected an xarray Dataset"):
        correct_p_values(scan["p_value"])
    with pytest.raises(InputError, match=r"have been corrected already \(fdr\)"):
        correct_p_values(correct_p_values(scan))


@pytest.mark.parametrize("method", METHODS)
def test_p_values_in_single_precision_are_corrected_in_double(method):
    given = np.linspace(1e-4, 0.9, 20).astype(np.float32)
    scan = xr.Dataset({"p_value": (("unit", "feature"), given[:, None])})
    found = correct_p_values(scan, method=method)["p_value"][:, 0]
    expected = multipletests(given.astype(np.float64), method=STATSMODELS[method])[1]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-13)
