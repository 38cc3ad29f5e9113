"""Locks between processes."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from mlem_xr.schema import InputError
from mlem_xr.store.address import Address
from mlem_xr.store.leases import leased
from mlem_xr.store.objects import Objects

_PATIENCE = 5.0
"""Seconds of waiting after which it is said what is waited for."""

_EFFECTIVE = os.access in os.supports_effective_ids

logger = logging.getLogger(__name__)


@contextmanager
def locked(path: Address) -> Iterator[None]:
    """Hold the lock of a store or of a part of it, so that processes change it in turn."""
    if isinstance(path, Objects):
        with leased(path.with_name(path.name + ".lock"), _PATIENCE):
            yield
    else:
        with _locked_folder(path):
            yield


@contextmanager
def _locked_folder(path: Path) -> Iterator[None]:
    file = path.with_name(path.name + ".lock")
    lock = FileLock(file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Asked first, because zarr finds out in the middle of its work.
        for folder in (path,) if file.exists() else (path, path.parent):
            if folder.is_dir() and not os.access(folder, os.W_OK, effective_ids=_EFFECTIVE):
                raise PermissionError(f"{folder} cannot be written to")
        _acquire(lock)
    except OSError as error:
        raise InputError(
            f"store: {path} cannot be changed ({error}); expected a folder that can be written to"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock) -> None:
    try:
        lock.acquire(timeout=_PATIENCE, poll_interval=0.005)
    except Timeout:
        logger.warning("waiting for %s, which holds %s", _holder(lock.lock_file), lock.lock_file)
        lock.acquire(poll_interval=0.05)


def _holder(file: str) -> str:
    """Name the process that holds a lock; the system knows it, on Linux and on this machine."""
    with suppress(OSError, StopIteration):
        inode = f":{Path(file).stat().st_ino}"
        held = (line.split() for line in Path("/proc/locks").read_text().splitlines())
        pid = next(words[4] for words in held if words[1] != "->" and words[5].endswith(inode))
        # 0 is a process that cannot be seen from here.
        return f"process {pid}" if pid != "0" else "another process"
    return "another process"
