"""Worker processes on this machine."""

import os

import dask
import distributed  # noqa: F401  (fills the configuration)

import mlem_xr as mx
from mlem_xr import tasks


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

    def note(argument):
        found.append(os.getpid())

    with mx.local_client(1):
        assert tasks.n_workers() == 1
        tasks.run_tasks(note, range(3), done=lambda i: None)
        assert not found
        # What is asked for explicitly wins over a client.
        with dask.config.set(scheduler="threads", num_workers=3):
            assert tasks.n_workers() == 3
            tasks.run_tasks(note, range(3), done=lambda i: None)
    assert found == 3 * [os.getpid()]
