"""Threads, limits, whole files and progress bars."""

import os
import pty
import subprocess
import sys
import termios
import time
from contextlib import suppress
from types import SimpleNamespace

import dask
import pytest

from mlem_xr.running.executor import n_workers, run_tasks
from mlem_xr.running.progress import progress_bar
from mlem_xr.running.writing import whole


def test_a_failure_ends_what_has_not_begun(tmp_path):
    def run(folder, task):
        if task == 0:
            raise ValueError("task 0")
        time.sleep(0.05)
        (folder / str(task)).touch()

    done = []
    with dask.config.set(num_workers=1), pytest.raises(ValueError, match="task 0"):
        run_tasks(run, tmp_path, range(200), name=str, done=done.append)
    assert 0 not in done
    assert len(list(tmp_path.iterdir())) < 100


def test_the_synchronous_scheduler_has_one_worker():
    with dask.config.set(scheduler="sync"):
        assert n_workers() == 1


@pytest.mark.parametrize(("threads", "expected"), [({}, 1), ({"a": 1}, 1), ({"a": 2, "b": 1}, 3)])
def test_the_workers_of_a_cluster_are_its_threads_or_one_that_is_to_come(
    monkeypatch, threads, expected
):
    client = SimpleNamespace(nthreads=lambda: threads)
    monkeypatch.setattr("mlem_xr.running.executor.current_client", lambda: client)
    assert n_workers() == expected


BLAS = """
import numpy
from threadpoolctl import threadpool_info

from mlem_xr.running.blas import one_blas_thread


def show_threads():
    pools = threadpool_info()
    print(*{pool["num_threads"] for pool in pools if pool["user_api"] == "blas"})


show_threads()
with one_blas_thread():
    with one_blas_thread():
        show_threads()
    show_threads()
show_threads()
"""


def test_blas_is_limited_while_any_task_needs_it():
    """In a process of its own: the tests have one thread, and others may have set limits."""
    several = {name: "2" for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    run = subprocess.run(
        [sys.executable, "-c", BLAS], env=os.environ | several, capture_output=True, text=True
    )
    usual = str(min(2, len(os.sched_getaffinity(0))))
    assert run.stdout.split() == [usual, "1", "1", usual], run.stderr


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
