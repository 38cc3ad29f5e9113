"""Clear up a store: remove what killed processes left, and unmark what is damaged."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from time import time
from typing import Any

import pandas as pd

from mlem_xr.schema import REPRESENTATION
from mlem_xr.store.activations import unmark
from mlem_xr.store.address import Address, open_zarr, store_path
from mlem_xr.store.grid import array_of, dims_of, file_of, problem_of
from mlem_xr.store.locks import locked
from mlem_xr.store.verifying import name_within, verify_store

_COLUMNS = ("part", "settings", *REPRESENTATION, "file", "done")

_AGE = 3600
"""Seconds after which nobody goes on writing a chunk."""

_UNFINISHED = r"\.[0-9a-f]{32}\.(.+)"
"""Name of a store that is being made, see `running.writing.whole`."""

_PARTIAL = r".+\.[0-9a-f]{32}\.partial"
"""Name of a file that zarr writes, before it is renamed."""


def repair_store(store: str | Path, *, progress: bool = True) -> pd.DataFrame:
    """Remove what killed processes left, and mark what is damaged as not recorded or computed.

    Everything is read, as `verify_store` does. Then `record` and `save_results` with the same
    arguments as before make again what was damaged, and nothing else.

    Parameters
    ----------
    store : str or Path
        A store, which nobody needs to have for oneself.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    pd.DataFrame
        One row per file that was removed or was found damaged, none if there was nothing to do:
        `part` to `file` as of `verify_store`, the part of what a killed process left being
        "unfinished", and what was `done`: "removed", "marked as not recorded", "marked as not
        computed", or "left", with what mends it.

    Raises
    ------
    InputError
        If there is no store, or it cannot be opened or changed.

    Notes
    -----
    Activations of a checkpoint stay in the store until it is recorded again. Damaged sentences,
    labels and marks are left as they are: what they say is not written down twice. Unfinished files
    in a store are removed when they are an hour old; in an object store there are none.

    Examples
    --------
    >>> import tempfile, mlem_xr as mx
    >>> path = mx.create_store(mx.read_stimuli("short_sentence"), tempfile.mkdtemp() + "/s.zarr")
    >>> len(repair_store(path, progress=False))
    0
    """
    root: Address = store_path(store)
    damaged = verify_store(store, progress=progress).to_dict("records")
    rows = [_row(part="unfinished", file=name, done="removed") for name in _remove_unfinished(root)]
    for found in damaged:
        row = {str(name): value for name, value in found.items()}
        known = {name: row[name] for name in _COLUMNS[:-1]}
        rows.append({**known, "done": _mended(root, row) or f"left: {_remedy(row)}"})
    return pd.DataFrame(rows, columns=_COLUMNS, dtype=object)


def _row(**known: Any) -> dict[str, Any]:
    return dict.fromkeys(_COLUMNS, "") | known


def _remove_unfinished(root: Address) -> Iterator[str]:
    """Remove what killed processes left in a folder and beside it; name it."""
    if not isinstance(root, Path):
        return
    # Who makes a store holds its lock.
    with locked(root):
        for path in root.parent.iterdir():
            named = re.fullmatch(_UNFINISHED, path.name)
            if named and named[1] == root.name and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
                yield path.name
    for path in list(root.rglob("*.partial")):
        if re.fullmatch(_PARTIAL, path.name) and time() - path.stat().st_mtime > _AGE:
            path.unlink(missing_ok=True)
            yield name_within(root, path)


def _mended(root: Address, row: dict[str, Any]) -> str:
    """Unmark what was in a damaged chunk; say what was done, or nothing if nothing can be."""
    folder, is_chunk, key = str(row["file"]).rpartition("/c/")
    if not is_chunk or not re.fullmatch(r"\d+(/\d+)*", key):
        return ""
    chunk = tuple(map(int, key.split("/")))
    if row["part"] == "activations":
        unmark(root, chunk)
        return "marked as not recorded"
    if not folder.startswith("results/"):
        return ""
    of_result, _, name = folder.rpartition("/")
    return _unmark_result(root / of_result, name, chunk)


def _unmark_result(folder: Address, name: str, chunk: tuple[int, ...]) -> str:
    """Remove a damaged chunk of a result, whose layers count as not computed from then on."""
    row = ".".join(map(str, chunk[:4]))
    group = open_zarr(folder, "r+")
    array = array_of(group, name)
    if dims_of(array)[: len(REPRESENTATION)] != REPRESENTATION:
        return ""
    with locked(folder / "computed_from" / row):
        # Another process may have saved it meanwhile.
        if problem_of(array, chunk):
            if name != "computed_from":
                size = array.chunks[4]
                model, seed, step, pooling, layers = chunk[:5]
                marked = slice(layers * size, (layers + 1) * size)
                array_of(group, "computed_from")[model, seed, step, pooling, marked] = ""
            file_of(array, chunk).unlink(missing_ok=True)
    return "marked as not computed"


def _remedy(row: dict[str, Any]) -> str:
    """Say what mends damage that cannot be marked."""
    if row["part"] == "stimuli":
        return "record again, with the same stimuli"
    if "counts as not recorded" in row["problem"]:
        return "record again"
    if row["part"] == "labels and marks":
        return "a copy of the file; without marks their checkpoints count as not recorded"
    return "a copy of the file, or save it again with refresh"
