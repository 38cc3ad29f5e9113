"""What several test modules use: simulated layers, stores of them, saving, and waiting."""

import time

import numpy as np
import pandas as pd
import xarray as xr

from mlem_xr.stimuli.table import from_dataframe
from mlem_xr.store.activations import write_checkpoint
from mlem_xr.store.saving import write_results

N = 40


def forty_sentences() -> xr.Dataset:
    """Return stimuli with a string, a boolean, a number and a feature that is often undefined."""
    rng = np.random.default_rng(1)
    table = pd.DataFrame(
        {
            "sentence": [f"sentence number {i}." for i in range(N)],
            "number": rng.choice(["sg", "pl"], N),
            "animate": rng.integers(0, 2, N).astype(bool),
            "frequency": rng.choice([2.5, 3.0, 4.5], N),
            "gender": rng.choice(np.array(["f", "m", None], dtype=object), N),
        }
    )
    return from_dataframe(table, name="forty")


def lazy(activations: xr.Dataset, **chunks: int) -> xr.Dataset:
    """Make the activations lazy, as a store does, and leave the coordinates in memory."""
    return activations.assign(activation=activations["activation"].chunk(chunks or {"layer": 1}))


def refuse(*args, **kwargs):
    """Stand in for a scheduler that must not be called."""
    raise AssertionError("computed too early")


def layers(seed=0, n_layers=3, n_units=5, pooling=("first-token", "mean"), n=N) -> xr.DataArray:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(len(pooling), n_layers, n, n_units)).astype(np.float32)
    labels = {"pooling": list(pooling), "layer": np.arange(1, n_layers + 1)}
    return xr.DataArray(values, labels, ("pooling", "layer", "sentence", "unit"))


def write(store, activation, model="toy", seed=0, step=-1, **options) -> None:
    options = {"provenance": {"source": "x"}} | options
    write_checkpoint(store, activation, model=model, seed=seed, step=step, **options)


def statuses(table) -> dict[str, int]:
    return table["status"].value_counts().to_dict()


def save(result, store=None, **options) -> dict[str, int]:
    """Save a result; how many representations were computed, skipped and so on."""
    return statuses(write_results(result, store, progress=False, **options))


def until(condition, seconds=120):
    """Wait for something that another process or thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)
