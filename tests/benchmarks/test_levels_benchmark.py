"""Level sums against pairs: time and memory of scans with folds of sentences."""

from unittest.mock import patch

import numpy as np
import pytest
import xarray as xr
from measuring import GIB, alone, report, seconds, simulated

import mlem_xr as mx
from mlem_xr.kernels import design, explain_levels, explain_patterns, levels


def scan(data):
    return mx.univariate_importance(data, folds="sentences")


def whole_layer(data):
    return mx.multivariate_importance(data, folds="sentences")


def layer(name, n_units=768):
    return simulated(mx.read_stimuli(name), 1, n_units).isel(layer=0, drop=True)


def repeated(data, times):
    """The same sentences several times, with other noise."""
    large = xr.concat([data] * times, "sentence").assign_attrs(data.attrs)
    noise = np.random.default_rng(0).normal(size=large["activation"].shape)
    large["activation"] = large["activation"] + noise.astype(np.float32)
    return large.assign_coords(sentence=np.arange(large.sizes["sentence"]))


def over_pairs(data):
    """The same call over pairs, as it was before: without errors over sentences.

    They take a second pass over the pairs for every unit, which would make the comparison too easy.
    """
    with (
        patch.object(explain_levels, "on_levels", lambda options: False),
        patch.object(explain_patterns, "_errors_over_sentences", no_errors),
    ):
        return scan(data)


def no_errors(sums, design, folds, metrics, *others):
    n_targets, n_features = metrics.importance.shape
    return np.zeros((n_targets, n_features + 1))


def check_units(result, data, units=(0, 7)):
    """Compare with the same units as layers of one unit, whose sums are made in another way."""
    for unit in units:
        alone_ = whole_layer(data.isel(unit=[unit]))
        for name in ("importance", "std_error", "r2", "r2_std_error", "weight"):
            expected = alone_[name].values
            scale = np.max(np.abs(np.nan_to_num(expected)))
            found = result[name].isel(unit=unit).values
            np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10 * scale, err_msg=name)


def both_roads(name, repeats):
    """Seconds on levels and over pairs in turn, each with the design that it needs."""
    data = layer(name)
    small = data.isel(sentence=slice(0, 200))
    scan(small)
    over_pairs(small)
    times = []
    for _ in range(repeats):
        levels._cached_design.cache_clear()
        design._cached_design.cache_clear()
        (result, own), (expected, pairs) = seconds(scan, data), seconds(over_pairs, data)
        times.append((own, pairs))
    check_units(result, data)
    for variable in ("importance", "r2", "weight"):
        scale = float(np.abs(expected[variable]).max())
        np.testing.assert_allclose(result[variable], expected[variable], atol=1e-5 * scale)
    return np.median(times, axis=0).tolist()


@pytest.mark.benchmark
@pytest.mark.parametrize(("name", "repeats"), [("short_sentence", 5), ("relative_clause", 3)])
def test_levels_against_pairs(name, repeats):
    (own, pairs), _ = alone(both_roads, name, repeats)
    report(
        f"scan of 768 units with folds of sentences, {name}, one core: {own:.3f} s on levels, "
        f"{pairs:.2f} s over pairs without errors; ratio {pairs / own:.0f}"
    )


def the_same_call(data):
    with patch.object(explain_levels, "on_levels", lambda options: False):
        return scan(data)


def with_errors_on_both(name, repeats):
    """Seconds on levels and over pairs in turn, errors over sentences included in either."""
    data = layer(name)
    scan(data.isel(unit=slice(0, 64)))
    the_same_call(data.isel(unit=slice(0, 64)))
    times = []
    for _ in range(repeats):
        (result, own), (expected, pairs) = seconds(scan, data), seconds(the_same_call, data)
        times.append((own, pairs))
    for variable in ("importance", "std_error", "r2", "r2_std_error"):
        scale = float(np.abs(expected[variable]).max())
        np.testing.assert_allclose(result[variable], expected[variable], atol=1e-5 * scale)
    return np.median(times, axis=0).tolist()


@pytest.mark.benchmark
def test_the_same_call_over_pairs():
    (own, pairs), _ = alone(with_errors_on_both, "short_sentence", 5)
    report(
        f"the same with errors on both roads, short_sentence: {768 / own:,.0f} units/s on levels, "
        f"{768 / pairs:,.0f} units/s over pairs; ratio {pairs / own:.0f}"
    )


def growing():
    data = layer("relative_clause")
    scan(data.isel(unit=slice(0, 64)))
    large_data = repeated(data, 4)
    times = []
    for _ in range(3):
        (result, small), (many, large) = seconds(scan, data), seconds(scan, large_data)
        times.append((small, large))
    check_units(result, data)
    check_units(many, large_data)
    return np.median(times, axis=0).tolist()


@pytest.mark.benchmark
def test_the_time_grows_with_the_sentences():
    (small, large), _ = alone(growing)
    report(f"7,680 sentences {small:.2f} s, 30,720 sentences {large:.2f} s: {large / small:.1f}")


def scans(name, times, share):
    """Seconds of a scan in which this share of the activations is not 0, and of the same without.

    As many units as a small sparse autoencoder has, so that what a scan takes once counts little.
    """
    dense = layer(name, 8 * 768)
    if times > 1:
        dense = repeated(dense, times)
    values = dense["activation"].values
    kept = np.random.default_rng(1).random(values.shape) < share
    sparse = dense.assign(activation=(("sentence", "unit"), np.where(kept, np.abs(values), 0)))
    found = []
    for data in (dense, sparse):
        scan(data.isel(unit=slice(0, 128)))
        result, spent = seconds(scan, data, repeats=2)
        check_units(result, data)
        found.append(spent)
    return found


@pytest.mark.benchmark
@pytest.mark.parametrize(("times", "share"), [(1, 0.01), (1, 0.001), (4, 0.01)])
def test_zeros_cost_little(times, share):
    (dense, sparse), _ = alone(scans, "relative_clause", times, share)
    report(
        f"{7680 * times:,} sentences x 6,144 units, {1 - share:.1%} zeros against none: whole scan "
        f"{dense:.2f} s and {sparse:.2f} s, ratio {dense / sparse:.1f}"
    )


def many_sentences():
    """200,000 sentences x 12 features x 256 units."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, size=(200_000, 12))
    values = rng.standard_normal((200_000, 256), dtype=np.float32)
    values += codes @ rng.normal(size=(12, 256)).astype(np.float32)
    data = xr.Dataset(
        {"activation": (("sentence", "unit"), values)},
        {f"f{k}": ("sentence", codes[:, k]) for k in range(12)},
    )
    result, units = seconds(scan, data)
    _, whole = seconds(whole_layer, data)
    check_units(result, data)
    return units, whole


@pytest.mark.benchmark
def test_many_sentences_need_little_memory():
    (units, whole), memory = alone(many_sentences)
    report(
        f"200,000 sentences x 12 features x 256 units, one core: scan {units:.1f} s, layer "
        f"{whole:.1f} s; peak memory {memory / GIB:.2f} GiB"
    )
    assert memory < 4 * GIB
