"""Every subset of the features against a plain loop over scipy's non-negative least squares."""

from itertools import combinations

import numpy as np
import pytest
from measuring import alone, plain_pairs, report, seconds, simulated
from scipy.optimize import nnls

import mlem_xr as mx
import plain
from mlem_xr.analyses.decomposition import DecompositionOptions
from mlem_xr.kernels.decompose import decompose
from mlem_xr.kernels.design import pair_design
from mlem_xr.stimuli.pairs import feature_codes

N_UNITS = 768


def simulated_layer(name):
    data = simulated(mx.read_stimuli(name), 1, N_UNITS).isel(layer=0)
    return data, data["activation"].values, feature_codes(data).values


def decomposed(name, per):
    """The outputs of a layer, their seconds, and those of the design, which layers share."""
    _, activation, codes = simulated_layer(name)
    _, design = seconds(lambda: pair_design(codes).regressors)
    options = DecompositionOptions(per=per)
    decompose(activation[:, :1], codes, options)
    found, own = seconds(decompose, activation, codes, options, repeats=3)
    return found, own, design


def plainly():
    """R2 of every subset of the features of a layer by nnls, and its seconds.

    In favor of the plain loop, the sums over the pairs are made before.
    """
    _, activation, _ = simulated_layer("short_sentence")
    x = plain_pairs(mx.read_stimuli("short_sentence"))
    y = plain.target(activation, "euclidean", min_max=True, zscore=False)
    n_features = x.shape[1]
    sums = [
        [_centered(x[part], y[part]) for part in split] for split in plain.pair_splits(len(y), 0)
    ]
    subsets = [s for size in range(n_features + 1) for s in combinations(range(n_features), size)]

    def loop():
        return [np.mean([_r2(*fold, list(subset)) for fold in sums]) for subset in subsets]

    return seconds(loop)


def _centered(x, y):
    mean_x, mean_y = x.mean(axis=0), y.mean()
    x, y = x - mean_x, y - mean_y
    return mean_x, mean_y, x.T @ x, x.T @ y, y @ y, len(y)


def _solved(part, alpha, own):
    _, _, gram, cross, _, _ = part
    root = np.linalg.cholesky(gram[np.ix_(own, own)] + alpha * np.eye(len(own)))
    return nnls(root.T, np.linalg.solve(root, cross[own]))[0]


def _error(part, weight, intercept, own):
    mean_x, mean_y, gram, cross, yy, n = part
    shift = mean_y - intercept - mean_x[own] @ weight
    product = weight @ gram[np.ix_(own, own)] @ weight - 2 * cross[own] @ weight
    return yy + product + n * shift**2


def _r2(train, validation, refit, test, own):
    def error(alpha):
        weight = _solved(train, alpha, own)
        return _error(validation, weight, train[1] - train[0][own] @ weight, own)

    weight = np.empty(0)
    if own:
        weight = _solved(refit, min(plain.ALPHAS, key=error), own)
    return 1 - _error(test, weight, refit[1] - refit[0][own] @ weight, own) / test[4]


@pytest.mark.benchmark
def test_all_subsets_of_a_layer_against_the_plain_loop():
    (found, own, design), _ = alone(decomposed, "short_sentence", "layer")
    (expected, plain_seconds), _ = alone(plainly)
    np.testing.assert_allclose(found["r2"], expected, rtol=1e-7, atol=1e-9)
    report(
        f"decompose, 522 x 9 x {N_UNITS}, 512 subsets of a layer, one core: {1e3 * own:.0f} ms "
        f"with its distances (the design, shared by all layers: {1e3 * design:.0f} ms); plain loop "
        f"over nnls, of sums over pairs that are given: {plain_seconds:.1f} s"
    )


@pytest.mark.benchmark
def test_all_subsets_of_every_unit():
    (found, own, _), memory = alone(decomposed, "short_sentence", "unit")
    assert found["r2"].shape == (N_UNITS, 512)
    report(
        f"decompose per unit, 522 x 9 x {N_UNITS}, one core: {own:.1f} s, "
        f"peak memory {memory / 2**30:.2f} GiB"
    )


@pytest.mark.benchmark
def test_all_subsets_of_fourteen_features():
    (found, own, design), memory = alone(decomposed, "relative_clause", "layer")
    assert found["r2"].shape == (2**14,)
    report(
        f"decompose, 7,680 x 14 x {N_UNITS}, 16,384 subsets of a layer, one core: {own:.1f} s (the "
        f"design: {design:.1f} s), peak memory {memory / 2**30:.2f} GiB"
    )
