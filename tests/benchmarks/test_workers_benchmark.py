"""A scan of a whole set of networks from a store on disk, by one and by two worker processes."""

import time
from statistics import median

import cloudpickle
import dask
import numpy as np
import pytest
import xarray as xr
from measuring import GIB, MIB, peak_memory, report, simulated

import mlem_xr as mx
from mlem_xr.store.activations import write_checkpoint

N_SEEDS, N_LAYERS, N_UNITS = 25, 12, 768
N_RUNS = 5


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Final checkpoints of 25 seeds: 230,400 units."""
    stimuli = mx.read_stimuli("short_sentence")
    path = mx.create_store(stimuli, tmp_path_factory.mktemp("store") / "s.zarr", pooling=["mean"])
    for seed in range(N_SEEDS):
        layers = simulated(stimuli, N_LAYERS, N_UNITS, seed=seed)["activation"]
        layers = layers.expand_dims(pooling=["mean"])
        write_checkpoint(path, layers, model="simulated", seed=seed, step=-1, provenance={})
    return path


def graph_size(result: xr.Dataset) -> int:
    """Bytes of all that a scheduler is sent."""
    (optimized,) = dask.optimize(result)
    return len(cloudpickle.dumps(dict(optimized.__dask_graph__())))


def scan_with(n_workers: int, store) -> tuple[float, int]:
    """Seconds of a scan that is saved, and the largest peak memory of a worker.

    The workers start, import and compile before.
    """
    with mx.local_client(n_workers) as client:
        scan = mx.univariate_importance(mx.open_store(store))
        client.run(warm_up, str(store))
        start = time.perf_counter()
        mx.save_results(scan, store, refresh=["importance"], progress=False)
        elapsed = time.perf_counter() - start
        return elapsed, max(client.run(peak_memory).values())


def warm_up(store: str) -> None:
    """Import and load the compiled code, as every worker does once."""
    activations = mx.open_store(store).isel(sentence=slice(0, None, 10), seed=[0], layer=[0])
    mx.univariate_importance(activations).compute(scheduler="sync")


@pytest.mark.benchmark
def test_two_workers_against_one(store):
    """Each in turn, several times: the median is less disturbed by other programs."""
    size = graph_size(mx.univariate_importance(mx.open_store(store)))
    times, memory, first = {1: [], 2: []}, [], None
    for n_workers in [1, 2] * N_RUNS:
        elapsed, peak = scan_with(n_workers, store)
        times[n_workers].append(elapsed)
        memory.append(peak)
        found = mx.open_results(store, "univariate_importance").load()
        first = found if first is None else first
        xr.testing.assert_identical(found, first)
    one, two = median(times[1]), median(times[2])
    n_units = N_SEEDS * N_LAYERS * N_UNITS
    report(
        f"{N_SEEDS} seeds x {N_LAYERS} layers x {N_UNITS} units: 1 worker {one:.1f} s "
        f"({n_units / one:,.0f} units/s), 2 workers {two:.1f} s ({n_units / two:,.0f} units/s), "
        f"ratio {one / two:.2f}; median of {N_RUNS} each; peak memory of a worker "
        f"{max(memory) / GIB:.2f} GiB; graph {size / MIB:.2f} MiB"
    )
    assert max(memory) < 2 * GIB
    assert size < 5e6
    stimuli = mx.read_stimuli("short_sentence")
    layer = simulated(stimuli, N_LAYERS, N_UNITS, seed=7).isel(layer=3)
    expected = mx.univariate_importance(layer)
    np.testing.assert_array_equal(
        first["importance"].isel(seed=7, layer=3).squeeze(), expected["importance"]
    )
