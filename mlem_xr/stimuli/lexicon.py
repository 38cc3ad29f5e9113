"""Lexicons: tables of word forms and their features, as rules of a grammar."""

import csv
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from mlem_xr.schema import InputError, check_integer, choose
from mlem_xr.stimuli.rules import Category, Rule, Value

WORD_FEATURES = ("CLASS", "WORD", "LEMMA", "ZIPF")
"""Features that every word of a lexicon has."""


def read_lexicon(path: Path) -> list[Rule]:
    """Read a lexicon: a CSV file with a word form per line, each of which becomes a rule.

    CLASS is the symbol, WORD what it expands to. Every column is a feature, unset where empty; only
    LEMMA is then the word itself. Lines that begin with # are comments.
    """
    lines = _lines(path)
    _, header = next(lines, (0, []))
    missing = {"CLASS", "WORD"} - set(header)
    if missing:
        raise InputError(
            f"{path}: no column {sorted(missing)[0]!r}; found: {', '.join(header) or 'none'}"
        )
    return [_word(header, cells, f"{path}, line {number}") for number, cells in lines]


def select_words(words: list[Rule], n: int | Mapping[str, int] | None) -> list[Rule]:
    """Keep the first `n` words of each kind, so that the design stays balanced.

    Words of a kind agree in class and in every feature other than WORD, LEMMA and ZIPF. A mapping
    gives `n` class by class and keeps the other classes whole; None keeps all words.
    """
    classes = dict.fromkeys(word.category.symbol for word in words)
    if n is not None and not isinstance(n, Mapping):
        n = dict.fromkeys(classes, check_integer("words_per_class", n, at_least=1))
    limits = dict(n or {})
    for symbol in limits:
        choose("words_per_class", symbol, classes)
        check_integer("words_per_class", limits[symbol], at_least=1)
    seen: Counter[tuple[object, ...]] = Counter()
    kept = []
    for word in words:
        features = word.category.features
        kind = tuple((k, v) for k, v in features.items() if k not in ("WORD", "LEMMA", "ZIPF"))
        seen[kind] += 1
        limit = limits.get(word.category.symbol)
        if limit is None or seen[kind] <= limit:
            kept.append(word)
    return kept


def add_frequencies(words: list[Rule], language: str) -> list[Rule]:
    """Give every word without ZIPF the frequency of its lemma in a language of wordfreq."""
    return [
        word if "ZIPF" in word.category.features else _with_frequency(word, language)
        for word in words
    ]


def zipf_frequency(lemma: str, language: str = "en") -> float:
    """Look up how frequent a word is: log10 of occurrences per 10^9 words, rounded down to halves.

    0 for words that wordfreq does not know.
    """
    import wordfreq

    return math.floor(2 * wordfreq.zipf_frequency(lemma, language)) / 2


def read_lines(argument: str, path: Path) -> list[str]:
    """Read the lines of a grammar or lexicon; a byte order mark does no harm."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{argument}: cannot read {path} ({error})") from error


def _with_frequency(word: Rule, language: str) -> Rule:
    try:
        zipf = zipf_frequency(str(word.lemma), language)
    except ImportError as error:
        raise InputError(
            f"{word.where}: {word.lemma!r} has no ZIPF, and wordfreq, which knows frequencies, is "
            'not installed; fill the column ZIPF, or pip install "mlem_xr[grammars]"'
        ) from error
    except LookupError as error:
        raise InputError(f"language: wordfreq does not know {language!r}") from error
    category = word.category
    return replace(word, category=replace(category, features={**category.features, "ZIPF": zipf}))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(read_lines("lexicon", path), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, [cell.strip() for cell in next(csv.reader([line]))]


def _word(header: list[str], cells: list[str], where: str) -> Rule:
    if len(cells) != len(header):
        raise InputError(f"{where}: {len(cells)} cells; expected {len(header)}, as in the header")
    row = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
    for name in ("CLASS", "WORD"):
        if name not in row:
            raise InputError(f"{where}: {' '.join(row.values())!r} has no {name}")
    row.setdefault("LEMMA", row["WORD"])
    texts = ("CLASS", "WORD", "LEMMA")
    features = {name: cell if name in texts else _value(cell) for name, cell in row.items()}
    return Rule(Category(row["CLASS"], features), (row["WORD"],), where, lemma=row["LEMMA"])


def _value(cell: str) -> Value:
    if cell in ("True", "False"):
        return cell == "True"
    if re.fullmatch(r"[+-]?\d+", cell):
        return int(cell)
    if re.fullmatch(r"[+-]?\d*\.\d+", cell):
        return float(cell)
    return cell
