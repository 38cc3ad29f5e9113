"""Recording of many checkpoints: by one and by two workers, and with workers that are killed."""

import os
import random
import signal
import threading
import time
from contextlib import suppress
from statistics import median

import numpy as np
import pytest
import xarray as xr
from measuring import report

import mlem_xr as mx
import networks

SEEDS, STEPS = range(3), (0, 20_000, 200_000, 2_000_000)
N_RUNS, N_KILLS = 20, 3
N_TIMES = 3


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Small BERTs under names like those of MultiBERTs."""
    folder = tmp_path_factory.mktemp("multiberts")
    for seed in SEEDS:
        for step in STEPS:
            name = f"multiberts-seed_{seed}-step_{step}"
            networks.save_bert(folder / name, seed=seed + step, layers=8, units=128)
    return folder


def record(stimuli, folder, store):
    return mx.record(
        *(stimuli, store),
        model="multiberts",
        source=folder / "multiberts-seed_{seed}-step_{step}",
        seed=SEEDS,
        step=STEPS,
        progress=False,
    )


@pytest.mark.benchmark
def test_two_workers_against_one(saved, tmp_path):
    """Each in turn, several times; the workers have recorded once before."""
    stimuli = networks.stimuli([f"{s[:-1]} {i}." for s in networks.SENTENCES for i in range(50)])
    times, first = {1: [], 2: []}, None
    for run in range(N_TIMES):
        for n_workers in (1, 2):
            with mx.local_client(n_workers):
                record(stimuli, saved, tmp_path / f"warm-{run}-{n_workers}.zarr")
                store = tmp_path / f"{run}-{n_workers}.zarr"
                start = time.perf_counter()
                assert set(record(stimuli, saved, store)["status"]) == {"recorded"}
                times[n_workers].append(time.perf_counter() - start)
            found = mx.open_store(store).drop_vars("provenance").load()
            first = found if first is None else first
            xr.testing.assert_equal(found, first)
    one, two = median(times[1]), median(times[2])
    report(
        f"{len(SEEDS) * len(STEPS)} checkpoints x {stimuli.sizes['sentence']} sentences: "
        f"1 worker {one:.1f} s, 2 workers {two:.1f} s, ratio {one / two:.2f}; median of {N_TIMES}"
    )


@pytest.mark.benchmark
def test_random_kills_leave_the_store_that_undisturbed_workers_make(saved, tmp_path):
    """Workers are killed at random moments; the same call goes on until all is there."""
    stimuli = networks.stimuli()
    kills, calls = [], []
    with mx.local_client(2):
        record(stimuli, saved, tmp_path / "whole.zarr")
    whole = mx.open_store(tmp_path / "whole.zarr").drop_vars("provenance").load()
    for run in range(N_RUNS):
        store, rng = tmp_path / f"{run}.zarr", random.Random(run)
        over, killed = threading.Event(), list[int]()

        def kill(client, rng=rng, over=over, killed=killed):
            """Kill workers at work: Dask does not always bring back one that is just starting."""
            while len(killed) < N_KILLS and not over.wait(rng.uniform(0, 2)):
                workers = client.cluster.scheduler.workers.values()
                pids = [worker.pid for worker in workers if worker.processing]
                if pids:
                    killed.append(rng.choice(pids))
                    os.kill(killed[-1], signal.SIGKILL)

        # Workers of its own, as Dask may lose one for good.
        with mx.local_client(2) as client:
            killer = threading.Thread(target=kill, args=[client])
            killer.start()
            n_calls, statuses = 0, {"failed"}
            while "failed" in statuses:
                n_calls += 1
                # An error if every one failed.
                with suppress(RuntimeError):
                    statuses = set(record(stimuli, saved, store)["status"])
            over.set()
            killer.join()
        found = mx.open_store(store).drop_vars("provenance")
        xr.testing.assert_equal(found.load(), whole)
        assert mx.verify_store(store, progress=False).empty
        kills.append(len(killed))
        calls.append(n_calls)
        report(f"run {run}: {len(killed)} workers killed, {n_calls} calls")
    assert len(np.unique(whole["fingerprint"])) == len(SEEDS) * len(STEPS)
    assert sum(kills) >= N_RUNS
    report(
        f"{N_RUNS} runs of {len(SEEDS) * len(STEPS)} checkpoints, {sum(kills)} workers killed: "
        f"every store is equal to the undisturbed one, after {max(calls)} calls at most"
    )
