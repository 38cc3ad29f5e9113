"""Where a store is."""

from pathlib import Path
from typing import Any

from mlem_xr.schema import InputError, check_location


def store_path(store: Any) -> Path:
    """Return the one path of a store, whatever links and names lead there."""
    path = check_location("store", store, "the path of a folder").resolve()
    if path == path.parent:
        raise InputError(f"store: '{path}' is the root of all folders; expected one of its own")
    there = next(part for part in (path, *path.parents) if part.exists())
    if not there.is_dir():
        raise InputError(f"store: {there} is no folder; expected the path of one")
    return path
