"""The training histories of MultiBERTs, at full size: 165 checkpoints from a store, end to end."""

import time

import cloudpickle
import numpy as np
import pytest
from measuring import GIB, MIB, peak_memory, report, simulated
from test_workers_benchmark import warm_up

import mlem_xr as mx
from mlem_xr.store.activations import write_checkpoint

FINAL = 2_000_000
STEPS = [*range(0, 200_000, 20_000), *range(200_000, FINAL, 100_000)]
CHECKPOINTS = [(seed, FINAL) for seed in range(25)] + [
    (s, step) for s in range(5) for step in STEPS
]
N_LAYERS, N_UNITS = 12, 768


def layers(stimuli, seed, step):
    """Return layers that no other checkpoint has."""
    return simulated(stimuli, N_LAYERS, N_UNITS, seed=seed * (FINAL + 1) + step)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    stimuli = mx.read_stimuli("short_sentence")
    path = mx.create_store(stimuli, tmp_path_factory.mktemp("store") / "s.zarr", pooling=["mean"])
    for seed, step in CHECKPOINTS:
        values = layers(stimuli, seed, step)["activation"].expand_dims(pooling=["mean"])
        write_checkpoint(path, values, model="simulated", seed=seed, step=step, provenance={})
    return path


def used_memory(client):
    return max(client.run(peak_memory).values())


@pytest.mark.benchmark
@pytest.mark.parametrize("folds", ["pairs", "sentences"])
def test_all_checkpoints_are_scanned_end_to_end(store, folds):
    start = time.perf_counter()
    scan = mx.univariate_importance(mx.open_store(store), folds=folds)
    to_build, size = time.perf_counter() - start, len(cloudpickle.dumps(scan))
    some = scan.sel(seed=[0, 1], step=slice(0, 100_000))
    with mx.local_client(2, memory_limit="2GiB") as client:
        client.run(warm_up, str(store))
        mx.save_results(some, progress=False)
        few = used_memory(client)
        mx.save_results(some, refresh=["importance"], progress=False)
        start = time.perf_counter()
        found = mx.save_results(scan, progress=False)
        elapsed, peak = time.perf_counter() - start, used_memory(client)
    n_left = len(CHECKPOINTS) - some.sizes["seed"] * some.sizes["step"]
    n_bytes = n_left * 4 * N_LAYERS * N_UNITS * mx.open_store(store).sizes["sentence"]
    report(
        f"folds of {folds}: {len(CHECKPOINTS)} checkpoints x {N_LAYERS} layers x {N_UNITS} units "
        f"open and build in {to_build:.2f} s, {size / MIB:.2f} MiB; {n_left} of them "
        f"({n_bytes / GIB:.1f} GiB) scanned and saved by 2 workers in {elapsed:.0f} s: "
        f"{n_bytes / MIB / elapsed:.0f} MiB/s, {n_left * N_LAYERS * N_UNITS / elapsed:,.0f} "
        f"units/s; peak memory of a worker {peak / GIB:.2f} GiB, {few / GIB:.2f} GiB after "
        f"{len(CHECKPOINTS) - n_left} of them"
    )
    assert size < 5e6
    assert peak < 2 * GIB
    stimuli = mx.read_stimuli("short_sentence")
    for seed, step in (CHECKPOINTS[0], CHECKPOINTS[-1], (1, 20_000)):
        alone = mx.univariate_importance(layers(stimuli, seed, step).sel(layer=[7]), folds=folds)
        own = found["importance"].sel(seed=seed, step=step, layer=[7], pooling="mean")
        np.testing.assert_array_equal(own.squeeze("model"), alone["importance"])
    assert found["importance"].sel(seed=7, step=20_000).isnull().all()
