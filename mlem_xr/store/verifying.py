"""Read everything of a store, and name what is not as it was written."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from numpy.typing import NDArray

from mlem_xr.analyses import ANALYSES
from mlem_xr.running.executor import map_tasks
from mlem_xr.running.progress import progress_bar, say
from mlem_xr.schema import REPRESENTATION, InputError, check_bool
from mlem_xr.store.activations import (
    least_labels,
    missing_marks,
    names_of_marks,
    open_recorded,
    open_stored,
)
from mlem_xr.store.address import Address, address_of
from mlem_xr.store.chunks import Chunks
from mlem_xr.store.features import decode_features, names_of_stimuli
from mlem_xr.store.grid import (
    array_of,
    arrays_of,
    check_labels,
    dims_of,
    file_of,
    problem_of,
    read_grid,
    read_labels,
)
from mlem_xr.store.identity import about, all_folders, open_folder
from mlem_xr.store.results import open_chunks, usual_settings
from mlem_xr.store.settings import in_words

_COLUMNS = ("part", "settings", *REPRESENTATION, "file", "problem")

_TOGETHER = 16
"""Chunks of one task: a task costs a millisecond, a chunk a few."""

_NOTHING_READ = "the activations and results were not read"

Row = dict[str, Any]


class _Part(NamedTuple):
    """An array whose chunks are to be read."""

    chunks: Chunks
    about: Row
    """Which part of the store it is."""


class _Piece(NamedTuple):
    """A chunk to be read."""

    part: int
    chunk: tuple[int, ...]
    holds: NDArray
    """The representations that are in it."""


def verify_store(store: str | Path, *, progress: bool = True) -> pd.DataFrame:
    """Read everything of a store, and name each chunk that is missing or damaged.

    Every chunk has a checksum, so one that was cut short or in which a bit has changed is found, as
    is one that is not there. Nothing is changed. The chunks are read in parallel, by threads or by
    the workers of the current Dask client.

    Parameters
    ----------
    store : str or Path
        A store; nothing needs to be recorded in it.
    progress : bool
        Whether to show a progress bar, and a line if everything is as it was written.

    Returns
    -------
    pd.DataFrame
        One row per damaged chunk, none if everything is as it was written: `part` ("stimuli",
        "labels and marks", "activations", or the analysis of a saved result), `settings` of the
        result in words, `model`, `seed`, `step`, `pooling` and `layer` of what is in the chunk
        (several layers that share a chunk are named as in "1, 2"), `file` within the store, and
        `problem`. What does not apply is an empty string.

    Raises
    ------
    InputError
        If there is no store, or it cannot be opened at all.

    Notes
    -----
    Without labels and marks nothing says which chunks there must be: while some of a store's are
    damaged, its activations and results are not read, nor those of a result without its own; the
    problem says so. A result whose marks are missing counts as not computed, which is no damage.
    Results of activations that were recorded again since are never read, here neither. A store of
    an older layout has no checksums: only what cannot be unpacked is found there, as a missing
    chunk may have been an empty one.

    Examples
    --------
    >>> import tempfile, mlem_xr as mx
    >>> path = mx.create_store(mx.read_stimuli("short_sentence"), tempfile.mkdtemp() + "/s.zarr")
    >>> len(verify_store(path, progress=False))
    0
    """
    progress = check_bool("progress", progress)
    group = open_stored(store)
    marks = _damage_of_marks(group)
    rows = _damage_of_stimuli(group, with_labels=not marks)
    parts: list[_Part] = []
    if names_of_marks(group) and not marks:
        parts, marks = _parts(group, with_stimuli=not rows)
    rows += marks + _read_all(parts, address_of(group), progress)
    if not rows:
        say("everything is as it was written", shown=progress)
    return pd.DataFrame(rows, columns=_COLUMNS, dtype=object)


def _row(**known: Any) -> Row:
    return dict.fromkeys(_COLUMNS, "") | known


def _damage_of_stimuli(group: zarr.Group, *, with_labels: bool) -> list[Row]:
    """Name the damaged chunks of sentences, features and items, or say that they have changed."""
    names = names_of_stimuli(group)
    rows = _damaged(group, names, {"part": "stimuli"}, address_of(group))
    if rows or not with_labels:
        return rows
    try:
        decode_features(read_grid(group, names=names), group.store_path)
    except InputError as error:
        return [_row(part="stimuli", problem=_said(error))]
    return []


def _damage_of_marks(group: zarr.Group) -> list[Row]:
    """Name the damaged chunks of labels and marks, and the labels that were lost."""
    part = {"part": "labels and marks"}
    names = names_of_marks(group)
    rows = _damaged(
        group, ["sentence", *names], part, address_of(group), may_lack=["sentence", *names]
    )
    if not rows:
        # A store has a sentence at least.
        for dim, least in ({"sentence": 1} | (least_labels(group) if names else {})).items():
            try:
                check_labels(group, {dim: len(read_labels(group, dim))}, {dim: least})
            except InputError as error:
                rows.append(_row(**part, file=dim, problem=_said(error)))
    return _unread(rows, _NOTHING_READ)


def _unread(rows: list[Row], what: str) -> list[Row]:
    return [row | {"problem": f"{row['problem']}; {what}"} for row in rows]


def _damaged(
    group: zarr.Group,
    names: Sequence[str],
    part: Row,
    root: Address,
    may_lack: Sequence[str] = (),
) -> list[Row]:
    """Name the damaged chunks of small arrays, of which those in `may_lack` need not have all."""
    rows = []
    for name in names:
        try:
            array = array_of(group, name)
        except InputError as error:
            where = address_of(group) / name / "zarr.json"
            rows.append(_row(**part, file=name_within(root, where), problem=_said(error)))
            continue
        for chunk in np.ndindex(array.cdata_shape):
            file = file_of(array, chunk)
            problem = "" if name in may_lack and not file.exists() else problem_of(array, chunk)
            if problem:
                rows.append(_row(**part, file=name_within(root, file), problem=problem))
    return rows


def _parts(group: zarr.Group, *, with_stimuli: bool) -> tuple[list[_Part], list[Row]]:
    """Open activations and results, and name what of them cannot be opened."""
    root = address_of(group)
    try:
        data, chunks, torn = open_recorded(group, names_of_stimuli(group) if with_stimuli else ())
    except InputError as error:
        row = _row(part="activations", file="activation", problem=_said(error))
        return [], _unread([row], _NOTHING_READ)
    usual: Row = {}
    if with_stimuli:
        data = decode_features(data, root)
        usual = usual_settings(data)
    parts = [_Part(chunks, {"part": "activations"})]
    rows = [
        _row(
            **{"part": "labels and marks", **checkpoint},
            file=", ".join(name_within(root, f) for f in missing_marks(group, data, checkpoint)),
            problem="marks were lost: the checkpoint counts as not recorded",
        )
        for checkpoint in torn
    ]
    for folder in all_folders(root):
        found, damaged = _parts_of_result(folder, root, data, usual)
        parts += found
        rows += damaged
    return parts, rows


def _parts_of_result(
    folder: Address, root: Address, data: xr.Dataset, usual: Mapping[str, Any]
) -> tuple[list[_Part], list[Row]]:
    part: Row = {"part": folder.parent.name}
    try:
        group = open_folder(folder)
        if "variables" not in group.attrs:
            # What a killed process left, or another program's.
            return [], []
        part["settings"] = _settings(group, usual)
        rows = _damage_of_result(group, part, root)
        chunks = {} if rows else open_chunks(group, data)[1]
    except InputError as error:
        chunks, rows = {}, [_row(**part, file=name_within(root, folder), problem=_said(error))]
    return [_Part(one, part) for one in chunks.values()], _unread(rows, "the result was not read")


def _damage_of_result(group: zarr.Group, part: Row, root: Address) -> list[Row]:
    """Name the damaged chunks of what a result has beside its variables."""
    arrays = arrays_of(group)
    names = [name for name in arrays if name not in about(group)["variables"]]
    # Labels that are missing are missed by the marks, or by the arrays that they are of.
    labels = [name for name in names if dims_of(arrays[name]) == (name,)]
    return _damaged(group, names, part, root, may_lack=[*labels, "computed_from"])


def _settings(group: zarr.Group, usual: Mapping[str, Any]) -> str:
    record = ANALYSES.get(about(group)["analysis"])
    settings = about(group)["settings"]
    return str(settings) if record is None else in_words(record, settings, usual)


def _read_all(parts: Sequence[_Part], root: Address, progress: bool) -> list[Row]:
    """Read the chunks of all parts, in parallel, and name the damaged ones in their order."""
    pieces = [
        _Piece(i, chunk, holds)
        for i, part in enumerate(parts)
        for chunk, holds in part.chunks.expected().items()
    ]
    tasks = [pieces[i : i + _TOGETHER] for i in range(0, len(pieces), _TOGETHER)]
    found: dict[int, list[str]] = {}
    with progress_bar("verify", len(pieces), unit="chunks", shown=progress) as bar:

        def done(i: int, problems: list[str]) -> None:
            found[i] = problems
            bar.update(len(problems))

        def name(i: int) -> str:
            return _file(parts, tasks[i][0], root)

        map_tasks(_problems, [part.chunks for part in parts], tasks, name=name, done=done)
    problems = [problem for i in range(len(tasks)) for problem in found[i]]
    return [
        _row(**parts[piece.part].about, **_labels(parts, piece), problem=problem)
        | {"file": _file(parts, piece, root)}
        for piece, problem in zip(pieces, problems, strict=True)
        if problem
    ]


def _problems(chunks: Sequence[Chunks], task: Sequence[_Piece]) -> list[str]:
    return [chunks[piece.part].problem(piece.chunk, piece.holds) for piece in task]


def _labels(parts: Sequence[_Part], piece: _Piece) -> Row:
    """Name the representations that are in a chunk."""
    return dict(_labels_along(parts[piece.part].chunks.labels, piece.holds))


def _labels_along(labels: Mapping[str, Sequence[Any]], holds: NDArray) -> Iterator[tuple[str, Any]]:
    for dim, positions in zip(REPRESENTATION, holds.T, strict=True):
        here = [labels[dim][i] for i in np.unique(positions)]
        yield dim, here[0] if len(here) == 1 else ", ".join(map(str, here))


def _file(parts: Sequence[_Part], piece: _Piece, root: Address) -> str:
    return name_within(root, file_of(parts[piece.part].chunks.array, piece.chunk))


def name_within(root: Any, file: Address) -> str:
    """Name a file as from the root of its store."""
    return str(file.relative_to(root)) if file.is_relative_to(root) else str(file)


def _said(error: InputError) -> str:
    return str(error).removeprefix("store: ")
