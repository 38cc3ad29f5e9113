"""Time and memory of fresh processes, simulated activations, and the plain way of explaining."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import xarray as xr
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_squared_error, r2_score

import plain

THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)

N_REPEATS = 50
"""Permutations per feature and fold, as in the original program."""

MIB, GIB = 2**20, 2**30


def alone(function: Callable, *arguments: Any, threads: int = 1) -> tuple[Any, int]:
    """Call a function in a fresh process: what it returns, and the process's peak memory."""
    with (
        patch.dict(os.environ, dict.fromkeys(THREAD_VARIABLES, str(threads))),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process,
    ):
        value = process.submit(function, *arguments).result()
        return value, process.submit(peak_memory).result()


def peak_memory() -> int:
    """Bytes of physical memory that this process held at most.

    Not `getrusage`: its maximum starts with the size of the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def seconds(function: Callable, *arguments: Any, repeats: int = 1) -> tuple[Any, float]:
    """What a function returns, and the median time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        value = function(*arguments)
        times.append(time.perf_counter() - start)
    return value, median(times)


def report(line: str) -> None:
    print(f"\n  {line}", flush=True)


def simulated(stimuli: xr.Dataset, n_layers: int, n_units: int, *, seed: int = 0) -> xr.Dataset:
    """Layers of noise in which every unit carries the levels of some features."""
    rng = np.random.default_rng(seed)
    levels = [
        np.unique(stimuli[f].values.astype(str), return_inverse=True)[1] for f in features(stimuli)
    ]
    signal = np.stack([level / level.max() for level in levels], axis=1)
    loading = rng.normal(size=(n_layers, len(levels), n_units))
    loading *= rng.random(loading.shape) < 0.3
    values = rng.standard_normal((n_layers, len(signal), n_units), dtype=np.float32)
    values += (signal @ loading).astype(np.float32)
    data = xr.Dataset(
        {"activation": (("layer", "sentence", "unit"), values)},
        {"layer": np.arange(1, n_layers + 1), "unit": np.arange(n_units)},
    )
    return data.assign_coords(stimuli.coords).assign_attrs(stimuli.attrs)


def features(stimuli: xr.Dataset) -> list[str]:
    return list(stimuli.attrs["features"])


def plain_explain(x: np.ndarray, activation: np.ndarray) -> dict[str, Any]:
    """One target the plain way: Ridge over the pair matrix, permutations one after another."""
    y = plain.target(activation, "euclidean", min_max=True, zscore=False)
    rng = np.random.default_rng(0)
    out: dict[str, list] = {name: [] for name in ("alpha", "weight", "r2", "mse")}
    increase = []
    for train, validation, refit, test in plain.pair_splits(len(y), 0):
        errors = []
        for alpha in plain.ALPHAS:
            model = Ridge(alpha=alpha, positive=True, tol=1e-10).fit(x[train], y[train])
            errors.append(mean_squared_error(y[validation], model.predict(x[validation])))
        alpha = plain.ALPHAS[int(np.argmin(errors))]
        model = Ridge(alpha=alpha, positive=True, tol=1e-10).fit(x[refit], y[refit])
        prediction = model.predict(x[test])
        out["alpha"].append(alpha)
        out["weight"].append(model.coef_)
        out["r2"].append(r2_score(y[test], prediction))
        out["mse"].append(mean_squared_error(y[test], prediction))
        increase.append(permuted_errors(model, x[test], y[test], rng) - (y[test] - prediction) ** 2)
    return {
        "alpha": np.array(out["alpha"]),
        "weight": np.array(out["weight"]),
        "r2": np.mean(out["r2"]),
        "mse": np.mean(out["mse"]),
        "importance": np.concatenate(increase, axis=1).mean(axis=1),
        "std_error": np.concatenate(increase, axis=1).std(axis=1, ddof=1) / np.sqrt(len(y)),
    }


def permuted_errors(model: Ridge, x: np.ndarray, y: np.ndarray, rng: np.random.Generator):
    """(feature, pair): squared error, averaged over permutations of the feature."""
    total = np.zeros((x.shape[1], len(y)))
    for k in range(x.shape[1]):
        permuted = x.copy()
        for _ in range(N_REPEATS):
            permuted[:, k] = rng.permutation(x[:, k])
            total[k] += (y - model.predict(permuted)) ** 2
    return total / N_REPEATS


def assert_agrees(result: xr.Dataset, expected: dict[str, Any]) -> None:
    """Compare with the plain way, whose importances are those of few permutations."""
    np.testing.assert_array_equal(result["alpha"], expected["alpha"])
    np.testing.assert_allclose(result["weight"], expected["weight"], atol=1e-3)
    np.testing.assert_allclose(result["r2"], expected["r2"], atol=1e-5)
    np.testing.assert_allclose(result["mse"], expected["mse"], rtol=1e-4)
    # Of few permutations the mean is off by about as much as the standard error, which holds both.
    off = np.abs(result["importance"] - expected["importance"])
    assert (off <= 2 * expected["std_error"] + 1e-9).all()


def plain_pairs(stimuli: xr.Dataset) -> np.ndarray:
    """(pair, feature): the feature distances of all pairs, for the plain way."""
    return plain.feature_distances([stimuli[name].values for name in features(stimuli)])
