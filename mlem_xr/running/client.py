"""Recipes for Dask clients: worker processes on this machine."""

from typing import TYPE_CHECKING, Any

import dask

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
_KEEP_MEMORY = {
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**28,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**25,
}


def local_client(n_workers: int | None = None, **options: Any) -> "Client":
    """Start worker processes on this machine and make them what Dask runs on.

    Every worker has one thread: processes do not wait for each other in Python, and an analysis has
    many tasks, each over some layers or units. On a cluster of machines make a `distributed.Client`
    of its scheduler instead, for example with `dask_jobqueue.SLURMCluster`; nothing else changes.

    Parameters
    ----------
    n_workers : int, optional
        Number of processes; by default, one per core.
    **options
        Passed to `distributed.LocalCluster`, such as `memory_limit` (bytes of a worker, "4GiB") or
        `dashboard_address=":8787"` (no dashboard by default).

    Returns
    -------
    distributed.Client
        As a context manager, it ends the workers when it closes.

    Notes
    -----
    In a script, call it under ``if __name__ == "__main__":``, because every worker imports the
    script.

    Examples
    --------
    >>> with local_client(2) as client:
    ...     len(client.nthreads())
    2
    """
    from distributed import Client

    options = {"threads_per_worker": 1, "dashboard_address": None} | options
    with dask.config.set(_QUIET | _KEEP_MEMORY):
        return Client(n_workers=n_workers, processes=True, **options)
