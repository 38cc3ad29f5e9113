"""Files and folders that appear whole or not at all."""

import csv
import gzip
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import pandas as pd

from mlem_xr.schema import InputError, check_location, shown

TABLES = (".csv", ".csv.gz", ".parquet")
"""Endings of the tables that can be written and read."""

Quoting = Literal[0, 1, 2, 3]
"""What of a CSV is quoted, as the module csv numbers it."""

NO_PYARROW = 'a .parquet file needs pyarrow: pip install "mlem_xr[parquet]"'


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; when the block ends, what is there becomes `path`.

    Parameters
    ----------
    path : Path
        Where a file or a folder is to be; parents are made, a file that is there is replaced. A
        link stays: what it leads to is written.

    Yields
    ------
    Path
        A name that nothing else has, with the same ending.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with whole(Path(folder) / "table.csv") as unfinished:
    ...         _ = unfinished.write_text("a,b")
    ...     [file.name for file in Path(folder).iterdir()]
    ['table.csv']
    """
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{uuid4().hex}.{path.name}")
    try:
        yield unfinished
        unfinished.replace(target)
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)


def ending_of(path: Path, endings: Iterable[str]) -> str | None:
    """Return which one of these endings a path has, in small letters or capitals; None: another."""
    name = path.name.lower()
    return next((ending for ending in endings if name.endswith(ending)), None)


def check_path(path: str | PathLike[str], endings: Sequence[str]) -> Path:
    """Return a path that a file with one of these endings can be written to; refuse others."""
    path = check_location("path", path, "the path of a file to write")
    if ending_of(path, endings) is None:
        expected = f"{', '.join(endings[:-1])} or {endings[-1]}"
        raise InputError(f"path: {shown(str(path))[1:-1]}; expected {expected}")
    folder = next(parent for parent in path.resolve().parents if parent.exists())
    if path.is_dir() or not folder.is_dir():
        found = f"{path} is a folder" if path.is_dir() else f"{folder} is no folder"
        raise InputError(f"path: {found}; expected a file in a folder")
    return path


def write_table(table: pd.DataFrame, path: str | PathLike[str]) -> None:
    """Write a table as CSV or Parquet, whole or not at all.

    Parameters
    ----------
    table : pd.DataFrame
        Any table.
    path : str or path
        `.csv`, `.csv.gz` or `.parquet`; parents are made, an existing file is replaced. Missing
        values become empty cells (CSV) or nulls (Parquet).

    Raises
    ------
    InputError
        If the ending is another one, or the file cannot be written.

    Examples
    --------
    >>> write_table(pd.DataFrame(), "table.doc")
    Traceback (most recent call last):
        ...
    mlem_xr.schema.InputError: path: table.doc; expected .csv, .csv.gz or .parquet
    """
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"table: expected a pandas DataFrame, found {shown(table)}")
    write_quoted(table, check_path(path, TABLES), csv.QUOTE_MINIMAL)


def write_quoted(table: pd.DataFrame, path: Path, quoting: Quoting) -> None:
    """Write a table to a path that was checked, with the `quoting` of the module csv."""
    ending = ending_of(path, TABLES)
    try:
        with whole(path) as unfinished:
            if ending == ".parquet":
                table.to_parquet(unfinished, index=False)
            else:
                with _opened(unfinished, packed=ending == ".csv.gz") as file:
                    table.to_csv(file, mode="wb", index=False, quoting=quoting)
    except ImportError as error:
        raise InputError(f"path: {NO_PYARROW}") from error
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"path: cannot write {path} ({error})") from error


@contextmanager
def _opened(path: Path, *, packed: bool) -> Iterator[Any]:
    with path.open("wb") as file:
        if not packed:
            yield file
            return
        # Without the time and the name of the file, equal tables make equal files.
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as inner:
            yield inner
