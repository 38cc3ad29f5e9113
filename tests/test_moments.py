import subprocess
import sys
import textwrap
from itertools import combinations

import numpy as np
import pytest

from mlem_xr.kernels import moments
from mlem_xr.kernels.design import pair_design
from mlem_xr.kernels.features import features_of
from mlem_xr.kernels.folds import pair_labels
from mlem_xr.kernels.targets import TARGETS

SQUARE = TARGETS["square"]
CODES = np.random.default_rng(0).integers(-1, 2, (60, 3)).astype(np.int32)


def plain_sums(activation, function, *, min_max):
    """Sum `function(y, group)` per group and unit over a loop of pairs."""
    design = pair_design(features_of(CODES))
    label, _ = pair_labels(60, folds="pairs", random_state=0)
    rows = [tuple(row) for row in design.pattern.astype(int)]
    pairs = list(combinations(range(60), 2))
    result = np.zeros((design.n_pairs.size, activation.shape[1]))
    for u, a in enumerate(activation.T.astype(float)):
        d = np.array([abs(a[i] - a[j]) for i, j in pairs])
        y = ((d - d.min()) / (d.max() - d.min()) if min_max else d) ** 2
        for p, (i, j) in enumerate(pairs):
            defined = (CODES[i] >= 0) & (CODES[j] >= 0)
            pattern = rows.index(tuple((defined & (CODES[i] != CODES[j])).astype(int)))
            group = label[p] * len(rows) + pattern
            result[group, u] += function(y[p], group, u)
    return result


@pytest.mark.parametrize("min_max", [True, False])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_unit_moments_are_the_sums_over_pairs(min_max, offset):
    activation = np.random.default_rng(1).normal(size=(60, 5)) * [1, 10, 0.01, 1, 3] + offset
    design = pair_design(features_of(CODES))
    target = SQUARE.of_units(activation, min_max)
    total, squared = moments.unit_moments(target, design.pairs)
    expected = plain_sums(activation, lambda y, g, u: y, min_max=min_max)
    np.testing.assert_allclose(total[:, :5], expected, rtol=1e-4, atol=1e-6 * expected.max())
    np.testing.assert_allclose(total[:, :5].sum(0), expected.sum(0), rtol=1e-6)
    expected = plain_sums(activation, lambda y, g, u: y**2, min_max=min_max)
    np.testing.assert_allclose(squared[:, :5], expected, rtol=1e-4, atol=1e-6 * expected.max())


def test_unit_absolute_error_is_the_sum_over_pairs():
    activation = np.random.default_rng(1).normal(size=(60, 5))
    design = pair_design(features_of(CODES))
    prediction = np.random.default_rng(2).random((design.n_pairs.size, moments.BLOCK)) * 0.3
    for min_max in (True, False):
        target = SQUARE.of_units(activation, min_max)
        found = moments.unit_absolute_error(target, design.pairs, prediction)[:, :5]
        expected = plain_sums(
            activation, lambda y, g, u: abs(y - prediction[g, u]), min_max=min_max
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("min_max", [True, False])
@pytest.mark.parametrize("name", TARGETS)
def test_pair_moments_are_the_sums_over_pairs(name, min_max):
    activation = np.random.default_rng(1).normal(size=(60, 1))
    design = pair_design(features_of(CODES))
    y = TARGETS[name].of_distances(np.abs(activation - activation.T), min_max)
    # The plain sums are over squares.
    power = {"square": 1, "none": 0.5}[name]
    total, squared = moments.pair_moments(y, *design.pairs)
    expected = plain_sums(activation, lambda y, g, u: y**power, min_max=min_max)
    np.testing.assert_allclose(total, expected[:, 0], rtol=1e-12)
    expected = plain_sums(activation, lambda y, g, u: y ** (2 * power), min_max=min_max)
    np.testing.assert_allclose(squared, expected[:, 0], rtol=1e-12)
    prediction = np.full(design.n_pairs.size, 0.1)
    found = moments.pair_absolute_error(y, *design.pairs, prediction)
    expected = plain_sums(activation, lambda y, g, u: abs(y**power - 0.1), min_max=min_max)
    np.testing.assert_allclose(found, expected[:, 0], rtol=1e-12)


@pytest.mark.parametrize("min_max", [True, False])
def test_constant_activations_have_zero_targets(min_max):
    target = SQUARE.of_units(np.full((60, 2), 7.0), min_max)
    total, squared = moments.unit_moments(target, pair_design(features_of(CODES)).pairs)
    np.testing.assert_array_equal(total, 0)
    np.testing.assert_array_equal(squared, 0)
    equal = SQUARE.of_distances(1.0 - np.eye(60), min_max)[np.triu_indices(60, 1)]
    np.testing.assert_array_equal(equal, 0 if min_max else 1)


def test_a_second_process_compiles_nothing(activations, tmp_path):
    code = """
        import sys
        import xarray as xr
        import mlem_xr as mx
        from mlem_xr.kernels import moments, ridge
        data = xr.open_dataset(sys.argv[1], engine="zarr", consolidated=False)
        mx.univariate_importance(data.load(), mae=True)
        for kernel in (moments._unit_sums, moments._unit_absolute_error, ridge._fit_targets):
            print(sum(kernel.stats.cache_misses.values()))
    """
    path = tmp_path / "data.zarr"
    activations[["activation"]].sel(model="toy", pooling="mean", drop=True).drop_vars(
        ["number", "gender", "text"]
    ).to_zarr(path, consolidated=False)
    for _ in range(2):
        arguments = [sys.executable, "-c", textwrap.dedent(code), path]
        found = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["0", "0", "0"]
