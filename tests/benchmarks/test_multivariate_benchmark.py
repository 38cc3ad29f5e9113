"""Multivariate importance against Ridge over the pair matrix, and on 29 million pairs."""

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

N_LAYERS = 12


def twelve_layers():
    """Own and plain seconds: the plain way explains one layer; both after a first call."""
    stimuli = mx.read_stimuli("short_sentence")
    data = simulated(stimuli, N_LAYERS, 768)
    mx.multivariate_importance(data.isel(layer=[0]))
    result, own = seconds(mx.multivariate_importance, data, repeats=5)
    layer = data["activation"].values[4]
    expected, plain = seconds(plain_explain, plain_pairs(stimuli), layer)
    assert_agrees(result.isel(layer=4), expected)
    return own, plain


@pytest.mark.benchmark
def test_twelve_layers_against_the_plain_way():
    (own, plain), memory = alone(twelve_layers)
    report(
        f"multivariate, {N_LAYERS} layers of 522 x 768, one core: mlem_xr {own:.3f} s; plain "
        f"{plain:.2f} s for one layer, x {N_LAYERS} = {N_LAYERS * plain:.1f} s; "
        f"ratio {N_LAYERS * plain / own:.0f}; peak memory {memory / GIB:.2f} GiB"
    )


def one_large_layer():
    return seconds(mx.multivariate_importance, large_layer())


@pytest.mark.benchmark
def test_a_layer_of_29_million_pairs():
    (result, own), memory = alone(one_large_layer, threads=2)
    off, _ = alone(check_pair_by_pair, result, list(range(N_UNITS)))
    report(
        f"multivariate, 7,680 x {N_UNITS}, 14 features, two cores: {own:.1f} s with the pair "
        f"design; peak memory {memory / GIB:.2f} GiB; importances within {off:.1f} standard "
        "errors of one real permutation"
    )
    assert memory < 3 * GIB
