"""Worker processes on this machine: what runs on them, what happens when they die, and silence."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial

import dask
import distributed
import numpy as np
import pytest
import xarray as xr

import mlem_xr as mx
from helpers import layers, save, until, write
from mlem_xr.analyses.univariate import UNIVARIATE, UnivariateOptions
from mlem_xr.kernels.explain import explain_units
from mlem_xr.running.executor import compute_together, n_workers, run_tasks
from mlem_xr.schema import InputError, WorkerError

pytestmark = pytest.mark.usefixtures("forked_workers")

MIB = 2**20
DIED = "a worker process died; what it had in hand is computed again"


@pytest.fixture(scope="module")
def cluster():
    with mx.local_client(2, memory_limit=700 * MIB) as client:
        yield client


@pytest.fixture
def client(cluster):
    """Two workers, whatever has happened to them before."""
    cluster.wait_for_workers(2, timeout=120)
    return cluster


@pytest.fixture
def store(stimuli, tmp_path):
    """Two seeds of six layers."""
    path = mx.create_store(stimuli, tmp_path / "toy.zarr", pooling=["mean"])
    for seed in range(2):
        write(path, layers(seed, n_layers=6).sel(pooling=["mean"]), seed=seed)
    return path


def count_call(folder):
    """Say which call this is, of all processes together."""
    n = 0
    while True:
        with suppress(FileExistsError):
            (folder / f"call-{n}").touch(exist_ok=False)
            return n
        n += 1


def scan(store, function):
    """The scan of all units by another function, as lazy as ever."""
    return replace(UNIVARIATE, function=function)(mx.open_store(store), UnivariateOptions())


def check_saved(store):
    """Check all that is saved, bit for bit, against one process."""
    with dask.config.set(scheduler="sync"):
        expected = mx.univariate_importance(mx.open_store(store)).compute()
        found = mx.open_results(store, "univariate_importance").drop_vars("computed_from")
        xr.testing.assert_equal(found.compute(), expected)


def said(caplog):
    """What this library says, and not Dask."""
    return [record.message for record in caplog.records if record.name.startswith("mlem_xr")]


def default_client():
    with suppress(ValueError):
        return distributed.default_client()


def environment():
    return {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_")}


def test_local_client_starts_processes_of_one_thread():
    before = dask.config.get("distributed.worker.memory.monitor-interval")
    spawned = dask.config.set({"distributed.worker.multiprocessing-method": "spawn"})
    with spawned, mx.local_client(2, memory_limit="1GiB") as client:
        assert list(client.nthreads().values()) == [1, 1]
        processes = set(client.run(os.getpid).values())
        assert len(processes) == 2 and os.getpid() not in processes
        # One thread of BLAS, and freed memory stays with the worker.
        for found in client.run(environment).values():
            assert found == {"OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": str(2**28)}
        info = client.scheduler_info(n_workers=-1)["workers"].values()
        assert {worker["memory_limit"] for worker in info} == {2**30}
    assert client.status == "closed"
    assert dask.config.get("distributed.worker.memory.monitor-interval") == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_workers": 0}, "n_workers: found 0; expected an integer of at least 1"),
        ({"n_workers": "2"}, "n_workers: found '2'"),
        ({"memory": "4GiB"}, "options {'memory': '4GiB'} .*unexpected keyword argument 'memory'"),
        ({"memory_limit": "4 apples"}, "Could not interpret 'apples'"),
        ({"processes": False}, "options {'processes': False} .*multiple values"),
    ],
)
def test_workers_that_cannot_be_started_are_one_error(options, message):
    before = default_client()
    with pytest.raises(InputError, match=message):
        mx.local_client(**options)
    # Dask still runs on what it ran on.
    assert default_client() is before


def test_tasks_run_where_dask_runs(client):
    found = []

    def note(shared, task):
        found.append((os.getpid(), shared, task))

    assert n_workers() == 2
    run_tasks(note, "s", range(3), name=str, done=lambda i: None)
    assert not found
    # What is asked for explicitly wins over a client.
    with dask.config.set(scheduler="threads", num_workers=3):
        assert n_workers() == 3
        run_tasks(note, "s", range(3), name=str, done=lambda i: None)
    assert sorted(found) == [(os.getpid(), "s", task) for task in range(3)]


def test_a_failure_ends_what_has_not_begun(client, tmp_path):
    def run(folder, task):
        if task == 0:
            raise ValueError("task 0")
        time.sleep(0.05)
        (folder / str(task)).touch()

    done = []
    with pytest.raises(ValueError, match="task 0"):
        run_tasks(run, tmp_path, range(400), name=str, done=done.append)
    assert 0 not in done
    assert len(list(tmp_path.iterdir())) < 200


def test_what_somebody_cancels_is_no_scheduler_that_was_lost(client):
    def cancel(i, value):
        client.cancel([distributed.Future(key, client) for key in list(client.futures)])

    pieces = [dask.delayed(time.sleep)(seconds) for seconds in (0, 2)]
    with pytest.raises(distributed.CancelledError, match="cancel"):
        compute_together(pieces, name=str, done=cancel)


def dies_at(calls, folder, **arguments):
    if count_call(folder) in calls:
        os.kill(os.getpid(), signal.SIGKILL)
    return explain_units(**arguments)


@pytest.mark.parametrize("few", [False, True], ids=["tasks", "blocks"])
def test_a_worker_that_dies_costs_nothing_but_time(client, store, tmp_path, caplog, few):
    result = scan(store, partial(dies_at, [0] if few else [3, 7], tmp_path))
    if few:
        # Fewer than workers: their blocks are computed together.
        result = result.sel(seed=[1], layer=[2])
    assert save(result) == {"computed": 1 if few else 12}
    save(mx.univariate_importance(mx.open_store(store)))
    check_saved(store)
    assert set(said(caplog)) == {DIED}


def test_what_tasks_share_outlives_all_workers(client, tmp_path):
    def run(shared, task):
        (tmp_path / f"begun-{os.getpid()}").touch()
        until((tmp_path / "go").exists)
        np.save(tmp_path / f"{task}.npy", shared * task)

    def kill():
        until(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
        for path in tmp_path.glob("begun-*"):
            os.kill(int(path.name.removeprefix("begun-")), signal.SIGKILL)
        (tmp_path / "go").touch()

    killer = threading.Thread(target=kill)
    killer.start()
    done = []
    run_tasks(run, np.arange(3), range(6), name=str, done=done.append)
    killer.join()
    assert sorted(done) == list(range(6))
    for task in range(6):
        np.testing.assert_array_equal(np.load(tmp_path / f"{task}.npy"), np.arange(3) * task)


def test_a_worker_gets_one_task_at_a_time_however_many_calls_went_before(client, tmp_path):
    def run(shared, task):
        (tmp_path / f"begun-{task}").touch()
        until((tmp_path / "go").exists)

    def look():
        until(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
        seen.extend(len(w.processing) for w in client.cluster.scheduler.workers.values())
        (tmp_path / "go").touch()

    # What errors of earlier calls hold on to.
    kept = [client.submit(pickle.loads, pickle.dumps(i), pure=False) for i in range(6)]
    seen = []
    looker = threading.Thread(target=look)
    looker.start()
    run_tasks(run, None, range(12), name=str, done=lambda i: None)
    looker.join()
    assert seen == [1, 1]
    assert len(kept) == 6


def test_what_has_finished_is_not_done_again(client, tmp_path):
    def run(folder, task):
        if task == 29:
            until((folder / "go").exists)
            if count_call(folder) == 30:
                os.kill(os.getpid(), signal.SIGKILL)
        else:
            count_call(folder)

    def note(i):
        done.append(i)
        if len(done) == 29:
            # Takes the place of a call of the last task, which comes next.
            count_call(tmp_path)
            (tmp_path / "go").touch()

    done = []
    run_tasks(run, tmp_path, range(30), name=str, done=note)
    assert sorted(done) == list(range(30))
    # The last task twice; the one before may not have been let go of yet.
    assert len(list(tmp_path.glob("call-*"))) in (32, 33)


def kill_when_at_work(client, victim):
    """Kill three workers that write their process's number, once Dask has heard what they do."""

    def is_at_work(pid):
        workers = client.cluster.scheduler.workers.values()
        tasks = [task for worker in workers if worker.pid == pid for task in worker.executing]
        return any(task.state == "processing" for task in tasks)

    for _ in range(3):
        until(lambda: victim.exists() and victim.read_text())
        pid = int(victim.read_text())
        until(partial(is_at_work, pid))
        victim.unlink()
        os.kill(pid, signal.SIGKILL)


def waits_to_be_killed(victim, activation, **arguments):
    if activation[0, 0] == layers(1, n_layers=6)[1, 1, 0, 0]:
        victim.write_text(str(os.getpid()))
        until(lambda: False)
    return explain_units(activation=activation, **arguments)


def test_three_deaths_on_one_piece_end_in_a_sentence_that_names_it(client, store, tmp_path):
    victim = tmp_path / "victim"
    killer = threading.Thread(target=kill_when_at_work, args=(client, victim))
    killer.start()
    with pytest.raises(WorkerError) as caught:
        save(scan(store, partial(waits_to_be_killed, victim)))
    killer.join()
    assert str(caught.value) == (
        "3 worker processes died one after another with univariate_importance of model=toy, "
        "seed=1, step=-1, pooling=mean, layer=2 in hand, probably for lack of memory; fewer "
        "workers or a larger memory_limit leave more memory for each, and what was saved until "
        "now stays"
    )
    counts = save(mx.univariate_importance(mx.open_store(store)))
    assert counts["skipped"] >= 1
    assert counts["skipped"] + counts["computed"] == 12
    check_saved(store)


def test_only_deaths_on_a_piece_itself_count(tmp_path):
    """What waits does not die with what a worker works on."""

    def run(folder, task):
        for n in range(2):
            with suppress(FileExistsError):
                (folder / f"{task}-{n}").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)

    done = []
    with mx.local_client(1):
        run_tasks(run, tmp_path, range(3), name=str, done=done.append)
    assert done == [0, 1, 2]


def fills_the_memory(**arguments):
    kept = []
    until(lambda: kept.append(np.ones(4 * MIB)))


def test_a_piece_that_needs_too_much_memory_is_named_with_the_cause(client, store, caplog):
    result = scan(store, fills_the_memory).sel(seed=[0], layer=[5])
    with pytest.raises(
        WorkerError,
        match=r"^3 worker processes died one after another with univariate_importance of "
        r"model=toy, seed=0, step=-1, pooling=mean, layer=5 in hand, the last one because it held "
        r"[\d.]+ [MG]iB with a limit of 700.00 MiB; [^\n]*$",
    ):
        save(result)
    assert len(said(caplog)) == 3
    for line in said(caplog):
        assert line.startswith("a worker process died because it held")


def script(folder, text):
    path = folder / "script.py"
    path.write_text(textwrap.dedent(text))
    return subprocess.Popen(
        [sys.executable, path],
        # What runs in the background ignores interrupts, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_script_ends_without_a_word_on_workers(tmp_path):
    """One worker dies while it works, another one with nothing to do."""
    process = script(
        tmp_path,
        """
        import os, signal, sys
        from pathlib import Path
        import mlem_xr as mx
        from mlem_xr.running.executor import run_tasks

        def run(died, task):
            if not died.exists():
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        if __name__ == "__main__":
            with mx.local_client(2) as client:
                run_tasks(run, Path(sys.argv[0]).with_name("died"), [1], name=str, done=print)
                client.wait_for_workers(2)
                os.kill(min(client.run(os.getpid).values()), signal.SIGKILL)
        """,
    )
    shown, errors = process.communicate(timeout=300)
    assert (process.returncode, shown, errors) == (0, "0\n", DIED + "\n")


def test_an_interrupted_script_shows_its_own_lines_alone(tmp_path):
    """Ctrl-C in a terminal reaches every process of the program."""
    process = script(
        tmp_path,
        """
        import time
        import mlem_xr as mx
        from mlem_xr.running.executor import run_tasks

        def run(shared, task):
            print("works", flush=True)
            time.sleep(1)

        if __name__ == "__main__":
            with mx.local_client(1):
                run_tasks(run, None, range(100), name=str, done=lambda i: None)
        """,
    )
    assert process.stdout.readline() == "works\n"
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    assert "Worker" not in errors and "WARNING" not in errors


def test_a_script_without_a_guard_is_told_so_in_a_sentence(tmp_path):
    process = script(
        tmp_path,
        """
        import mlem_xr as mx
        with mx.local_client(1) as client:
            print("started")
        """,
    )
    shown, errors = process.communicate(timeout=300)
    assert (process.returncode, shown) == (1, "")
    assert errors.count("Traceback") == 1
    assert len(errors.splitlines()) < 10
    assert errors.splitlines()[-1] == (
        "mlem_xr.schema.InputError: local_client: called while every worker imports the script "
        'that calls it; expected the call under `if __name__ == "__main__":`'
    )
