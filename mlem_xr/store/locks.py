"""Locks between processes."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mlem_xr.schema import InputError

_PATIENCE = 5.0
"""Seconds of waiting after which it is said what is waited for."""

logger = logging.getLogger(__name__)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a store or of a part of it, so that processes change it in turn."""
    file = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(f"{path.parent} cannot be written to")
        lock = FileLock(file)
        _acquire(lock)
    except OSError as error:
        raise InputError(
            f"store: the lock {file} cannot be made ({error}); expected a folder that can be "
            "written to"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock) -> None:
    try:
        lock.acquire(timeout=_PATIENCE, poll_interval=0.005)
    except Timeout:
        logger.warning("waiting for another process, which holds %s", lock.lock_file)
        lock.acquire(poll_interval=0.05)
