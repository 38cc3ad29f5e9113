"""Scans of units against Ridge over the pair matrix, the kernel alone, and 29 million pairs."""

import numpy as np
import pytest
from large import N_UNITS, check_pair_by_pair, large_layer
from measuring import (
    GIB,
    alone,
    assert_agrees,
    plain_explain,
    plain_pairs,
    report,
    seconds,
    simulated,
)

import mlem_xr as mx
from mlem_xr.kernels import moments
from mlem_xr.kernels.design import pair_design
from mlem_xr.kernels.features import features_of
from mlem_xr.kernels.targets import TARGETS
from mlem_xr.stimuli.pairs import feature_codes


def many_units():
    """Own units per second and plain seconds per unit, after a first call."""
    stimuli = mx.read_stimuli("short_sentence")
    data = simulated(stimuli, 4, 768)
    mx.univariate_importance(data.isel(layer=[0]))
    result, own = seconds(mx.univariate_importance, data, repeats=5)
    x, plain = plain_pairs(stimuli), []
    for unit in (0, 100, 767):
        one = result.isel(layer=2, unit=unit)
        expected, time = seconds(plain_explain, x, data["activation"].values[2][:, [unit]])
        assert_agrees(one, expected)
        plain.append(time)
    return result["r2"].size / own, float(np.median(plain))


@pytest.mark.benchmark
def test_units_against_the_plain_way():
    (rate, plain), memory = alone(many_units)
    report(
        f"univariate, 522 sentences, 9 features, one core: {rate:,.0f} units/s; plain "
        f"{plain:.2f} s per unit; ratio {rate * plain:,.0f}; peak memory {memory / GIB:.2f} GiB"
    )


def kernel(name):
    """Pairs x units per second of the fused kernel, and how far its sums are from plain ones."""
    codes = feature_codes(mx.read_stimuli(name)).values
    pairs = pair_design(features_of(codes)).pairs
    activation = np.random.default_rng(0).normal(size=(len(codes), moments.BLOCK))
    target = TARGETS["square"].of_units(activation, True)
    moments.unit_moments(target, pairs)
    (total, squared), time = seconds(moments.unit_moments, target, pairs, repeats=7)
    first, second, start = pairs
    filled = start[:-1][np.diff(start) > 0]
    off = 0.0
    for unit in (0, 33):
        d = np.abs(activation[first, unit] - activation[second, unit])
        y = ((d - d.min()) / (d.max() - d.min())) ** 2
        for found, expected in ((total, y), (squared, y**2)):
            plain = np.zeros(len(found))
            plain[np.diff(start) > 0] = np.add.reduceat(expected, filled)
            off = max(off, np.abs(found[:, unit] - plain).max() / plain.max())
    return len(first) * moments.BLOCK / time, off


@pytest.mark.benchmark
@pytest.mark.parametrize("name", ["short_sentence", "relative_clause"])
def test_kernel_of_moments(name):
    (rate, off), _ = alone(kernel, name)
    report(f"moments kernel, {name}, one core: {rate:.2e} pairs x units per second")
    assert off < 1e-6


def one_large_layer():
    return seconds(mx.univariate_importance, large_layer())


@pytest.mark.benchmark
def test_units_of_29_million_pairs():
    (result, own), memory = alone(one_large_layer)
    off, _ = alone(check_pair_by_pair, result.isel(unit=500), [500])
    report(
        f"univariate, 7,680 x {N_UNITS}, 14 features, one core: {own:.1f} s with the pair design; "
        f"peak memory {memory / GIB:.2f} GiB; importances of a unit within {off:.1f} standard "
        "errors of one real permutation"
    )
    assert memory < 3 * GIB
