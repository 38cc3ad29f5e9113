import numpy as np
import pytest
import xarray as xr

from helpers import N, forty_sentences


@pytest.fixture
def stimuli() -> xr.Dataset:
    return forty_sentences()


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
