import numpy as np
import pandas as pd
import pytest
import xarray as xr

from helpers import N
from mlem_xr.stimuli.table import from_dataframe


@pytest.fixture
def stimuli() -> xr.Dataset:
    """Forty sentences with a string, a boolean, a number and a feature that is often undefined."""
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


@pytest.fixture
def activations(stimuli: xr.Dataset) -> xr.Dataset:
    """Two seeds, two poolings, three layers of five units; the units carry number and frequency."""
    rng = np.random.default_rng(2)
    values = rng.normal(size=(1, 2, 1, 2, 3, N, 5))
    values[..., 0] += 2 * (stimuli["number"].values == "sg")
    values[..., 1] += stimuli["frequency"].values
    dims = ("model", "seed", "step", "pooling", "layer", "sentence", "unit")
    labels = {
        "model": ["toy"],
        "seed": [0, 1],
        "step": [-1],
        "pooling": ["first-token", "mean"],
        "layer": [1, 2, 3],
        "unit": np.arange(5),
    }
    data = xr.Dataset({"activation": (dims, values.astype(np.float32))}, labels)
    return data.assign_coords(stimuli.coords).assign_attrs(stimuli.attrs)
