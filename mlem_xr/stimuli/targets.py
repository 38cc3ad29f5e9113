"""Words that sentences are about: which characters of a sentence its target is."""

import re
from collections.abc import Sequence
from typing import Any
from unicodedata import category

import xarray as xr

from mlem_xr.schema import InputError, plain_value, shown

WORD = "target"

ENDS = ("target_start", "target_end")

COLUMNS = (WORD, *ENDS)
"""Columns that say which part of a sentence is its target: kept with the items."""


def check_targets(stimuli: xr.Dataset) -> None:
    """Check that the columns of targets, if there are some, name one part of each sentence."""
    if any(name in stimuli.coords for name in COLUMNS):
        target_spans(stimuli)


def target_spans(stimuli: xr.Dataset) -> list[tuple[int, int]]:
    """Return the first character of each sentence's target, and the one after its last.

    Raises `InputError` if there are no such columns, or a target is not in its sentence, or several
    times.
    """
    found = [name for name in ENDS if name in stimuli.coords]
    if len(found) == 1:
        missing = next(name for name in ENDS if name not in found)
        raise InputError(f"stimuli: column {found[0]!r} without {missing!r}; expected both")
    words = stimuli[WORD].values.tolist() if WORD in stimuli.coords else None
    if not found and words is None:
        raise InputError(
            "pooling: 'target' needs a column 'target', the word, or 'target_start' and "
            "'target_end', of which stimuli have none"
        )
    text = stimuli["text"].values.tolist()
    if not found:
        assert words is not None
        return [_only(row, *one) for row, one in enumerate(zip(text, words, strict=True), 1)]
    ends = zip(*(stimuli[name].values.tolist() for name in ENDS), strict=True)
    spans = [_checked(row, t, *one) for row, (t, one) in enumerate(zip(text, ends, strict=True), 1)]
    for row, (start, end) in enumerate(spans):
        if words is not None and text[row][start:end] != words[row]:
            raise InputError(
                f"stimuli: the target in row {row + 1} is {shown(words[row])}, but characters "
                f"{start} to {end} are {shown(text[row][start:end])}; expected the same"
            )
    return spans


def _only(row: int, sentence: str, word: Any) -> tuple[int, int]:
    """Find a word, or several, in a sentence; not in the middle of another word."""
    named = f"stimuli: the target in row {row} is {shown(word)}"
    if not isinstance(word, str) or not word.strip():
        raise InputError(
            f"{named}; expected a word of the sentence (the column 'target' is no feature)"
        )
    starts = (one.start() for one in re.finditer(f"(?={re.escape(word)})", sentence))
    spans = [(start, start + len(word)) for start in starts]
    found = [one for one in spans if not any(_is_inside(sentence, end) for end in one)]
    if len(found) != 1:
        raise InputError(
            f"{named}, which is {len(found)} times in {shown(sentence)}; expected once, or its "
            "characters in 'target_start' and 'target_end' (the column 'target' is no feature)"
        )
    return found[0]


def _is_inside(sentence: str, i: int) -> bool:
    """Whether the characters before a place and after it are both of words."""
    both = sentence[i - 1 : i + 1] if i else ""
    return len(both) == 2 and all(re.match(r"\w", c) or category(c)[0] == "M" for c in both)


def _checked(row: int, sentence: str, start: Any, end: Any) -> tuple[int, int]:
    numbers: Sequence[Any] = [plain_value(one) for one in (start, end)]
    whole = all(isinstance(one, int | float) and one == one // 1 for one in numbers)
    if not whole or not 0 <= numbers[0] < numbers[1] <= len(sentence):
        raise InputError(
            f"stimuli: 'target_start' and 'target_end' in row {row} are {shown(start)} and "
            f"{shown(end)}; expected 0 <= start < end <= {len(sentence)}, the sentence's length"
        )
    return int(numbers[0]), int(numbers[1])
