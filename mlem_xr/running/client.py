"""Recipes for Dask clients: worker processes on this machine."""

import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dask

from mlem_xr.schema import InputError, check_integer

if TYPE_CHECKING:
    from distributed import Client

# An idle cluster watches itself all the time, at a tenth of a core that the workers lack.
_QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.monitor-interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.admin.tick.interval": "500ms",
}

# By default workers hand freed memory back to the system at once, and then wait for new pages in
# every block of units: a third of a scan's time. (glibc; both in bytes.)
KEEP_MEMORY = {
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**28,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**25,
}
"""What workers should do on any cluster; they read this when they start."""

# The third death on a task is its last one, and a worker has no other task in hand that dies with
# it. Few tasks would all go to the worker that holds what they share, until others steal them.
SCHEDULING = {
    "distributed.scheduler.allowed-failures": 2,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.work-stealing-interval": "100ms",
}
"""What a scheduler should do on any cluster; it reads this when it starts."""

# Where no worker takes work any more, as all are lost or hold too much, that ends in an error. On a
# cluster workers may come late.
_ALL_LOST = {"distributed.scheduler.no-workers-timeout": "30 minutes"}

# Starting a worker again takes more than the usual 15 seconds on a busy machine, and who is not
# back by then never comes. Dask reads this when a worker dies, so it stays set.
_TIME_TO_START = {"distributed.deploy.lost-worker-timeout": "5 minutes"}

# Ctrl-C in a terminal reaches the workers too, which would all say so.
_NO_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"

_UNGUARDED = 70
"""Exit code of a process that, while it starts, is to make workers itself."""


def local_client(n_workers: int | None = None, **options: Any) -> "Client":
    """Start worker processes on this machine and make them what Dask runs on.

    Every worker has one thread: processes do not wait for each other in Python, and an analysis has
    many tasks, each over some layers or units. On a cluster of machines make a `distributed.Client`
    of its scheduler instead, for example with `dask_jobqueue.SLURMCluster`; nothing else changes.
    `record` records one checkpoint on each worker at a time.

    Parameters
    ----------
    n_workers : int, optional
        Number of processes, at most 1024; by default, one per core.
    **options
        Passed to `distributed.LocalCluster`, such as `memory_limit` (bytes of a worker, "4GiB") or
        `dashboard_address=":8787"` (no dashboard by default).

    Returns
    -------
    distributed.Client
        As a context manager, it ends the workers when it closes.

    Raises
    ------
    InputError
        If workers cannot be started with these options, or a script calls this outside of
        ``if __name__ == "__main__":``, which every worker imports.

    Notes
    -----
    A worker that dies is said in a line and replaced, and what it had in hand is computed again.
    After three deaths on one piece of work, `save_results` ends with an error that names the piece;
    what was saved stays. Where Dask computes by itself, as in ``result.compute()``, that is
    Dask's `KilledWorker`, which names one of its tasks.

    Examples
    --------
    >>> with local_client(2) as client:
    ...     len(client.nthreads())
    2
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # This is a worker, which imports the script that makes it: there it ends without a word.
        sys.exit(_UNGUARDED)
    if n_workers is not None:
        n_workers = check_integer("n_workers", n_workers, at_least=1, below=1025)
    from mlem_xr.running.local import LocalClient

    usual: dict[str, Any] = {"threads_per_worker": 1, "silence_logs": logging.CRITICAL}
    if "dashboard_address" not in options:
        # Without a dashboard Dask listens all the same, at a port that others may want.
        port = {"dashboard_address": "127.0.0.1:0"}
        usual |= {"dashboard_address": None, "scheduler_kwargs": port}
    preload = [*dask.config.get("distributed.worker.preload"), _NO_INTERRUPTS]
    dask.config.set(_TIME_TO_START)
    settings = _QUIET | KEEP_MEMORY | SCHEDULING | _ALL_LOST
    try:
        with (
            dask.config.set(settings | {"distributed.worker.preload": preload}),
            _no_words_on_semaphores(),
        ):
            return LocalClient(n_workers=n_workers, processes=True, **(usual | options))
    except Exception as error:
        if _is_unguarded():
            raise InputError(
                "local_client: called while every worker imports the script that calls it; "
                'expected the call under `if __name__ == "__main__":`'
            ) from None
        cause: BaseException = error
        while isinstance(cause, RuntimeError) and cause.__cause__ is not None:
            # Such as "Nanny failed to start."
            cause = cause.__cause__
        raise InputError(
            f"local_client: workers cannot be started with n_workers={n_workers!r} and options "
            f"{options} ({type(cause).__name__}: {cause})"
        ) from None


@contextmanager
def _no_words_on_semaphores() -> Iterator[None]:
    """Start the process that removes the semaphores of dead workers, but does not warn of them."""
    before = os.environ.get("PYTHONWARNINGS")
    ignored = "ignore:resource_tracker:UserWarning"
    os.environ["PYTHONWARNINGS"] = ignored if before is None else f"{before},{ignored}"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


def _is_unguarded() -> bool:
    """Say whether a process that imports the script, as workers do, is to make workers itself."""
    method = dask.config.get("distributed.worker.multiprocessing-method")
    process = multiprocessing.get_context(method).Process(target=os.getpid)
    process.start()
    process.join()
    return process.exitcode == _UNGUARDED
