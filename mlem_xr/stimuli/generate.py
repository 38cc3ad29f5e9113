"""Stimuli from grammars."""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, cast

import pandas as pd
import xarray as xr

from mlem_xr.running.writing import ending_of
from mlem_xr.schema import InputError, check_integer, check_location, shown, warn
from mlem_xr.stimuli.grammar import (
    GRAMMARS,
    N_WORDS,
    WHOLE,
    Grammar,
    by_symbol,
    check_grammar,
    check_sample,
    read_grammar,
)
from mlem_xr.stimuli.items import items_of_features
from mlem_xr.stimuli.lexicon import add_frequencies, read_lexicon, select_words
from mlem_xr.stimuli.rules import Phrase, Rules, Value, Variable, draws, sentences
from mlem_xr.stimuli.table import from_dataframe

_TRIES = 1000
"""Draws that bring no new sentence, after which there seem to be no more."""

Row = tuple[Any, ...]
"""The text, then the value of each column; None where undefined."""


def list_stimuli() -> dict[str, str]:
    """Tell which stimulus sets are bundled.

    Returns
    -------
    dict of str to str
        Name to a description in one line.

    Examples
    --------
    >>> list(list_stimuli())
    ['large', 'long_range_agreement', 'relative_clause', 'short_sentence']
    """
    return {path.stem: _description(path) for path in sorted(GRAMMARS.glob("*.fcfg"))}


def generate_stimuli(
    source: str | PathLike[str],
    *,
    lexicon: str | PathLike[str] | None = None,
    words_per_class: int | Mapping[str, int] | None = None,
    n_sentences: int | None = None,
    random_state: int = 0,
) -> xr.Dataset:
    """Generate the sentences of a grammar, with the features that the grammar declares.

    Parameters
    ----------
    source : str or path
        Name of a bundled set, or path of a grammar file (`.fcfg`); the documentation's page on
        grammars describes its format.
    lexicon : str or path, optional
        A lexicon (CSV) to use instead of the one that the grammar names.
    words_per_class : int or mapping of str to int, optional
        Use at most so many words of each class and combination of features, or so many of the
        classes named; all words by default.
    n_sentences : int, optional
        Draw so many different sentences at random, 4 to 200,000, balanced: wherever the grammar has
        a choice, every rule and every word comes once before any comes again. By default what the
        grammar says (`%sample`), else every sentence.
    random_state : int
        Seed of the draw.

    Returns
    -------
    xr.Dataset
        Dimension `sentence`, in the order of rules and words, or drawn ones in the order of the
        rules of a sentence; coordinates `text` (object) and one
        per declared feature and column of items, as `read_stimuli` returns them. A feature that
        belongs to items, as the gender to the noun, names their column in its attribute `item`.

    Raises
    ------
    InputError
        If there is no such grammar, or grammar or lexicon is at fault or makes more than 200,000
        sentences; the message gives file and line.

    Warns
    -----
    UserWarning
        If there are fewer sentences than are to be drawn.

    Examples
    --------
    >>> stimuli = generate_stimuli("short_sentence")
    >>> stimuli.text.values[:2].tolist(), stimuli.sizes["sentence"]
    (['Mary plays.', 'Mary sings.'], 522)
    >>> generate_stimuli("short_sentence", words_per_class={"VI": 1}).sizes["sentence"]
    174
    >>> generate_stimuli("short_sentence", n_sentences=50, random_state=1).sizes["sentence"]
    50
    >>> stimuli["subj_GEN"].attrs["item"], stimuli["subj_LEMMA"].values[:2].tolist()
    ('subj_LEMMA', ['Mary', 'Mary'])
    """
    grammar = read_grammar(_find(source))
    if n_sentences is not None:
        grammar.sample = check_sample("n_sentences", n_sentences)
    seed = check_integer("random_state", random_state, below=2**32)
    path = grammar.lexicon
    if lexicon is not None:
        path = check_location("lexicon", lexicon, "the path of a CSV file")
    words = select_words([] if path is None else read_lexicon(path), words_per_class)
    if grammar.reads("ZIPF"):
        words = add_frequencies(words, grammar.language)
    rules = by_symbol(grammar, words)
    check_grammar(grammar, rules, path)
    try:
        rows = _all_rows(grammar, rules) if grammar.sample is None else _drawn(grammar, rules, seed)
    except RecursionError as error:
        raise InputError(
            f"{grammar.path}: its rules have too many constituents in one another; expected fewer"
        ) from error
    if not rows:
        raise InputError(f"{grammar.path}: the grammar and its filters accept no sentence")
    declared = grammar.columns | grammar.items
    table = pd.DataFrame(rows, columns=["sentence", *declared])
    for name, expression in declared.items():
        if table[name].isna().all():
            more = "" if grammar.sample is None else f"; draw more than {len(rows)} sentences"
            raise InputError(
                f"{expression.where}: column {name!r} is never set in any sentence{more}"
            )
    stimuli = from_dataframe(
        table,
        name=grammar.path.stem,
        items=grammar.items,
        belongs=grammar.belongs,
        numeric=grammar.numeric,
    )
    for name in grammar.belongs:
        try:
            items_of_features(stimuli, [name])
        except InputError as error:
            raise InputError(f"{grammar.columns[name].where}: {error}") from error
    return stimuli


def _find(source: str | PathLike[str]) -> Path:
    """Path of a bundled or an own grammar."""
    bundled = list_stimuli()
    known = f"a bundled set ({', '.join(bundled)})"
    path = check_location("stimuli", source, f"{known} or the path of a grammar")
    if str(path) in bundled:
        return GRAMMARS / f"{path}.fcfg"
    if is_grammar(path) and path.is_file():
        return path
    raise InputError(
        f"stimuli: {shown(source)} is neither {known} nor a grammar file that exists (.fcfg)"
    )


def is_grammar(path: Path) -> bool:
    """Say whether a file is a grammar, by its ending."""
    return ending_of(path, [".fcfg"]) is not None


def _description(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()


def _all_rows(grammar: Grammar, rules: Rules) -> list[Row]:
    phrases = sentences(rules, grammar.start, distinct=grammar.distinct)
    # Two derivations may give the same sentence the same features.
    return list(dict.fromkeys(_rows(grammar, phrases)))


def _drawn(grammar: Grammar, rules: Rules, seed: int) -> list[Row]:
    """Draw different sentences, as many from each rule of the start symbol as far as there are."""
    sources = draws(rules, grammar.start, distinct=grammar.distinct, seed=seed)
    found: list[dict[str, Row]] = [{} for _ in sources]
    texts: set[str] = set()
    n, left = cast(int, grammar.sample), list(range(len(sources)))
    while left and len(texts) < n:
        for i in left[: n - len(texts)]:
            rows = _rows(grammar, islice(sources[i], _TRIES))
            row = next((row for row in rows if row[0] not in texts), None)
            if row is None:
                left.remove(i)
            else:
                texts.add(row[0])
                found[i][row[0]] = row
    if len(texts) < n:
        warn(f"{grammar.path}: {n:,} sentences are to be drawn; found {len(texts):,}")
    return [row for rows in found for row in rows.values()]


def _rows(grammar: Grammar, phrases: Iterable[Phrase]) -> Iterator[Row]:
    for phrase in phrases:
        roles = _roles(phrase, grammar)
        if all(keep.evaluate(roles) for keep in grammar.filters):
            declared = grammar.columns | grammar.items
            yield _text(phrase.words), *(each.evaluate(roles) for each in declared.values())


def _roles(phrase: Phrase, grammar: Grammar) -> dict[str, dict[str, Value]]:
    """Features of each role; a phrase and its head that bear the same role complete each other."""
    roles: dict[str, dict[str, Value]] = {}
    for features in [{**phrase.features, "ROLE": WHOLE}, *phrase.roles]:
        if isinstance(features["ROLE"], Variable):
            continue
        role = roles.setdefault(str(features["ROLE"]), {})
        for name, value in features.items():
            if isinstance(value, Variable):
                continue
            if role.setdefault(name, value) != value:
                raise InputError(
                    f"{grammar.path}: in {_text(phrase.words)!r}, {features['ROLE']}.{name} is "
                    f"both {role[name]!r} and {value!r}; give the constituents different roles"
                )
    if grammar.reads(N_WORDS):
        words = _text(phrase.words).split()
        roles[WHOLE].setdefault(N_WORDS, sum(any(map(str.isalnum, word)) for word in words))
    return roles


def _text(words: tuple[str, ...]) -> str:
    return re.sub(r" (?=[.,;:?!])", "", " ".join(word for word in words if word))
