"""Run many calls of one function on whatever Dask runs on, and say when each is done."""

from collections.abc import Callable, Sequence
from typing import Any

import dask
from dask.base import get_scheduler
from dask.callbacks import Callback
from dask.system import CPU_COUNT


def n_workers() -> int:
    """Count the threads that tasks will run on: a cluster's, if there is a client."""
    client = _client()
    if client is not None:
        return max(1, sum(client.nthreads().values()))
    return dask.config.get("num_workers", None) or CPU_COUNT


def run_tasks(
    function: Callable[[Any], None], arguments: Sequence[Any], *, done: Callable[[int], None]
) -> None:
    """Call `function` with each argument, in parallel; `done` hears the position of each.

    The function travels once to each worker, however large the data are that it holds.

    Parameters
    ----------
    function : callable
        Takes an argument; its return value is dropped.
    arguments : sequence
        One per task.
    done : callable
        Called in this process with the position of an argument when its task has finished.
    """
    client = _client()
    if client is None:
        _run_here(function, arguments, done)
    else:
        _run_on_cluster(client, function, arguments, done)


def _run_here(
    function: Callable[[Any], None], arguments: Sequence[Any], done: Callable[[int], None]
) -> None:
    shared = dask.delayed(function, pure=False, traverse=False)
    tasks = [shared(argument) for argument in arguments]
    position = {task.key: i for i, task in enumerate(tasks)}

    def finished(key: Any, *_: Any) -> None:
        if key in position:
            done(position[key])

    with Callback(posttask=finished):
        dask.compute(*tasks, optimize_graph=False)


def _run_on_cluster(
    client: Any,
    function: Callable[[Any], None],
    arguments: Sequence[Any],
    done: Callable[[int], None],
) -> None:
    from distributed import as_completed

    # Held by every worker, or the tasks would all go to the one that holds it.
    held = client.scatter(function, broadcast=True, hash=False)
    futures = [client.submit(_call, held, argument, pure=False) for argument in arguments]
    position = {future.key: i for i, future in enumerate(futures)}
    try:
        for future in as_completed(futures):
            future.result()
            done(position[future.key])
    finally:
        # After a failure or an interruption the rest is not wanted any more.
        client.cancel(futures)


def _call(function: Callable[[Any], None], argument: Any) -> None:
    function(argument)


def _client() -> Any:
    """Return the client of a cluster, if that is what Dask runs on."""
    client = getattr(get_scheduler(), "__self__", None)
    return client if hasattr(client, "scatter") else None
