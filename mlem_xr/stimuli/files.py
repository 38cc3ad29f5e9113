"""Stimulus tables in files."""

import zlib
from os import PathLike
from pathlib import Path

import pandas as pd
import xarray as xr

from mlem_xr.running.writing import NO_PYARROW, TABLES, write_table
from mlem_xr.schema import InputError, check_features
from mlem_xr.stimuli.generate import generate_stimuli, list_stimuli
from mlem_xr.stimuli.table import from_dataframe, to_dataframe


def read_stimuli(source: str | PathLike[str] | pd.DataFrame | xr.Dataset) -> xr.Dataset:
    """Read sentences and their features.

    Parameters
    ----------
    source : str, path, pd.DataFrame or xr.Dataset
        Name of a bundled set (see `list_stimuli`), path of a grammar (.fcfg) or of a table (.csv,
        .csv.gz, .parquet), a DataFrame, or a Dataset of stimuli, which is checked. A table has a
        column `sentence`; every other column is a feature, in order. In CSV only an empty cell is
        undefined: "NA" is a word.

    Returns
    -------
    xr.Dataset
        Dimension `sentence`; coordinates `sentence` (int64), `text` (object) and one per feature
        (bool, int64, float64, or object where there are strings or undefined booleans; undefined
        values are missing: None or NaN, found by `isnull`); attributes `stimuli` (name),
        `features` (names in order) and `stimuli_hash`.

    Raises
    ------
    InputError
        If there is no such set or file, it cannot be read, or the table cannot be used.

    Warns
    -----
    UserWarning
        If sentences are repeated.

    Examples
    --------
    >>> stimuli = read_stimuli("short_sentence")
    >>> stimuli.sizes["sentence"], stimuli.attrs["features"][-2:]
    (522, ['sentence_TENSE', 'verb_ZIPF'])
    """
    if isinstance(source, pd.DataFrame):
        return from_dataframe(source, name="stimuli")
    if isinstance(source, xr.Dataset):
        return _check_dataset(source)
    if not isinstance(source, str | PathLike):
        raise InputError(
            f"stimuli: found {type(source).__name__}; expected a name, path, DataFrame or Dataset"
        )
    if str(source) in list_stimuli() or Path(source).suffix == ".fcfg":
        return generate_stimuli(source)
    path = Path(source)
    table = _read_table(path)
    return from_dataframe(table, name=path.name.removesuffix(_suffix(path) or ""))


def write_stimuli(stimuli: xr.Dataset, path: str | PathLike[str]) -> None:
    """Write sentences and their features to a table that `read_stimuli` reads.

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
        If the ending is unknown, or the file cannot be written; nothing is left half-written.

    Examples
    --------
    >>> import tempfile
    >>> stimuli = read_stimuli("short_sentence")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_stimuli(stimuli, f"{folder}/sentences.csv")
    ...     read_stimuli(f"{folder}/sentences.csv").equals(stimuli)
    True
    """
    write_table(to_dataframe(_check_dataset(stimuli)), path)


def _check_dataset(stimuli: xr.Dataset) -> xr.Dataset:
    """Check a Dataset as if it were a table just read."""
    if not isinstance(stimuli, xr.Dataset):
        raise InputError(f"stimuli: expected an xarray Dataset, found {type(stimuli).__name__}")
    if "text" not in stimuli.coords or stimuli["text"].dims != ("sentence",):
        raise InputError("stimuli: no coordinate 'text' over 'sentence'")
    check_features(stimuli)
    return from_dataframe(to_dataframe(stimuli), name=stimuli.attrs.get("stimuli", "stimuli"))


def _suffix(path: Path) -> str | None:
    return next((suffix for suffix in TABLES if path.name.endswith(suffix)), None)


def _read_table(path: Path) -> pd.DataFrame:
    suffix = _suffix(path)
    bundled = f"bundled sets: {', '.join(list_stimuli())}"
    if suffix is None:
        raise InputError(
            f"stimuli: {str(path)!r} is neither a bundled set nor a path that ends in "
            f"{', '.join(TABLES)}; {bundled}"
        )
    if not path.is_file():
        raise InputError(f"stimuli: no file {str(path)!r}; {bundled}")
    try:
        return pd.read_parquet(path) if suffix == ".parquet" else _read_csv(path)
    except ImportError as error:
        raise InputError(f"stimuli: {NO_PYARROW}") from error
    # The libraries behind these raise exceptions of their own, mostly subclasses of ValueError.
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(
            f"stimuli: cannot read {str(path)!r} as {suffix} ({error}); {bundled}"
        ) from error


def _read_csv(path: Path) -> pd.DataFrame:
    # pandas would rename the second of two columns of one name.
    header = pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0]
    if header.duplicated().any():
        raise ValueError(f"column {header[header.duplicated()].iloc[0]!r} is named twice")
    table = pd.read_csv(path, dtype={"sentence": str}, keep_default_na=False, na_values=[""])
    # pandas takes surplus cells for an index, which would shift every column.
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError("more cells than columns; put sentences that hold commas in quotes")
    return table
