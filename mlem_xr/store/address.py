"""Where a store is: a folder, or the objects of a key in an object store."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from os import fspath
from pathlib import Path
from typing import Any

import zarr

from mlem_xr.running.writing import whole
from mlem_xr.schema import InputError, check_location, shown
from mlem_xr.store.objects import Objects, ZarrObjects, objects_at, together

Address = Path | Objects
"""A store, or a part of it."""


def store_path(store: Any) -> Any:
    """Return the one `Address` of a store, whatever links and names lead there."""
    if isinstance(store, Objects):
        return store
    text = _text(store)
    if "://" in text:
        return objects_at(text)
    path = check_location("store", store, "the path of a folder")
    if path.parts and re.fullmatch(r"\w{2,}:", path.parts[0]):
        # A `Path` made of an address has lost one of its slashes.
        raise InputError(
            f"store: found {shown(text)}; expected the path of a folder, or an address as a text, "
            "such as 's3://bucket/name.zarr'"
        )
    path = path.resolve()
    if path == path.parent:
        raise InputError(f"store: '{path}' is the root of all folders; expected one of its own")
    there = next(part for part in (path, *path.parents) if part.exists())
    if not there.is_dir():
        raise InputError(f"store: {there} is no folder; expected the path of one")
    return path


def _text(store: Any) -> str:
    with suppress(Exception):
        text = fspath(store)
        return text if isinstance(text, str) else ""
    return ""


def address_of(part: zarr.Array | zarr.Group) -> Address:
    """Return where an array or a group lies."""
    store = part.store
    if isinstance(store, ZarrObjects):
        return Objects(store.bucket, part.path, store.root)
    return Path(str(getattr(store, "root", "")), part.path)


def open_zarr(address: Address, mode: Any) -> zarr.Group:
    """Open the group of a store or of a result."""
    # The format is said, or three files of an older one would be looked for each time.
    options: Any = {"mode": mode, "zarr_format": 3, "use_consolidated": False}
    if isinstance(address, Path):
        return zarr.open_group(address, **options)
    store = ZarrObjects(address.bucket, address.root)
    return zarr.open_group(store, path=address.key, **options)


@contextmanager
def made(address: Address) -> Iterator[Path]:
    """Give a folder to write to; when the block ends, a store with all that is there appears."""
    if isinstance(address, Objects):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            address.fill(Path(folder))
        return
    if address.exists() and any(address.iterdir() if address.is_dir() else [address]):
        raise InputError(f"store: {address} exists and is not a store; expected a new folder")
    # Renamed: nobody opens a store that lacks some of its sentences.
    with whole(address) as unfinished:
        yield unfinished


def remove_files(address: Address) -> None:
    """Remove all files of a folder."""
    if isinstance(address, Objects):
        address.remove()
        return
    for file in address.rglob("*"):
        if file.is_file():
            file.unlink(missing_ok=True)


def remove_folder(address: Address) -> None:
    """Remove a folder, as far as that can be done."""
    if isinstance(address, Path):
        shutil.rmtree(address, ignore_errors=True)
    else:
        address.remove()


def missing_files(files: list[Address]) -> list[Address]:
    """Return those of some files that are not there."""
    first = files[0] if files else None
    if len(files) < 2 or not isinstance(first, Objects):
        return [file for file in files if not file.exists()]
    # One list costs as much as one question.
    folder = first.parent
    while not all(isinstance(one, Objects) and one.is_relative_to(folder) for one in files):
        folder = folder.parent
    there = set(folder.files())
    return [file for file in files if file not in there]


def each(address: Address, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Call a function that reads or writes at an address for every item."""
    if isinstance(address, Objects):
        return together(function, items)
    return [function(item) for item in items]


def scratch_folder(address: Address) -> Path | None:
    """Return a folder beside a store; None: it has none."""
    if isinstance(address, Objects):
        return None
    return next(path for path in address.parents if path.exists())
