"""Where long work runs, in a word: on this machine, at a scheduler that runs, or in Slurm jobs."""

import logging
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask

from mlem_xr.running.client import SCHEDULING, local_client
from mlem_xr.schema import InputError, check_integer, shown

if TYPE_CHECKING:
    from distributed import Client

_EXPECTED = (
    "local, slurm, the address of a scheduler such as tcp://10.0.0.1:8786, or the file that a "
    "scheduler has written"
)

_SECONDS_FOR_AN_ANSWER = 10
"""How long to wait for a scheduler that runs."""


@contextmanager
def cluster_client(cluster: str, n_workers: int | None = None) -> Iterator["Client"]:
    """Make a client of a cluster and what Dask runs on; close it in the end.

    Parameters
    ----------
    cluster : str
        `"local"`: processes on this machine; `"slurm"`: jobs as the configuration of Dask says;
        the address of a scheduler, or the file that it has written.
    n_workers : int, optional
        Number of processes: for `"local"`, by default one per core; for `"slurm"` it is needed.

    Yields
    ------
    distributed.Client
        Its own workers and jobs end with it; a scheduler that ran before goes on.

    Raises
    ------
    InputError
        If there is no such cluster, or it does not answer.
    ImportError
        If dask-jobqueue is needed and not installed.

    Examples
    --------
    >>> with cluster_client("nonsense"):  # doctest: +ELLIPSIS
    ...     pass
    Traceback (most recent call last):
        ...
    mlem_xr.schema.InputError: cluster: found 'nonsense'; expected local, slurm, the address of ...
    """
    if n_workers is not None:
        n_workers = check_integer("workers", n_workers, at_least=1, below=1025)
    if cluster == "local":
        with local_client(n_workers) as client:
            yield client
        return
    client_of = _slurm_client if cluster == "slurm" else _client_of
    # Not the default one: that a client would stay which never found its scheduler, or lost it.
    with _silence(), client_of(cluster, n_workers) as client, client.as_current():
        yield client


@contextmanager
def _silence() -> Iterator[None]:
    """Silence Dask, which has many lines on what is one sentence here."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _client_of(cluster: str, n_workers: int | None) -> "Client":
    """Connect to a scheduler that runs."""
    if n_workers is not None:
        raise InputError(
            f"workers: found {n_workers} for {shown(cluster)}, which has its own; expected none"
        )
    is_file = _is_file(cluster)
    if not is_file and ":" not in cluster:
        raise InputError(f"cluster: found {shown(cluster)}; expected {_EXPECTED}")
    from distributed import Client

    at: dict[str, Any] = {"scheduler_file": cluster} if is_file else {"address": cluster}
    try:
        return Client(**at, timeout=_SECONDS_FOR_AN_ANSWER, set_as_default=False)
    except Exception as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"cluster: no scheduler answers at {shown(cluster)} ({cause}); expected {_EXPECTED}"
        ) from error


def _is_file(cluster: str) -> bool:
    try:
        return Path(cluster).expanduser().is_file()
    except (OSError, RuntimeError, ValueError):
        return False


@contextmanager
def _slurm_client(cluster: str, n_workers: int | None) -> Iterator["Client"]:
    """Submit jobs whose processes become workers, and cancel them in the end."""
    if n_workers is None:
        raise InputError("workers: none given; expected how many to ask Slurm for")
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise ImportError(
            f'--cluster slurm needs dask-jobqueue ({error}): pip install "mlem_xr[cluster]"'
        ) from error
    from distributed import Client

    # What the files say themselves wins.
    said = dask.config.collect()
    settings = {k: v for k, v in SCHEDULING.items() if dask.config.get(k, None, said) is None}
    try:
        with dask.config.set(settings):
            jobs = SLURMCluster()
    except Exception as error:
        raise InputError(
            f"cluster: no jobs can be made of the configuration of Dask ({error}); expected "
            "jobqueue.slurm.cores, memory and walltime, as in ~/.config/dask/jobqueue.yaml"
        ) from error
    with jobs:
        _check_job(jobs.job_script())
        with Client(jobs, set_as_default=False) as client:
            jobs.scale(n_workers)
            yield client


def _check_job(script: str) -> None:
    """Refuse jobs that Slurm would not take, of which dask-jobqueue says nothing."""
    try:
        subprocess.run(
            ["sbatch", "--test-only"], input=script, check=True, capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise InputError(
            "cluster: there is no sbatch on this machine; expected one that submits to Slurm"
        ) from error
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())
        raise InputError(
            f"cluster: Slurm refuses a job ({said}); expected a configuration of jobqueue.slurm "
            "that fits, as in ~/.config/dask/jobqueue.yaml"
        ) from error
