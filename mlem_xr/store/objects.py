"""Objects in an object store, used as the files of a folder are.

obstore does the work, and is imported where an address asks for it. It reads credentials from the
environment and from the files of Google's tools; those of Amazon's come from boto3.
"""

import os
import re
import textwrap
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import time
from typing import Any

from zarr.storage import ObjectStore

from mlem_xr.schema import InputError, shown

SCHEMES = ("s3", "gs", "az", "memory")
"""Amazon S3 and what speaks as it does, Google Cloud Storage, Azure Blob Storage, this process."""

TOGETHER = 16
"""Requests at once, where there are many: each waits for a server most of its time."""

_NO_OBSTORE = 'an address in an object store needs obstore: pip install "mlem_xr[cloud]"'

_MEMORY = "memory:/"
"""The bucket of what this process holds, so that a key comes after it as after others."""

held_until: dict["Objects", float] = {}
"""Locks that this process holds, and the time after which others may have taken them over."""

_memory: dict[str, Any] = {}
"""What `memory://` holds."""

_FIRST: dict[str, Any] = {
    "client_options": {"connect_timeout": "5s", "timeout": "10s"},
    "retry_config": {"max_retries": 1, "retry_timeout": timedelta(seconds=10)},
}
"""Limits of the first request: what is wrong with an address shows in seconds."""

_OTHERS: dict[str, Any] = {
    "client_options": {"connect_timeout": "5s", "timeout": "5min"},
    "retry_config": {"max_retries": 20, "retry_timeout": timedelta(minutes=1)},
}
"""Limits of all others: a large chunk on a slow line takes a while, and a server comes back."""

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")

_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE", "AWS_WEB_IDENTITY_TOKEN_FILE")
"""What obstore finds in the environment."""


@dataclass(frozen=True, order=True)
class Objects:
    """The objects whose names begin with a key, and what is used here of a `Path`."""

    bucket: str
    """Such as "s3://bucket"."""
    key: str
    root: str
    """The key of the whole store, of which this is a part."""

    @property
    def name(self) -> str:
        """Return the last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> "Objects":
        """Return what this is in."""
        return replace(self, key=self.key.rpartition("/")[0])

    def with_name(self, name: str) -> "Objects":
        """Return what stands beside this."""
        return self.parent / name

    def is_relative_to(self, other: Any) -> bool:
        """Say whether this is another one, or in it."""
        return self.bucket == other.bucket and f"{self.key}/".startswith(f"{other.key}/")

    def relative_to(self, other: Any) -> str:
        """Return the rest of the name, within another one."""
        return self.key[len(other.key) + 1 :]

    def exists(self) -> bool:
        """Say whether there is an object of this name, or one in it."""
        import obstore

        with answering(self):
            with suppress(FileNotFoundError):
                obstore.head(self.client, self.key)
                return True
            return any(obstore.list(self.client, self.key))

    def glob(self, pattern: str) -> list["Objects"]:
        """List what `Path.glob` would, if the last part of the pattern is a name."""
        *parts, name = pattern.split("/")
        found = [self]
        for part in parts:
            if "*" in part:
                inner = [one for folder in together(Objects._children, found) for one in folder]
                found = [one for one in inner if fnmatchcase(one.name, part)]
            else:
                found = [one / part for one in found]
        files = [one / name for one in found]
        there = together(Objects.exists, files)
        return [file for file, is_there in zip(files, there, strict=True) if is_there]

    def files(self) -> list["Objects"]:
        """List all objects that are in this one."""
        import obstore

        with answering(self):
            found = obstore.list(self.client, self.key).collect()
        return [replace(self, key=one["path"]) for one in found]

    def remove(self) -> None:
        """Remove all objects that are in this one."""
        import obstore

        keys = [one.key for one in self.files()]
        # Others may have removed some meanwhile.
        with changing(self), suppress(FileNotFoundError):
            if keys:
                obstore.delete(self.client, keys)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove this object, as a `Path` does."""
        import obstore

        with changing(self), suppress(FileNotFoundError):
            obstore.delete(self.client, self.key)

    def fill(self, folder: Path) -> None:
        """Bring the files of a folder here, `zarr.json` last: nobody opens what is without it."""
        import obstore

        files = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
        names = [name for name, path in files.items() if path.is_file() and name != "zarr.json"]
        # What a killed process left of this has no other names.
        if any(one.relative_to(self) not in names for one in self.files()):
            raise InputError(f"store: {self} exists and is not a store; expected a new address")

        def put(name: str) -> None:
            with changing(self):
                obstore.put(self.client, (self / name).key, files[name].read_bytes())

        together(put, names)
        put("zarr.json")

    @property
    def client(self) -> Any:
        """Return what obstore works on."""
        return client_of(self.bucket, self.root)

    def _children(self) -> list["Objects"]:
        import obstore

        with answering(self):
            found = obstore.list_with_delimiter(self.client, self.key)["common_prefixes"]
        return [replace(self, key=key) for key in found]

    def __truediv__(self, part: str) -> "Objects":
        return replace(self, key=f"{self.key}/{part}" if self.key else part)

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}"


class ZarrObjects(ObjectStore):
    """A store as zarr sees it; other processes open it by its address."""

    def __init__(self, bucket: str, root: str, *, read_only: bool = False) -> None:
        super().__init__(client_of(bucket, root), read_only=read_only)
        self.bucket, self.root = bucket, root
        self._seen: set[str] = set()

    def with_read_only(self, read_only: bool = False) -> "ZarrObjects":
        """Return the same store, which may be written to or not."""
        return ZarrObjects(self.bucket, self.root, read_only=read_only)

    async def get(self, key: str, *arguments: Any, **options: Any) -> Any:
        """Read an object; None if there is none."""
        with answering(self):
            found = await super().get(key, *arguments, **options)
        if found is not None and key.endswith("/zarr.json"):
            self._seen.add(key)
        return found

    async def get_partial_values(self, *arguments: Any, **options: Any) -> Any:
        """Read parts of objects."""
        with answering(self):
            return await super().get_partial_values(*arguments, **options)

    async def exists(self, key: str) -> bool:
        """Say whether there is an object."""
        with answering(self):
            return await super().exists(key)

    async def set(self, key: str, value: Any) -> None:
        """Write an object, whole or not at all."""
        with changing(self):
            await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        """Write an object, if it is one of the store and is not there."""
        # With each array zarr makes groups of all that its key goes through, up to the bucket.
        if key.startswith(f"{self.root}/") and key not in self._seen:
            with changing(self):
                await super().set_if_not_exists(key, value)

    async def delete(self, key: str) -> None:
        """Remove an object."""
        with changing(self):
            await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        """Remove all objects whose names begin so."""
        with changing(self):
            await super().delete_dir(prefix)

    async def list_prefix(self, prefix: str) -> AsyncGenerator[str, None]:
        """List all objects whose names begin so."""
        with answering(self):
            async for key in super().list_prefix(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        """List what a folder of this name would hold."""
        with answering(self):
            async for key in super().list_dir(prefix):
                yield key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZarrObjects) and self.__reduce__() == other.__reduce__()

    def __reduce__(self) -> tuple[Any, ...]:
        # Credentials do not travel.
        of = os.getpid() if self.bucket == _MEMORY else None
        return _opened_elsewhere, (self.bucket, self.root, self.read_only, of)

    def __str__(self) -> str:
        return self.bucket


def _opened_elsewhere(bucket: str, root: str, read_only: bool, process: int | None) -> ZarrObjects:
    if process not in (None, os.getpid()):
        raise InputError(
            f"store: {bucket}/{root} is in the memory of process {process} alone; expected another "
            "address where worker processes compute"
        )
    return ZarrObjects(bucket, root, read_only=read_only)


def objects_at(url: str) -> Objects:
    """Return the objects of a store by its address."""
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        raise InputError(
            f"store: found {shown(url)}; expected the path of a folder, or an address that begins "
            f"with {', '.join(f'{known}://' for known in SCHEMES)}"
        )
    bucket, _, key = ("", "", rest) if scheme == "memory" else rest.partition("/")
    key = key.rstrip("/")
    parts = key.split("/")
    named = scheme == "memory" or re.fullmatch(r"\w[\w.-]*", bucket, re.ASCII)
    if not named or not key.isprintable() or {"", ".", ".."} & set(parts):
        known = (
            "memory://name.zarr" if scheme == "memory" else f"{scheme}://bucket/folder/name.zarr"
        )
        raise InputError(f"store: found {shown(url)}; expected an address such as {known}")
    try:
        import_module("obstore")
    except ImportError as error:
        raise InputError(f"store: {_NO_OBSTORE}") from error
    return Objects(_MEMORY if scheme == "memory" else f"{scheme}://{bucket}", key, key)


def together(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Call a function that waits for a server for every item, many at once."""
    items = list(items)
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(TOGETHER, len(items)), "mlem_xr-requests") as threads:
        return list(threads.map(function, items))


@contextmanager
def answering(what: Any) -> Iterator[None]:
    """Turn all that obstore says of a server into what Python says of a disk, in one line."""
    _process.check()
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

    try:
        yield
    except (AlreadyExistsError, PreconditionError):
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(_reason(error)) from error
    except BaseError as error:
        raise OSError(f"{what}: {_reason(error)}") from error


@contextmanager
def changing(store: Any) -> Iterator[None]:
    """Change a store, unless others may have taken over a lock of it that this process holds."""
    for lock, end in list(held_until.items()):
        if (lock.bucket, lock.root) == (store.bucket, store.root) and time() > end:
            raise taken_over(lock)
    with answering(store):
        yield


def taken_over(lock: Objects) -> InputError:
    """Return the error that a process gets which was stopped while it held a lock."""
    return InputError(
        f"store: this process stood still, so that another one may have taken over {lock}; "
        "expected the same call again, which goes on"
    )


def _reason(error: Exception) -> str:
    """Say in a line what a server said."""
    text = str(error).partition("\n\nDebug source")[0]
    said = re.search("<Message>(.+?)</Message>", text)
    return textwrap.shorten(said[1] if said else text, 300)


@cache
def client_of(bucket: str, root: str) -> Any:
    """Return what obstore works on, once it is known that the bucket of a store answers."""
    from obstore.store import AzureStore, GCSStore, MemoryStore, S3Store

    _process.note_use()
    if bucket == _MEMORY:
        return _memory.setdefault(bucket, MemoryStore())
    scheme, _, name = bucket.partition("://")
    kind = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[scheme]
    try:
        options = _amazon() if scheme == "s3" else {}
        # Nothing is in this: the answer is short, or says what is wrong.
        kind(name, **_with(_FIRST, options)).list(f"{root}/zarr.json").collect()
        return kind(name, **_with(_OTHERS, options))
    except Exception as error:
        raise InputError(
            f"store: {bucket}/{root} cannot be reached ({_reason(error)}); expected a bucket that "
            "exists, and credentials for it in the environment or in the usual files"
        ) from error


def _with(limits: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    both = limits["client_options"] | options.get("client_options", {})
    return {**limits, **options, "client_options": both}


def _amazon() -> dict[str, Any]:
    """Return what obstore does not read itself: the files of Amazon's tools."""
    options: dict[str, Any] = {}
    endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
    if not any(os.environ.get(name) for name in _CREDENTIALS) and find_spec("boto3"):
        import botocore.session
        from obstore.auth.boto3 import Boto3CredentialProvider

        session = botocore.session.get_session()
        endpoint = endpoint or session.get_scoped_config().get("endpoint_url", "")
        region = session.get_config_variable("region")
        if session.get_credentials() is not None:
            options["credential_provider"] = Boto3CredentialProvider(session)
        options |= {"region": region} if region else {}
        options |= {"endpoint": endpoint} if endpoint else {}
    if endpoint and not re.match(r"https?://\w", endpoint):
        # obstore would end the process.
        raise ValueError(f"the server of Amazon's tools is {endpoint!r}, which is no URL")
    if endpoint.startswith("http://"):
        # Who names such a server wants it.
        options["client_options"] = {"allow_http": True}
    return options


class _Process:
    """Whether this process may go on with obstore, whose threads a forked one lacks."""

    is_used = is_forked = False

    def note_use(self) -> None:
        self.check()
        self.is_used = True

    def note_fork(self) -> None:
        self.is_forked = self.is_used

    def check(self) -> None:
        if self.is_forked:
            raise InputError(
                "store: a process that was forked cannot go on with an object store, as requests "
                'would wait for ever; expected processes that start by "spawn", as the workers of '
                "local_client do"
            )


_process = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.note_fork)
