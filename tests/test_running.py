"""Worker processes, executors, limits, whole files and progress bars."""

import os
import pty
import subprocess
import sys
import termios
import time
from concurrent.futures import Executor
from contextlib import nullcontext, suppress

import dask
import distributed  # noqa: F401  (fills the configuration)
import pytest
from threadpoolctl import threadpool_info

import mlem_xr as mx
from mlem_xr.running.blas import one_blas_thread
from mlem_xr.running.executor import executor, n_workers, run_tasks
from mlem_xr.running.progress import progress_bar
from mlem_xr.running.writing import whole


def environment():
    return {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_")}


def test_local_client_starts_processes_of_one_thread():
    before = dask.config.get("distributed.worker.memory.monitor-interval")
    with mx.local_client(2, memory_limit="1GiB") as client:
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


def test_tasks_run_where_dask_runs():
    found = []

    def note(shared, task):
        found.append((os.getpid(), shared, task))

    with mx.local_client(1):
        assert n_workers() == 1
        run_tasks(note, "s", range(3), done=lambda i: None)
        assert not found
        # What is asked for explicitly wins over a client.
        with dask.config.set(scheduler="threads", num_workers=3):
            assert n_workers() == 3
            run_tasks(note, "s", range(3), done=lambda i: None)
    assert sorted(found) == [(os.getpid(), "s", task) for task in range(3)]


@pytest.mark.parametrize("where", ["threads", "client"])
def test_executors_have_the_standard_interface(where):
    with mx.local_client(1) if where == "client" else nullcontext(), executor() as workers:
        assert isinstance(workers, Executor)
        assert workers.submit(pow, 2, 5).result() == 32


@pytest.mark.parametrize("where", ["threads", "client"])
def test_a_failure_ends_what_has_not_begun(where, tmp_path):
    def run(folder, task):
        if task == 0:
            raise ValueError("task 0")
        time.sleep(0.05)
        (folder / str(task)).touch()

    done = []
    with (
        mx.local_client(1) if where == "client" else dask.config.set(num_workers=1),
        pytest.raises(ValueError, match="task 0"),
    ):
        run_tasks(run, tmp_path, range(200), done=done.append)
    assert 0 not in done
    assert len(list(tmp_path.iterdir())) < 100


def test_the_synchronous_scheduler_has_one_worker():
    with dask.config.set(scheduler="sync"):
        assert n_workers() == 1


def test_blas_is_limited_while_any_task_needs_it():
    def threads():
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    before = threads()
    with one_blas_thread():
        with one_blas_thread():
            assert threads() == {1}
        assert threads() == {1}
    assert threads() == before


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with pytest.raises(ValueError, match="half"), whole(path) as unfinished:
        unfinished.write_text("half")
        raise ValueError("half")
    assert list(path.parent.iterdir()) == []
    path.write_text("old")
    with whole(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(ValueError, match="half"), whole(tmp_path / "store") as unfinished:
        (unfinished / "part").mkdir(parents=True)
        raise ValueError("half")
    assert list(tmp_path.iterdir()) == []
    with whole(tmp_path / "store") as unfinished:
        (unfinished / "part").mkdir(parents=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["store", "part"]


SCAN = """
from mlem_xr.running.progress import progress_bar
with progress_bar("scan", 20_000, unit="units") as bar:
    bar.set_postfix_str("layer 3")
    bar.update(20_000)
"""


def test_a_bar_in_a_pipe_is_lines():
    shown = subprocess.run(
        [sys.executable, "-c", SCAN], capture_output=True, text=True, check=True
    ).stderr
    assert "\r" not in shown
    assert "units/s" in shown.splitlines()[-1]
    assert "20.0k/20.0k" in shown.splitlines()[-1]
    assert len(shown.splitlines()) < 5


def test_a_bar_in_a_terminal_is_one_line_that_changes():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    process = subprocess.Popen([sys.executable, "-c", SCAN], stderr=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):
        # Reading the terminal of a process that has ended is an error.
        while part := os.read(ours, 1000):
            shown += part
    assert process.wait() == 0
    assert b"\r" in shown
    assert shown.count(b"\n") == 1
    assert b"layer 3" in shown


def test_a_bar_in_a_notebook_without_widgets_is_text_without_warnings():
    code = "import sys, types, warnings\nwarnings.simplefilter('error')\n"
    code += "sys.modules['ipykernel'] = types.ModuleType('ipykernel')\n" + SCAN
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "20.0k/20.0k" in found.stderr


def test_a_bar_that_is_not_shown_is_silent(capfd):
    with progress_bar("scan", 2, unit="units", shown=False) as bar:
        bar.update(2)
    assert capfd.readouterr() == ("", "")
