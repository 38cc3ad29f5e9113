"""Run many calls of one function on threads or on the workers of a Dask client."""

import pickle
import sys
import threading
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from functools import lru_cache
from typing import Any

import cloudpickle
import dask
from dask.system import CPU_COUNT
from dask.utils import format_bytes

from mlem_xr.schema import SchedulerError, WorkerError, warn

_SECONDS_FOR_NEWCOMERS = 1.0
"""How often large tasks are offered to workers that came meanwhile."""

_large = threading.Lock()
"""Held by the large task that this process has in hand."""


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


def run_tasks(
    function: Callable[[Any, Any], None],
    shared: Any,
    tasks: Sequence[Any],
    *,
    name: Callable[[int], str],
    done: Callable[[int], None],
) -> None:
    """Call `function(shared, task)` for every task, in parallel.

    `shared` travels once to each worker, however large it is; `done` is called in this thread with
    the position of each task that has finished. What a worker had in hand when it died is called
    again; where workers die again and again on one task, `WorkerError` says what `name` calls it.
    """
    _run(function, shared, tasks, name, lambda i, _: done(i))


def map_tasks(
    function: Callable[[Any, Any], Any],
    shared: Any,
    tasks: Sequence[Any],
    *,
    name: Callable[[int], str],
    done: Callable[[int, Any], None],
) -> None:
    """Do as `run_tasks`, and give what the function returned to `done`, after the position."""
    _run(function, shared, tasks, name, lambda i, future: done(i, future.result()))


def _run(
    function: Callable[[Any, Any], Any],
    shared: Any,
    tasks: Sequence[Any],
    name: Callable[[int], str],
    done: Callable[[int, Any], None],
) -> None:
    client = current_client()
    if client is None:
        _run_on_threads(function, shared, tasks, done)
        return
    # Dask counts tasks by the first part of their keys. Were it the same in every call, some calls
    # later it would no longer see many tasks that share one and hand out one at a time.
    call = uuid.uuid4().hex
    held = _hold(client, shared, call)
    keys = [(f"tasks-{call}", i) for i in range(len(tasks))]
    futures = client.map(function, [held] * len(tasks), tasks, key=keys, pure=False)
    _wait(client, futures, name, done)


def run_large_tasks(
    function: Callable[[Any, Any], Any],
    shared: Any,
    tasks: Sequence[Any],
    *,
    name: Callable[[int], str],
    begun: Callable[[int], None],
    done: Callable[[int, Any], None],
    failed: Callable[[int, Exception], None],
) -> None:
    """Call `function(shared, task)` for every task, of which a process has one at a time.

    What a task raises goes to `failed`, and the others go on; so does `WorkerError` where workers
    die again and again on one. Without a client the tasks run one after another in this process.
    With one, each goes to a worker process that has none; where workers declare the resource "GPU",
    to one of these. What a worker warns of is warned of here.
    """
    client = current_client()
    if client is None:
        for i, task in enumerate(tasks):
            begun(i)
            try:
                value = function(shared, task)
            except Exception as error:
                failed(i, error)
            else:
                done(i, value)
        return
    call = uuid.uuid4().hex
    # At the scheduler, not at a worker, to which Dask would bring all tasks that need it.
    client.set_metadata(call, cloudpickle.dumps(shared))
    waiting, running = deque(range(len(tasks))), dict[int, Any]()
    resources: dict[str, int] = {}
    try:
        while waiting or running:
            n_places, resources = _places(client, resources)
            # Not all at once: of what a worker was given, all counts as dying with it, and what it
            # has not begun would wait for it while others have nothing to do.
            while waiting and len(running) < n_places:
                i = waiting.popleft()
                running[i] = client.submit(
                    *(_run_alone, function, call, tasks[i]),
                    key=(f"tasks-{call}", i),
                    resources=resources or None,
                    pure=False,
                )
                begun(i)
            for i in _finished(running):
                future = running.pop(i)
                try:
                    value, messages = _result(client, future, name(i))
                except SchedulerError:
                    raise
                except Exception as error:
                    failed(i, error)
                else:
                    for message in messages:
                        warn(message)
                    done(i, value)
                future.release()
    finally:
        client.cancel(list(running.values()))
        # A scheduler that is lost has nothing left to forget, and would be waited for.
        if client.status == "running":
            client.set_metadata(call, None)


def _run_alone(function: Callable[[Any, Any], Any], call: str, task: Any) -> tuple[Any, list[str]]:
    """Call a function while no other large task runs in this process; return its warnings too."""
    with _large, warnings.catch_warnings(record=True) as caught:
        value = function(_shared_in(call), task)
    return value, [str(warning.message) for warning in caught]


@lru_cache(maxsize=1)
def _shared_in(call: str) -> Any:
    """Return what the large tasks of a call share, which travels once to each process."""
    distributed = sys.modules["distributed"]
    worker = distributed.get_worker()
    held = distributed.utils.sync(worker.loop, worker.scheduler.get_metadata, keys=[call])
    return pickle.loads(held)


def _places(client: Any, resources: dict[str, int]) -> tuple[int, dict[str, int]]:
    """Count the processes that can have a large task, and say which resource it needs there.

    Where there are none yet, one task shows the cluster that some are wanted.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    with_gpu = sum(worker["resources"].get("GPU", 0) >= 1 for worker in workers)
    if resources or with_gpu:
        return max(1, with_gpu), {"GPU": 1}
    return max(1, len(workers)), {}


def _finished(running: Mapping[int, Any]) -> list[int]:
    """Wait a while for the first of some futures to finish; return the positions of those."""
    distributed = sys.modules["distributed"]
    futures = list(running.values())
    # What is cancelled has finished too.
    with suppress(TimeoutError, distributed.CancelledError):
        distributed.wait(futures, _SECONDS_FOR_NEWCOMERS, return_when="FIRST_COMPLETED")
    return [i for i, future in running.items() if future.done()]


def compute_together(
    collections: Sequence[Any],
    *,
    name: Callable[[int], str],
    done: Callable[[int, Any], None],
) -> None:
    """Compute Dask collections at once, as `dask.compute` does, so that all workers are busy.

    `done` is called with the position and the value of each; see `run_tasks` for `name`.
    """
    client = current_client()
    if client is None or not all(map(dask.is_dask_collection, collections)):
        for i, value in enumerate(dask.compute(*collections)):
            done(i, value)
        return
    futures = client.compute(list(collections))
    _wait(client, futures, name, lambda i, future: done(i, future.result()))


def _hold(client: Any, shared: Any, call: str) -> Any:
    """Return the future of what tasks share.

    A task of its own, not scattered data: what dies with its workers is made again. As bytes, which
    only workers need to understand.
    """
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1PB"}):
        return client.submit(
            pickle.loads, cloudpickle.dumps(shared), key=(f"shared-{call}", 0), pure=False
        )


def _run_on_threads(
    function: Callable[[Any, Any], Any],
    shared: Any,
    tasks: Sequence[Any],
    done: Callable[[int, Any], None],
) -> None:
    with ThreadPoolExecutor(n_workers(), "mlem_xr") as threads:
        position = {threads.submit(function, shared, task): i for i, task in enumerate(tasks)}
        try:
            for future in as_completed(position):
                future.result()
                done(position[future], future)
        finally:
            # After a failure or an interruption the rest is not wanted any more.
            for future in position:
                future.cancel()


def _wait(
    client: Any,
    futures: Sequence[Any],
    name: Callable[[int], str],
    done: Callable[[int, Any], None],
) -> None:
    """Wait for futures of a Dask client; cancel the rest after a failure or an interruption."""
    distributed = sys.modules["distributed"]
    running = {future.key: i for i, future in enumerate(futures)}
    try:
        for future in distributed.as_completed(futures):
            i = running[future.key]
            if future.status in ("error", "cancelled"):
                _result(client, future, name(i))
            done(i, future)
            del running[future.key]
            # Held on to, it would be computed again when its worker dies.
            future.release()
    finally:
        client.cancel([futures[i] for i in running.values()])


def _result(client: Any, future: Any, piece: str) -> Any:
    """Return what a finished future holds, or raise what went wrong in words."""
    distributed = sys.modules["distributed"]
    address = client.scheduler.address
    try:
        return future.result()
    except distributed.KilledWorker as error:
        raise WorkerError(_in_words(client, error, piece)) from None
    except distributed.CancelledError as error:
        if getattr(error, "reason", None) != "scheduler-connection-lost":
            raise
        raise SchedulerError(
            f"the scheduler at {address} does not answer any more; what was saved until now stays, "
            "and the same call with another cluster or none goes on"
        ) from None


def _in_words(client: Any, error: Any, piece: str) -> str:
    """Say on which piece of work worker processes died, and why."""
    worker = error.last_worker
    reports = client.get_events("worker-restart-memory")
    held = [report["rss"] for _, report in reports if report["worker"] == worker.address]
    cause = "probably for lack of memory"
    if held:
        limit = format_bytes(worker.memory_limit)
        cause = f"the last one because it held {format_bytes(held[-1])} with a limit of {limit}"
    return (
        f"{error.allowed_failures + 1} worker processes died one after another with {piece} in "
        f"hand, {cause}; fewer workers or a larger memory_limit leave more memory for each, and "
        "what was saved until now stays"
    )
