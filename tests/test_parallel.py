"""Checkpoints that are recorded at once, those that fail, and what is lost on the way."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import dask
import huggingface_hub
import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from distributed.client import _get_global_client
from safetensors.torch import load_file, save_file

import mlem_xr as mx
import networks
from helpers import until
from mlem_xr.networks import recording
from mlem_xr.networks.checkpoints import Checkpoint
from mlem_xr.networks.downloads import weights_of
from mlem_xr.running import cluster as clusters
from mlem_xr.running.client import KEEP_MEMORY, SCHEDULING
from mlem_xr.running.cluster import cluster_client
from mlem_xr.running.executor import run_large_tasks
from mlem_xr.schema import InputError, WorkerError
from mlem_xr.store.activations import missing_checkpoints
from test_cli import fails, run

pytestmark = pytest.mark.usefixtures("forked_workers")

SEEDS = range(4)
DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def cluster():
    with mx.local_client(2) as client:
        yield client


@pytest.fixture
def client(cluster):
    """Two workers, whatever has happened to them before."""
    cluster.wait_for_workers(2, timeout=120)
    return cluster


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Four networks; what the file hook-SEED says, if there is one, is done in a forward pass."""
    folder = tmp_path_factory.mktemp("networks")
    for seed in SEEDS:
        hook = str(folder / f"hook-{seed}")
        done = f"__import__('os').path.exists({hook!r}) and exec(open({hook!r}).read())"
        networks.save_own_code(folder / f"run-{seed}", change=f"({done}, states)[1]")
        model = load_file(folder / f"run-{seed}" / "model.safetensors")
        generator = torch.Generator().manual_seed(seed)
        changed = {name: w + torch.randn(w.shape, generator=generator) for name, w in model.items()}
        save_file(changed, folder / f"run-{seed}" / "model.safetensors", {"format": "pt"})
    return folder


def record(folder, store, **options):
    """Record four seeds, or others."""
    given = {"source": folder / "run-{seed}", "seed": SEEDS, "progress": False} | options
    return mx.record(networks.stimuli(), store, model="runs", trust_remote_code=True, **given)


def n_recorded(store):
    labels = {"model": ["runs"], "seed": SEEDS, "step": [-1]}
    return len(SEEDS) - len(missing_checkpoints(store, **labels))


def statuses(table):
    return table.set_index("seed")["status"].to_dict()


def break_network(folder, *, how):
    """Break the weights of a network; return them as they were."""
    file = folder / "model.safetensors"
    before = file.read_bytes()
    if how == "torn":
        file.write_bytes(before[:1000])
    else:
        weights = load_file(file)
        weights["encoder.layer.1.output.dense.bias"][3] = torch.nan
        save_file(weights, file, metadata={"format": "pt"})
    return before


def test_a_worker_that_is_killed_while_it_records_costs_nothing_but_time(client, saved, tmp_path):
    """All that is stored is that of workers whom nothing has happened, and that of one process."""
    hook = saved / "hook-2"
    hook.write_text(f"import os; os.remove({str(hook)!r}); os.kill(os.getpid(), 9)")
    found = record(saved, tmp_path / "killed.zarr")
    assert not hook.exists()
    assert statuses(found) == dict.fromkeys(SEEDS, "recorded")
    record(saved, tmp_path / "whole.zarr")
    killed, whole = mx.open_store(tmp_path / "killed.zarr"), mx.open_store(tmp_path / "whole.zarr")
    xr.testing.assert_equal(killed.drop_vars("provenance"), whole.drop_vars("provenance"))
    assert len(np.unique(killed["fingerprint"])) == len(SEEDS)
    with dask.config.set(scheduler="threads"):
        record(saved, tmp_path / "alone.zarr")
    alone = mx.open_store(tmp_path / "alone.zarr")
    # Another process may add single-precision numbers in another order.
    np.testing.assert_allclose(killed["activation"], alone["activation"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("road", ["one process", "workers"])
def test_a_checkpoint_that_fails_is_listed_and_the_others_go_on(client, saved, tmp_path, road):
    store, broken = tmp_path / "s.zarr", {0: "torn", 2: "nan"}
    before = {seed: break_network(saved / f"run-{seed}", how=how) for seed, how in broken.items()}
    with dask.config.set(scheduler="threads" if road == "one process" else "distributed"):
        with pytest.warns(UserWarning, match="is not recorded") as warned:
            found = record(saved, store)
        assert statuses(found) == {0: "failed", 1: "recorded", 2: "failed", 3: "recorded"}
        causes = found.set_index("seed")["cause"]
        assert re.match(r"model: cannot load '.*run-0'; .* \(SafetensorError: ", causes[0])
        assert re.match(r"activation: NaN or infinite values in .*seed=2", causes[2])
        assert (causes[1], causes[3]) == ("", "")
        said = sorted(str(warning.message) for warning in warned)
        assert said == [f"runs (seed {s}, step -1) is not recorded: {causes[s]}" for s in (0, 2)]
        with pytest.raises(InputError, match=r"^model: all 2 checkpoints failed: runs \(seed 0"):
            record(saved, tmp_path / "other.zarr", seed=[0, 2])
        with pytest.raises(InputError, match="^activation: NaN"):
            record(saved, tmp_path / "other.zarr", seed=2)
        for seed, content in before.items():
            (saved / f"run-{seed}" / "model.safetensors").write_bytes(content)
        again = record(saved, store)
    assert statuses(again) == {0: "recorded", 1: "skipped", 2: "recorded", 3: "skipped"}
    assert mx.open_store(store)["recorded"].all()


@pytest.mark.parametrize("road", ["one process", "workers"])
def test_what_is_wrong_with_the_call_ends_it_at_once(client, saved, tmp_path, road):
    with (
        dask.config.set(scheduler="threads" if road == "one process" else "distributed"),
        warnings.catch_warnings(),
        pytest.raises(InputError, match="^layer: unknown value 9; known: 0, 1, 2$"),
    ):
        warnings.simplefilter("error", UserWarning)
        record(saved, tmp_path / "s.zarr", layer=9)


def test_a_command_with_a_checkpoint_that_fails_says_which_and_why(tmp_path):
    mx.write_stimuli(networks.stimuli(), tmp_path / "s.csv")
    for seed in range(2):
        networks.save_bert(tmp_path / f"run-{seed}", seed=seed)
    break_network(tmp_path / "run-0", how="nan")
    options = ("--model", "runs", "--source", "run-{seed}", "--seed", 0, "--seed", 1)
    found = run("record", "s.csv", *options, "--store", "s.zarr", cwd=tmp_path, code=1)
    assert re.search(r"runs +0 +-1 .* failed\n", found.stdout)
    assert re.search(r"runs +1 +-1 .* recorded\n", found.stdout)
    lines = found.stderr.strip().splitlines()
    assert lines[-1] == "error: 1 of 2 checkpoints failed; the same command tries these again"
    cause = "warning: runs (seed 0, step -1) is not recorded: activation: NaN or infinite values in"
    assert sum(line.startswith(cause) for line in lines) == 1


def test_a_worker_that_sees_another_store_makes_none(saved, tmp_path):
    """As on machines that do not share the folder."""
    asked = recording._Asked(
        *(networks.stimuli(), tmp_path / "s.zarr", networks.SENTENCES, np.arange(11)),
        *(None, ["mean"], None, None, None, 64, None, None, {}, True, False),
    )
    with pytest.raises(
        InputError, match=r"^store: a worker on .* does not see .*s\.zarr; expected"
    ):
        recording._record_on_worker(asked, Checkpoint("runs", 0, -1, str(saved / "run-0")))
    assert not (tmp_path / "s.zarr").exists()


def test_weights_that_another_process_downloads_stay(tmp_path, monkeypatch):
    """Revisions of one name, as the steps of Pythia, share a folder."""
    # Its own default is the folder at the time of its import.
    assert huggingface_hub.scan_cache_dir
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--some--net"
    others = [tmp_path / "models--other--net", tmp_path / "datasets--some--net"]

    def download(revision, commit, folder=folder):
        for path, text in ((f"refs/{revision}", commit), (f"snapshots/{commit}/x", "")):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)

    with weights_of(Checkpoint("net", 0, 1, "some/net", "step1"), keep=False):
        download("step1", "1" * 40)
        download("step2", "2" * 40)
        for i, other in enumerate(others, start=3):
            download("step1", str(i) * 40, other)
    for i, one in enumerate([folder, *others], start=2):
        assert [path.name for path in (one / "snapshots").iterdir()] == [str(i) * 40]


# Tasks of which a process has one at a time


def outcomes(function, shared, tasks):
    """What was done and what failed, by position."""
    done, failed = {}, {}
    run_large_tasks(
        *(function, shared, tasks),
        name=lambda i: f"task {i}",
        begun=lambda i: None,
        done=done.__setitem__,
        failed=failed.__setitem__,
    )
    return done, failed


def test_a_large_task_that_kills_its_workers_fails_and_the_others_go_on(client):
    def work(shared, task):
        if task == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if task == 3:
            raise ValueError("three")
        warnings.warn(f"from task {task}", stacklevel=1)
        return task

    with pytest.warns(UserWarning) as warned:
        done, failed = outcomes(work, None, range(6))
    assert done == {i: i for i in (0, 2, 4, 5)}
    assert {i: type(error) for i, error in failed.items()} == {1: WorkerError, 3: ValueError}
    assert str(failed[1]).startswith(
        "3 worker processes died one after another with task 1 in hand"
    )
    assert sorted(str(w.message) for w in warned) == [f"from task {i}" for i in (0, 2, 4, 5)]


def spans(folder, task):
    """Take a while, once two processes are at it, and say in which process."""
    (folder / str(os.getpid())).touch()
    until(lambda: len(list(folder.iterdir())) == 2)
    begun = time.monotonic()
    time.sleep(0.05)
    return os.getpid(), begun, time.monotonic()


def test_a_process_has_one_large_task_and_where_there_are_gpus_only_they_have_any(tmp_path):
    with mx.local_client(2, threads_per_worker=3) as client:
        done, _ = outcomes(spans, tmp_path, range(12))
        processes = {pid for pid, _, _ in done.values()}
        assert len(processes) == 2
        for process in processes:
            own = sorted((begun, end) for pid, begun, end in done.values() if pid == process)
            assert all(end <= begun for (_, end), (begun, _) in zip(own, own[1:], strict=False))
        one, _ = sorted(client.run(os.getpid))

        async def declare(dask_worker):
            await dask_worker.set_resources(GPU=1)
            return os.getpid()

        with_gpu = client.run(declare, workers=[one])[one]
        until(lambda: client.scheduler_info(n_workers=-1)["workers"][one]["resources"])
        done, _ = outcomes(spans, tmp_path, range(4))
        assert {pid for pid, _, _ in done.values()} == {with_gpu}


# Clusters of the command line


@pytest.fixture
def scheduler(tmp_path):
    """A scheduler of its own, with a worker: the file that it has written, and both processes."""
    file, command = tmp_path / "scheduler.json", [sys.executable, "-m"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    options = ["--scheduler-file", file, "--no-dashboard"]
    at = ["--host", "127.0.0.1", "--port", "0"]
    process = subprocess.Popen([*command, "distributed.cli.dask_scheduler", *options, *at], **quiet)
    options += ["--no-nanny", "--nthreads", "1"]
    worker = subprocess.Popen([*command, "distributed.cli.dask_worker", *options], **quiet)
    try:
        until(file.exists)
        yield file, process, worker
    finally:
        for each in (process, worker):
            each.kill()
            each.wait()


def test_a_scheduler_that_is_lost_is_one_error_and_the_same_command_goes_on(
    scheduler, saved, tmp_path
):
    file, process, worker = scheduler
    hook, store = saved / "hook-3", tmp_path / "s.zarr"
    hook.write_text(f"import os, time\nwhile os.path.exists({str(hook)!r}): time.sleep(0.02)")
    mx.write_stimuli(networks.stimuli(), tmp_path / "s.csv")
    seeds = [word for seed in SEEDS for word in ("--seed", seed)]
    options = ("--model", "runs", "--source", saved / "run-{seed}", *seeds, "--trust-remote-code")
    command = ("record", tmp_path / "s.csv", *options, "--store", store)

    def kill():
        until(lambda: n_recorded(store) == 3)
        process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with dask.config.set(scheduler=None):
            error = fails(*command, "--cluster", file, code=1)
    finally:
        killer.join()
        # Or it would record the last one by itself.
        worker.kill()
        worker.wait()
        hook.unlink()
    assert re.fullmatch(
        r"error: SchedulerError: the scheduler at tcp://127.0.0.1:\d+ does not answer any more; "
        "what was saved until now stays, and the same call with another cluster or none goes on",
        error,
    )
    with dask.config.set(scheduler="threads"):
        found = run(*command)
    assert (found.stdout.count("skipped"), found.stdout.count("recorded")) == (3, 1)
    assert mx.open_store(store)["recorded"].all()


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ("tcp://127.0.0.1:9", r"no scheduler answers at 'tcp://127.0.0.1:9' \(Timed out "),
        ("torn.json", r"no scheduler answers at 'torn.json' \("),
        ("nowhere.json", "found 'nowhere.json'; expected local, slurm, the address of a scheduler"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_error(tmp_path, monkeypatch, cluster, message):
    monkeypatch.setattr(clusters, "_SECONDS_FOR_AN_ANSWER", 0.5)
    (tmp_path / "torn.json").write_text("{")
    before = dask.config.get("scheduler", None), _get_global_client()
    error = fails("info", "nowhere.zarr", "--cluster", cluster, cwd=tmp_path)
    assert re.match(f"error: cluster: {message}", error)
    # What never answered is not what Dask computes on from then on.
    assert (dask.config.get("scheduler", None), _get_global_client()) == before


def test_workers_are_asked_for_only_where_they_are_started():
    for words in (["--workers", 2], ["--workers", 2, "--cluster", "tcp://127.0.0.1:9"]):
        assert fails("info", "nowhere.zarr", *words).startswith("error: workers: found 2 ")
    assert fails("info", "nowhere.zarr", "--cluster", "slurm").startswith("error: workers: none")


def settings_of_the_page():
    """What the page on clusters puts into configuration files."""
    blocks = re.findall(r"```yaml\n(.*?)```", (DOCS / "cluster.md").read_text(), re.DOTALL)
    return [yaml.safe_load(block) for block in blocks]


def test_the_page_on_clusters_has_the_settings_that_local_workers_have():
    _, page = settings_of_the_page()
    settings = SCHEDULING | KEEP_MEMORY
    assert {name: dask.config.get(name, config=page) for name in settings} == settings


SBATCH = """#!/bin/sh
test "$1" = --test-only && cat > script.sh && echo "sbatch: error: invalid partition: gpu" >&2
exit 1
"""


def test_slurm_jobs_are_as_the_configuration_says_and_are_refused_in_a_sentence(
    tmp_path, monkeypatch
):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sbatch").write_text(SBATCH)
    (tmp_path / "sbatch").chmod(0o755)
    options = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    page, _ = settings_of_the_page()
    slurm = page["jobqueue"]["slurm"] | {"queue": "gpu", "interface": None}
    with (
        dask.config.set({f"jobqueue.slurm.{key}": value for key, value in slurm.items()}),
        dask.config.set({"jobqueue.slurm.scheduler-options": options}),
        pytest.raises(InputError, match=r"Slurm refuses a job \(sbatch: error: invalid partition"),
        cluster_client("slurm", 16),
    ):
        pass
    script = (tmp_path / "script.sh").read_text()
    for line in ("#SBATCH -p gpu", "#SBATCH --mem=32G", "#SBATCH -t 02:00:00"):
        assert line in script.splitlines()
    assert "--nthreads 1 --memory-limit 4.00GiB --nworkers 8" in script
