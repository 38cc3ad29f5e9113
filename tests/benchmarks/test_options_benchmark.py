"""What top units and conditional importance cost, against the plain runs of the same data."""

import numpy as np
import pytest
from measuring import alone, plain_pairs, report, seconds, simulated

import mlem_xr as mx
import plain
from mlem_xr.kernels.conditional import residuals
from mlem_xr.kernels.design import pair_design
from mlem_xr.kernels.features import features_of
from mlem_xr.stimuli.pairs import feature_codes

K = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 384]


def top_units():
    """Seconds of all values of k in one sweep and of one multivariate run, after a first call."""
    layer = simulated(mx.read_stimuli("short_sentence"), 1, 768).isel(layer=0)
    scan = mx.univariate_importance(layer)
    mx.multivariate_importance(layer)
    best, sweep = seconds(lambda: mx.top_unit_importance(layer, scan, k=K), repeats=7)
    _, one = seconds(lambda: mx.multivariate_importance(layer), repeats=7)
    ranked = np.argsort(-scan["r2"].values)
    for k in K:
        expected = mx.multivariate_importance(layer.isel(unit=np.sort(ranked[:k])))
        for name in ("importance", "std_error", "weight", "r2"):
            np.testing.assert_allclose(
                best[name].sel(k=k), expected[name], rtol=1e-6, atol=1e-9, err_msg=name
            )
    return sweep, one


@pytest.mark.benchmark
def test_top_units_in_one_sweep():
    (sweep, one), _ = alone(top_units)
    report(
        f"top units, {len(K)} values of k, 522 x 768, one core: {1e3 * sweep:.1f} ms; one "
        f"multivariate run {1e3 * one:.1f} ms; ratio {sweep / one:.2f}"
    )


def scan(conditional):
    """A scan of a whole network, and its seconds with all that depends on the stimuli.

    A scan of fewer sentences goes before, so that nothing is compiled or imported meanwhile.
    """
    data = network()
    few = data.isel(sentence=slice(0, None, 4), layer=[0])
    mx.univariate_importance(few, conditional=conditional)
    return seconds(lambda: mx.univariate_importance(data, conditional=conditional))


def network():
    return simulated(mx.read_stimuli("short_sentence"), 12, 768)


def plain_importance(x, left, y, result):
    """Give every held-out pair the residual of every other one, in both folds."""
    increase = np.zeros(x.shape[1])
    for fold, (_, _, _, test) in enumerate(plain.pair_splits(len(y), 0)):
        weight = result["weight"].values[fold]
        error = y[test] - float(result["intercept"][fold]) - x[test] @ weight
        e = left[fold][test]
        change = e.mean(axis=0) - e
        squared_change = (e**2).mean(axis=0) - 2 * e * e.mean(axis=0) + e**2
        increase += (weight**2 * squared_change - 2 * weight * change * error[:, None]).sum(axis=0)
    return increase / len(y)


def residual_pairs(x, codes, conditional):
    """(fold, pair, feature): what the other features do not predict, for each held-out fold."""
    design = pair_design(features_of(codes))
    bits = 2 ** np.arange(x.shape[1])
    order = np.argsort(design.pattern @ bits)
    index = order[np.searchsorted((design.pattern @ bits)[order], x @ bits)]
    counts = design.n_pairs.sum(axis=1)
    return [residuals(design.pattern, count, conditional, 0)[index] for count in counts]


@pytest.mark.benchmark
@pytest.mark.parametrize("conditional", [True, "exact"])
def test_conditional_scan_of_a_network(conditional):
    runs = [(alone(scan, False)[0], alone(scan, conditional)[0]) for _ in range(3)]
    unconditional, own = (np.median([run[i][1] for run in runs]) for i in (0, 1))
    report(
        f"conditional={conditional!r}, 12 x 768 units, one core: {own:.2f} s with the residuals "
        f"and the pair design; unconditional {unconditional:.2f} s; ratio "
        f"{own / unconditional:.2f}"
    )
    cell = {"layer": 3, "unit": 100}
    data, result = network(), runs[0][1][0].isel(cell)
    x = plain_pairs(data)
    left = residual_pairs(x, feature_codes(data).values, conditional)
    activation = data["activation"].isel(cell).values[:, np.newaxis]
    y = plain.target(activation, "euclidean", min_max=True, zscore=False)
    expected = plain_importance(x, left, y, result)
    np.testing.assert_allclose(result["importance"], expected, rtol=1e-5, atol=1e-9)
