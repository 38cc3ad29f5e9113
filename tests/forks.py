"""Processes that tests start and kill, forked from one that has imported what takes seconds."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "distributed.nanny",
        "mlem_xr.kernels.explain",
        "mlem_xr.networks.pooling",
        "mlem_xr.networks.recording",
        "mlem_xr.store.saving",
        "transformers.models.auto.modeling_auto",
        "transformers.models.bert.modeling_bert",
    ]
)


def _call(environment: dict[str, str], function: Callable, arguments: tuple) -> None:
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)


def start_fork(function: Callable, *arguments: object) -> BaseProcess:
    """Start a process that calls a function, in the environment of this one, and ends with it."""
    arguments = (dict(os.environ), function, arguments)
    process = FORKS.Process(target=_call, args=arguments, daemon=True)
    process.start()
    return process
