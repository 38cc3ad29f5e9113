"""Locks in an object store: leases, which end where their holder does not renew them.

A lock is an object that says who holds it. It is written on the condition that it is as it was
read, which the store itself checks, so that of several processes one gets it. While a process
holds it, a thread writes it again and again. Whoever waits takes it over once it has not changed
for a while by the own clock: no clocks are compared. The holder stops writing before that.
"""

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from time import monotonic, sleep, time
from typing import Any
from uuid import uuid4

from mlem_xr.schema import InputError
from mlem_xr.store.objects import Objects, answering, held_until, taken_over

RENEWED, VALID, DEAD = 5.0, 20.0, 30.0
"""Seconds after which a lease is renewed, its holder writes no more, and others take it over."""

_LONGEST_PAUSE = 2.0

Version = dict[str, str]
"""What an object store calls one state of an object."""

_checked: set[str] = set()
"""Buckets that are known to check conditions."""

logger = logging.getLogger(__name__)


@contextmanager
def leased(lock: Objects, patience: float) -> Iterator[None]:
    """Hold a lock; after `patience` seconds of waiting it is said for whom."""
    content = {"holder": f"process {os.getpid()} on {socket.gethostname()}", "id": uuid4().hex}
    try:
        version = _acquire(lock, content, patience)
    except OSError as error:
        raise InputError(
            f"store: {lock} cannot be written ({error}); expected an address that can be changed"
        ) from error
    done = Event()
    held = [version]
    renewing = Thread(target=_renew, args=(lock, content, held, done), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()
        lost = time() > held_until.pop(lock)
        with suppress(OSError):
            lost = _write(lock, content | {"holder": ""}, held[0]) is None or lost
    if lost:
        raise taken_over(lock)


def _acquire(lock: Objects, content: dict[str, Any], patience: float) -> Version:
    begun, pause, said = monotonic(), 0.02, False
    seen, since = None, begun
    while True:
        version, found = _read(lock)
        now = monotonic()
        if version != seen:
            seen, since = version, now
        holder = found.get("holder")
        if not holder or now - since > DEAD:
            end = time() + VALID
            mine = _write(lock, content, version or "create")
            if mine is not None:
                if holder:
                    logger.warning("took over %s, which %s does not renew", lock, holder)
                mine = mine if version else _checked_conditions(lock, content, mine)
                held_until[lock] = end
                return mine
        elif not said and now - begun > patience:
            logger.warning("waiting for %s, which holds %s", holder, lock)
            said = True
        sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _renew(lock: Objects, content: dict[str, Any], held: list[Version], done: Event) -> None:
    """Write a lock again and again, and keep its last version in `held`."""
    times = 0
    while not done.wait(RENEWED):
        times, end = times + 1, time() + VALID
        # A server that does not answer now may do so in time.
        with suppress(OSError):
            version = _write(lock, content | {"renewed": times}, held[0])
            if version is None:
                held_until[lock] = 0
                return
            held[0], held_until[lock] = version, end


def _read(lock: Objects) -> tuple[Version | None, dict[str, Any]]:
    import obstore

    try:
        with answering(lock):
            found = obstore.get(lock.client, lock.key)
            text = bytes(found.bytes())
    except FileNotFoundError:
        return None, {}
    return _version(found.meta), json.loads(text)


def _write(lock: Objects, content: dict[str, Any], when: Any) -> Version | None:
    """Write a lock if it is still of a version, or is not there; None: it is not so any more."""
    import obstore
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    text = json.dumps(content).encode()
    try:
        with answering(lock):
            return _version(obstore.put(lock.client, lock.key, text, mode=when))
    except (AlreadyExistsError, PreconditionError):
        version, found = _read(lock)
        # It may be an own one, of which the answer got lost.
        if found.get("id") != content["id"]:
            return None
        return version if found == content else _write(lock, content, version)


def _version(of: Any) -> Version:
    return {name: of[name] for name in ("e_tag", "version") if of[name] is not None}


def _checked_conditions(lock: Objects, content: dict[str, Any], version: Version) -> Version:
    """Return the version of a new lock, in a store that refuses to write it as it should."""
    if lock.bucket in _checked:
        return version
    now = _write(lock, content | {"renewed": 0}, version)
    other = {"holder": "nobody", "id": "nobody"}
    wrong = [_write(lock, other, when) for when in ("create", version)]
    if now is None or any(wrong):
        raise InputError(
            f"store: {lock.bucket} ignores conditions, so that processes cannot take turns; "
            "expected a store that knows If-None-Match and If-Match when an object is put"
        )
    _checked.add(lock.bucket)
    return now
