"""The 29 million pairs of `relative_clause`: simulated activations, and every pair in memory."""

import numpy as np
import xarray as xr
from measuring import features, simulated
from sklearn.model_selection import KFold

import mlem_xr as mx

N_UNITS = 768
N_PAIRS = 7680 * 7679 // 2


def large_layer() -> xr.Dataset:
    return simulated(mx.read_stimuli("relative_clause"), 1, N_UNITS).isel(layer=0)


def check_pair_by_pair(result: xr.Dataset, units: list[int]) -> float:
    """Recompute from single pairs what an explanation of the distances over some units says.

    Its weights must meet the optimality conditions of the ridge regression on the pairs they were
    fitted to, its scores must be those on the other pairs, and its importances must be the
    increase of the error when every feature is really permuted, within the error of doing that
    once. Returns the largest of these deviations, in standard errors.
    """
    data = large_layer()
    x = pair_features(data)
    y = pair_targets(data["activation"].values[:, units])
    rng = np.random.default_rng(0)
    splits = KFold(2, shuffle=True, random_state=0).split(np.empty((N_PAIRS, 0)))
    r2, n, increase, noise = 0.0, 0, np.zeros(len(x)), np.zeros(len(x))
    for fold, (train, test) in enumerate(splits):
        weight, alpha = result["weight"].values[fold], float(result["alpha"][fold])
        residual = y - float(result["intercept"][fold])
        for column, w in zip(x, weight, strict=True):
            residual -= w * column
        slope = np.array([column[train] @ residual[train] for column in x]) - alpha * weight
        slope /= len(train) * y.var()
        assert np.abs(slope[weight > 0]).max(initial=0) < 1e-6
        assert slope[weight == 0].max(initial=0) < 1e-6
        r2 += (1 - (residual[test] ** 2).mean() / y[test].var()) / 2
        # A tenth of the pairs, any of them: more would say the same, slower.
        some = test[::10]
        n += len(some)
        for k in np.flatnonzero(weight):
            values = x[k, some].astype(np.float32)
            step = weight[k] * (rng.permutation(values) - values)
            change = step * (step - 2 * residual[some])
            increase[k] += change.sum()
            noise[k] += (change**2).sum()
    np.testing.assert_allclose(result["r2"], r2, atol=1e-5)
    off = np.abs(result["importance"].values - increase / n)
    error = np.sqrt(noise) / n
    assert (off <= 5 * error).all()
    return float((off / np.where(error > 0, error, 1)).max())


def pair_features(data: xr.Dataset) -> np.ndarray:
    """(feature, pair), sentence by sentence."""
    x = np.empty((len(features(data)), N_PAIRS), np.uint8)
    for column, name in zip(x, features(data), strict=True):
        values = data[name].values
        defined = data[name].notnull().values
        start = 0
        for i in range(len(values) - 1):
            differ = (values[i + 1 :] != values[i]) & defined[i] & defined[i + 1 :]
            column[start : start + len(differ)] = differ
            start += len(differ)
    return x


def pair_targets(activation: np.ndarray) -> np.ndarray:
    """(pair): min-max scaled distances, squared."""
    activation = activation.astype(np.float64)
    norm = (activation**2).sum(axis=1)
    y = np.empty(N_PAIRS)
    start = 0
    for i in range(len(activation) - 1):
        squared = norm[i] + norm[i + 1 :] - 2 * activation[i + 1 :] @ activation[i]
        y[start : start + len(squared)] = squared
        start += len(squared)
    y = np.sqrt(np.maximum(y, 0))
    return ((y - y.min()) / (y.max() - y.min())) ** 2
