"""Level sums against pairs: time and memory of scans with folds of sentences."""

from unittest.mock import patch

import numpy as np
import pytest
import xarray as xr
from measuring import GIB, alone, report, seconds, simulated

import mlem_xr as mx
from mlem_xr.kernels import explain_levels, explain_patterns, levels, unit_levels
from mlem_xr.stimuli.pairs import feature_codes


def scan(data):
    return mx.univariate_importance(data, folds="sentences")


def whole_layer(data):
    return mx.multivariate_importance(data, folds="sentences")


def layer(name, sparse=False):
    data = simulated(mx.read_stimuli(name), 1, 768).isel(layer=0, drop=True)
    if sparse:
        values = data["activation"].values
        kept = np.random.default_rng(1).random(values.shape) < 0.01
        data["activation"] = (("sentence", "unit"), np.where(kept, np.abs(values), 0))
    return data


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


def no_errors(sums, design, folds, metrics, items, options):
    n_targets, n_features = metrics.importance.shape
    return np.zeros((n_targets, n_features + 1))


def both_roads(name, repeats):
    """Seconds on levels and over pairs, each with the design that it needs."""
    data = layer(name)
    small = data.isel(sentence=slice(0, 200))
    scan(small)
    over_pairs(small)
    times = []
    for _ in range(repeats):
        levels._cached_design.cache_clear()
        result, time = seconds(scan, data)
        times.append(time)
    expected, pairs = seconds(over_pairs, data)
    for variable in ("importance", "r2", "weight"):
        scale = float(np.abs(expected[variable]).max())
        np.testing.assert_allclose(result[variable], expected[variable], atol=1e-5 * scale)
    return float(np.median(times)), pairs


@pytest.mark.benchmark
@pytest.mark.parametrize(("name", "repeats"), [("short_sentence", 5), ("relative_clause", 5)])
def test_levels_against_pairs(name, repeats):
    (own, pairs), _ = alone(both_roads, name, repeats)
    report(
        f"scan of 768 units with folds of sentences, {name}, one core: {own:.3f} s on levels, "
        f"{pairs:.2f} s over pairs without errors; ratio {pairs / own:.0f}"
    )


def growing():
    data = layer("relative_clause")
    scan(data.isel(unit=slice(0, 64)))
    _, small = seconds(scan, data, repeats=3)
    _, large = seconds(scan, repeated(data, 4))
    return small, large


@pytest.mark.benchmark
def test_the_time_grows_with_the_sentences():
    (small, large), _ = alone(growing)
    report(f"7,680 sentences {small:.2f} s, 30,720 sentences {large:.2f} s: {large / small:.1f}")


def kernels(name, times, sparse):
    """Seconds of the whole scan, and of the power sums alone."""
    data = layer(name, sparse)
    if times > 1:
        large = xr.concat([data] * times, "sentence").assign_attrs(data.attrs)
        data = large.assign_coords(sentence=np.arange(large.sizes["sentence"]))
    scan(data.isel(unit=slice(0, 64)))
    _, whole = seconds(scan, data, repeats=3)
    design = levels.level_design(feature_codes(data).values, 0)
    position = data["activation"].values.astype(np.float64)
    add = unit_levels._sum_sparse_levels if sparse else unit_levels._sum_levels
    own = [np.ascontiguousarray(position[fold.sentence, :64]) for fold in design.folds]

    def sums():
        for block, fold in zip(own, design.folds, strict=True):
            classes = np.zeros((2, design.n_classes + 1, 128))
            powers = np.zeros((2, 4, 64))
            add(block, fold.subset, fold.start, fold.level, classes, powers)

    sums()
    _, alone_ = seconds(sums, repeats=5)
    return whole, alone_


@pytest.mark.benchmark
@pytest.mark.parametrize("times", [1, 4])
def test_zeros_cost_little(times):
    (dense, dense_sums), _ = alone(kernels, "relative_clause", times, False)
    (sparse, sparse_sums), _ = alone(kernels, "relative_clause", times, True)
    report(
        f"{7680 * times:,} sentences, 99 % zeros against none: whole scan {dense:.2f} s and "
        f"{sparse:.2f} s, ratio {dense / sparse:.1f}; power sums, ratio "
        f"{dense_sums / sparse_sums:.1f}"
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
    return seconds(scan, data)[1], seconds(whole_layer, data)[1]


@pytest.mark.benchmark
def test_many_sentences_need_little_memory():
    (units, whole), memory = alone(many_sentences)
    report(
        f"200,000 sentences x 12 features x 256 units, one core: scan {units:.1f} s, layer "
        f"{whole:.1f} s; peak memory {memory / GIB:.2f} GiB"
    )
    assert memory < 4 * GIB
