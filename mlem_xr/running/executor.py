"""Run many calls of one function on threads or on the workers of a Dask client."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

import dask
from dask.system import CPU_COUNT


def current_client() -> Any:
    """Return the Dask client that work is to run on; None: the threads of this process.

    A client is asked for by making one. A scheduler that is asked for explicitly, as in
    `dask.config.set(scheduler="threads")`, wins over it.
    """
    if dask.config.get("scheduler", None) not in ("dask.distributed", "distributed"):
        return None
    # Who made a client has imported distributed, which takes longer than importing this package.
    return sys.modules["distributed"].get_client()


def n_workers() -> int:
    """Count the threads that tasks will run on: a cluster's, if there is a client."""
    client = current_client()
    if client is not None:
        return max(1, sum(client.nthreads().values()))
    if dask.config.get("scheduler", None) in ("sync", "synchronous", "single-threaded"):
        return 1
    return dask.config.get("num_workers", None) or CPU_COUNT


@contextmanager
def executor() -> Iterator[Executor]:
    """Give the executor that tasks are to run on; what has not begun when it closes never does."""
    client = current_client()
    if client is not None:
        yield client.get_executor(pure=False)
        return
    with ThreadPoolExecutor(n_workers(), "mlem_xr") as threads:
        yield threads


def run_tasks(
    function: Callable[[Any, Any], None],
    shared: Any,
    tasks: Sequence[Any],
    *,
    done: Callable[[int], None],
) -> None:
    """Call `function(shared, task)` for every task, in parallel.

    `shared` travels once to each worker, however large it is; `done` is called in this thread with
    the position of each task that has finished.
    """
    client = current_client()
    if client is not None:
        # Held by every worker, or the tasks would all go to the one that holds it.
        shared = client.scatter(shared, broadcast=True, hash=False)
    with executor() as workers:
        position = {workers.submit(function, shared, task): i for i, task in enumerate(tasks)}
        try:
            for future in as_completed(position):
                future.result()
                done(position[future])
        finally:
            # After a failure or an interruption the rest is not wanted any more.
            for future in position:
                future.cancel()
