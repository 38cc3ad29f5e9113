"""Stimulus tables in files."""

import csv
import gzip
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from io import StringIO
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

import pandas as pd
import xarray as xr

from mlem_xr.running.writing import (
    NO_PYARROW,
    TABLES,
    Quoting,
    check_path,
    ending_of,
    write_quoted,
)
from mlem_xr.schema import (
    NUMERIC,
    InputError,
    check_dataset,
    check_features,
    check_items,
    check_location,
    check_text,
    columns_of,
    columns_of_feature,
    kind_of,
    listed,
    several,
    shown,
    warn,
)
from mlem_xr.stimuli.generate import generate_stimuli, is_grammar, list_stimuli
from mlem_xr.stimuli.table import (
    MAX_COLUMNS,
    check_beside_nulls,
    check_exact,
    checked,
    declared_items,
    frame_of,
    from_dataframe,
    has_large,
    to_dataframe,
    warn_of_oddities,
)

_QUOTINGS: tuple[Quoting, ...] = (csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC)
"""Of text that holds commas and quotes alone, and of all text."""


def read_stimuli(
    source: str | PathLike[str] | pd.DataFrame | xr.Dataset,
    *,
    items: str | Iterable[str] | None = None,
    numeric: str | Iterable[str] | None = None,
    vector: Mapping[str, str | Iterable[str]] | None = None,
) -> xr.Dataset:
    """Read sentences and their features.

    Parameters
    ----------
    source : str, path, pd.DataFrame, another table or xr.Dataset
        Name of a bundled set (see `list_stimuli`), path of a grammar (.fcfg) or of a table (.csv,
        .csv.gz, .parquet), a DataFrame or what has `to_pandas` (a DataFrame of polars, a Table of
        Arrow, a Dataset of Hugging Face), or a Dataset of stimuli, which is checked. A table has a
        column `sentence`; every other column is a feature, in order. In CSV only an empty cell is
        undefined: "NA" is a word.
    items : str or iterable of str, optional
        Columns that say what a sentence is made of, such as its noun or its verb: they are kept and
        are no features. Bundled sets have some already, and grammars and Datasets may; these are
        added to them. So are columns that say which word a sentence is about, for
        ``record(pooling="target")``: `target`, the word, which is in the sentence just once, or
        `target_start` and `target_end`, its first character, counted from 0, and the one after
        its last.
    numeric : str or iterable of str, optional
        Features whose numbers are measurements, such as lengths or frequencies: two sentences are
        ``|z_i - z_j| / (max z - min z)`` apart. Other features are categorical, whatever their
        values are: two sentences differ in them or not.
    vector : mapping of str to str or iterable of str, optional
        Features that are points, such as coordinates or embeddings: the name of each, and its
        columns, listed or as a pattern (`{"embedding": "emb_*"}`); the name of a column stands for
        that column alone. Two sentences are as far apart as their points (Euclidean), divided by
        the largest distance.

    Returns
    -------
    xr.Dataset
        Dimension `sentence`; coordinates `sentence` (int64), `text` (object) and one per feature
        and column of items (bool, int64, float64, or object where there are strings or undefined
        booleans; undefined values are missing: None or NaN, found by `isnull`); attributes
        `stimuli` (name), `features` (names in order), `stimuli_hash` and, where there are some,
        `items` (names in the order of the table). A feature of a grammar that belongs to items
        names their column in its own attribute `item`; a numeric one has the attribute `kind`
        ("numeric"), and each column of a vector the name of the feature as attribute `vector`.

    Raises
    ------
    InputError
        If there is no such set, file or column, it cannot be read, or the table cannot be used: it
        has more than 1,000 columns, or values other than booleans, finite numbers and text.

    Warns
    -----
    UserWarning
        If sentences are repeated; if a feature seems to be numeric and was not declared.

    Examples
    --------
    >>> stimuli = read_stimuli("short_sentence")
    >>> stimuli.sizes["sentence"], stimuli.attrs["features"][-2:]
    (522, ['sentence_TENSE', 'verb_ZIPF'])
    >>> stimuli.attrs["items"], stimuli["verb_ZIPF"].attrs["item"]
    (['subj_LEMMA', 'verb_LEMMA'], 'verb_LEMMA')
    """
    names = {"items": _names("items", items), "numeric": _names("numeric", numeric)}
    source = frame_of("stimuli", source)
    if isinstance(source, pd.DataFrame):
        columns = [str(column) for column in source.columns]
        return from_dataframe(source, name="stimuli", **names, vector=_vectors(vector, columns))
    if isinstance(source, xr.Dataset):
        stimuli = _with_roles(check_stimuli(source), names, vector)
        warn_of_oddities(stimuli)
        return stimuli
    path = check_location("stimuli", source, "a name, a path, a DataFrame or a Dataset")
    if str(source) in list_stimuli() or is_grammar(path):
        return _with_roles(generate_stimuli(source), names, vector)
    table, ending = _read_table(path), ending_of(path, TABLES) or ""
    name = path.name[: len(path.name) - len(ending)]
    return from_dataframe(table, name=name, **names, vector=_vectors(vector, table.columns))


def _names(argument: str, given: Any) -> list[str]:
    if given is None:
        return []
    return several(argument, given, check_text, ordered=False, empty=True)


def _vectors(given: Any, columns: Collection[str]) -> dict[str, list[str]]:
    """Return the columns of each vector, in the order of the table."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        expected = 'a mapping of features to columns, such as {"embedding": "emb_*"}'
        raise InputError(f"vector: found {shown(given)}; expected {expected}")
    found = {}
    for feature, parts in given.items():
        patterns = several(f"vector: columns of {shown(feature)}", parts, check_text)
        name = check_text("vector", feature, "the name of a feature")
        chosen = {column for pattern in patterns for column in _chosen(pattern, columns)}
        found[name] = [column for column in columns if column in chosen]
    return found


def _chosen(pattern: str, columns: Collection[str]) -> list[str]:
    """Return the column of a name; if there is none, those whose names fit it as a pattern."""
    # A name such as e[1] is a pattern, too, and one that e1 fits.
    fit = [c for c in columns if c == pattern] or [c for c in columns if fnmatchcase(c, pattern)]
    if not fit:
        raise InputError(f"vector: no column {pattern!r}; found: {listed(columns)}")
    return fit


def _with_roles(stimuli: xr.Dataset, names: Mapping[str, list[str]], vector: Any) -> xr.Dataset:
    """Give columns of stimuli other roles than they have."""
    vectors = _vectors(vector, columns_of(stimuli))
    if not any(names.values()) and not vectors:
        return stimuli
    return check_stimuli(stimuli, **names, vector=vectors)


def write_stimuli(stimuli: xr.Dataset, path: str | PathLike[str]) -> None:
    """Write sentences, their features and their items to a table that `read_stimuli` reads.

    A table does not say which of its columns are items, numeric features or vectors:
    `read_stimuli` takes them for categorical features unless its arguments name them. Nor does it
    say which items a feature belongs to.

    Parameters
    ----------
    stimuli : xr.Dataset
        As `read_stimuli` returns it.
    path : str or path
        Where to write; its ending decides the kind: .csv, .csv.gz or .parquet. Undefined values
        become empty cells (CSV) or nulls (Parquet). A file that is there is replaced.

    Raises
    ------
    InputError
        If the ending is unknown, a CSV file would not give the same stimuli again, or the file
        cannot be written; nothing is left half-written.

    Examples
    --------
    >>> import tempfile
    >>> stimuli = read_stimuli("short_sentence")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_stimuli(stimuli, f"{folder}/sentences.csv")
    ...     again = read_stimuli(f"{folder}/sentences.csv", items=stimuli.attrs["items"])
    >>> again.attrs["stimuli_hash"] == stimuli.attrs["stimuli_hash"]
    True
    """
    path = check_path(path, TABLES)
    stimuli = check_stimuli(stimuli)
    table = to_dataframe(stimuli)
    is_csv = ending_of(path, TABLES) != ".parquet"
    write_quoted(table, path, _quoting(table, stimuli) if is_csv else csv.QUOTE_MINIMAL)


def _quoting(table: pd.DataFrame, stimuli: xr.Dataset) -> Quoting:
    """Return the quoting with which a CSV file gives the same stimuli when it is read again.

    A CSV file knows neither types nor the difference between an empty string and nothing.
    """
    changed: list[str] = []
    for quoting in _QUOTINGS:
        again = _read_again(table, quoting, stimuli)
        if again is None:
            continue
        if again.attrs["stimuli_hash"] == stimuli.attrs["stimuli_hash"]:
            return quoting
        names = [name for name in ("text", *columns_of(stimuli)) if name in again]
        changed = [n for n in names if not again[n].variable.equals(stimuli[n].variable)]
    raise InputError(
        f"path: a CSV file would not keep {', '.join(map(repr, changed)) or 'the table'} as it is "
        "(text that looks like a number, an empty string, mixed types); expected .parquet"
    )


def _read_again(table: pd.DataFrame, quoting: Quoting, stimuli: xr.Dataset) -> xr.Dataset | None:
    """Return the stimuli that a CSV file of a table gives; None if it cannot be read."""
    text = table.to_csv(index=False, quoting=quoting)
    with warnings.catch_warnings(), suppress(ValueError):
        warnings.simplefilter("ignore")
        read = _read_csv(lambda: StringIO(text, newline=""))
        roles = {"items": check_items(stimuli), **_kinds(stimuli, check_features(stimuli))}
        return from_dataframe(read, name="", **roles)
    return None


def check_stimuli(
    stimuli: xr.Dataset,
    *,
    items: Iterable[str] = (),
    numeric: Iterable[str] = (),
    vector: Mapping[str, Iterable[str]] = MappingProxyType({}),
) -> xr.Dataset:
    """Check a Dataset as if it were a table just read, without warning of the same again.

    Columns have the roles that they have, and those that are named here.
    """
    check_dataset("stimuli", stimuli)
    name = check_text("stimuli", stimuli.attrs.get("stimuli", "stimuli"))
    if "text" not in stimuli.coords or stimuli["text"].dims != ("sentence",):
        raise InputError("stimuli: no coordinate 'text' over 'sentence'")
    features = check_features(stimuli)
    return checked(
        to_dataframe(stimuli),
        name=name,
        items=[*check_items(stimuli), *items],
        belongs=declared_items(stimuli, features),
        **_kinds(stimuli, features, numeric, vector),
    )


def _kinds(
    stimuli: xr.Dataset,
    features: Iterable[str],
    numeric: Iterable[str] = (),
    vector: Mapping[str, Iterable[str]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return which columns are numeric or vectors, beside those that are named."""
    chosen = {column for columns in vector.values() for column in columns}
    kinds = {feature: kind_of(stimuli, feature) for feature in features}
    numbers = [f for f, kind in kinds.items() if kind == NUMERIC and f not in chosen]
    vectors = {f: columns_of_feature(stimuli, f) for f, kind in kinds.items() if kind == "vector"}
    return {"numeric": [*numbers, *numeric], "vector": vectors | dict(vector)}


def _read_table(path: Path) -> pd.DataFrame:
    ending = ending_of(path, TABLES)
    bundled = f"bundled sets: {', '.join(list_stimuli())}"
    if ending is None:
        raise InputError(
            f"stimuli: {str(path)!r} is neither a bundled set nor a path that ends in "
            f"{', '.join(TABLES)}; {bundled}"
        )
    if not path.is_file():
        raise InputError(f"stimuli: no file {str(path)!r}; {bundled}")
    try:
        if ending == ".parquet":
            return _read_parquet(path)
        return _read_csv(lambda: _opened(path, packed=ending == ".csv.gz"))
    except ImportError as error:
        raise InputError(f"stimuli: {NO_PYARROW}") from error
    except InputError:
        raise
    # The libraries behind these raise exceptions of their own, mostly subclasses of ValueError.
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        raise InputError(
            f"stimuli: cannot read {str(path)!r} as {ending} ({error}); {bundled}"
        ) from error


def _read_parquet(path: Path) -> pd.DataFrame:
    import pyarrow.parquet as pq

    table = pd.read_parquet(path)
    exact = {"integer_object_nulls": True}
    check_beside_nulls("stimuli", table, lambda: pq.read_table(path).to_pandas(**exact))
    return table


def _read_csv(source: Callable[[], TextIO]) -> pd.DataFrame:
    """Read a CSV from what `source` opens each time; types are decided over whole columns."""
    header = _header(source)
    options: dict[str, Any] = {"keep_default_na": False, "na_values": [""], "low_memory": False}
    with source() as lines:
        table = pd.read_csv(lines, dtype={"sentence": str}, **options)
    # pandas takes surplus cells for an index, which would shift every column.
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError("more cells than columns; put sentences that hold commas in quotes")
    if len(header) == 1 and ";" in header[0]:
        raise ValueError("one column, with semicolons; expected commas between the cells")
    # pandas fills rows that are too short, at their end.
    if table.iloc[:, -1].isna().any():
        _check_lengths(source, header)
    for name in table.columns.drop("sentence", errors="ignore"):
        # pandas keeps empty cells among whole numbers of 2**63 or more, which it takes for text.
        table[name] = _without_na(table[name].mask(table[name] == ""))
    _check_whole(source, table)
    return _without_row_numbers(table, header)


def _check_whole(source: Callable[[], TextIO], table: pd.DataFrame) -> None:
    """Refuse whole numbers that became others, as their column became float64."""
    large = [i for i in range(table.shape[1]) if has_large(table.iloc[:, i])]
    whole: dict[int, list[int]] = {i: [] for i in large}
    for _, cells in _rows(source) if large else []:
        for i in large:
            if re.fullmatch(r"\s*[+-]?[0-9]+\s*", cells[i]):
                whole[i].append(int(cells[i]))
    for i, numbers in whole.items():
        where = f"stimuli: column {shown(table.columns[i])}"
        check_exact(pd.Series(numbers, dtype=object), where)


def _check_lengths(source: Callable[[], TextIO], header: list[str]) -> None:
    """Refuse rows with fewer cells than the header, as in a file that is cut."""
    for line, cells in _rows(source):
        if len(cells) < len(header):
            expected = f"expected {len(header)}, as in the header"
            raise ValueError(f"line {line}: {len(cells)} cells; {expected}")


def _rows(source: Callable[[], TextIO]) -> Iterator[tuple[int, list[str]]]:
    """Give the cells of every row below the header, and the line where it begins."""
    with source() as lines:
        rows = csv.reader(lines)
        next(rows)
        end = rows.line_num
        for cells in rows:
            line, end = end + 1, rows.line_num
            # A blank line is no row.
            if cells and not (len(cells) == 1 and cells[0].isspace()):
                yield line, cells


def _without_na(column: pd.Series) -> pd.Series:
    """Turn a column of numbers and of R's `NA` into numbers."""
    if not (column == "NA").any():
        return column
    numbers = pd.to_numeric(column.where(column != "NA"), errors="coerce")
    if numbers.isna().sum() > (column.isna() | (column == "NA")).sum() or numbers.isna().all():
        return column
    warn(f"stimuli: 'NA' in the numbers of column {column.name!r} is undefined")
    return numbers


def _header(source: Callable[[], TextIO]) -> list[str]:
    """Read the names of the columns, of which pandas would make up some and rename others."""
    with source() as lines:
        header = next(csv.reader(lines), [])
    twice = [name for name, count in Counter(header).items() if count > 1]
    if not header:
        raise ValueError("no header")
    if len(header) > MAX_COLUMNS + 1:
        raise ValueError(f"{len(header) - 1} columns; expected at most {MAX_COLUMNS}")
    if twice:
        raise ValueError(f"column {twice[0]!r} is named twice")
    if "" in header[1:]:
        raise ValueError(f"column {header.index('', 1) + 1} has no name")
    return header


def _opened(path: Path, *, packed: bool) -> TextIO:
    open_file: Any = gzip.open if packed else open
    return open_file(path, "rt", encoding="utf-8-sig", newline="")


def _without_row_numbers(table: pd.DataFrame, header: list[str]) -> pd.DataFrame:
    """Leave out a first column without a name that numbers the rows, as many programs write it."""
    if header[0] != "":
        return table
    first = table.iloc[:, 0].tolist()
    if first not in (list(range(len(table))), list(range(1, len(table) + 1))):
        raise ValueError("the first column has no name")
    warn("stimuli: the first column, without a name, numbers the rows and is left out")
    return table.iloc[:, 1:]
