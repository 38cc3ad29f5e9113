"""Where a store is."""

from os import PathLike
from pathlib import Path
from typing import Any

from mlem_xr.schema import InputError


def store_path(store: Any) -> Path:
    """Return the one path of a store, whatever links and names lead there."""
    expected = "expected the path of a folder"
    if not isinstance(store, str | PathLike) or not str(store).strip():
        raise InputError(f"store: found {store!r}; {expected}")
    text = str(store)
    if "://" in text:
        raise InputError(f"store: {text!r} is an address in an object store; {expected}")
    try:
        path = Path(text).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"store: {text!r} cannot be found ({error}); {expected}") from error
    if path == path.parent:
        raise InputError(f"store: {text!r} is the root of all folders; {expected} of its own")
    return path
