import gc
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.forkserver import ensure_running
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

import mlem_xr as mx
from forks import FORKS
from helpers import N, forty_sentences, layers, write


def pytest_collection_finish() -> None:
    """Leave all that was imported out of later garbage collections, which would go through it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


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


@pytest.fixture(scope="session")
def recorded_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints of different networks; some combinations are not recorded."""
    path = tmp_path_factory.mktemp("recorded") / "toy.zarr"
    mx.create_store(forty_sentences(), path, pooling=["first-token", "mean"])
    write(path, layers(0), seed=0)
    write(path, layers(1), seed=1)
    write(path, layers(2, n_layers=2, n_units=4), model="small", seed=0)
    return path


@pytest.fixture
def store(recorded_store: Path, tmp_path: Path) -> Path:
    """Return a copy, to save to: it takes a third of the time of recording."""
    return shutil.copytree(recorded_store, tmp_path / recorded_store.name)


@pytest.fixture(scope="module")
def forked_workers() -> Iterator[None]:
    """Let workers of Dask start as forks; those of programs that tests start are spawned."""
    ensure_running()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


@pytest.fixture(scope="session")
def processes() -> Iterator[dict]:
    """Return how to compute in two processes."""
    with ProcessPoolExecutor(2, mp_context=FORKS) as pool:
        yield {"scheduler": "processes", "pool": pool}
