"""Feature grammars: categories, rules, unification, and the sentences that a grammar accepts."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random
from typing import Any, NamedTuple

from mlem_xr.schema import InputError

MAX_DEPTH = 40
"""How deep constituents may nest; no sentence that people read comes near it."""

MAX_SENTENCES = 200_000
"""Sentences of a grammar, before its filters; they have 20,000,000,000 pairs."""

MAX_WORDS = 10_000_000
"""Words of all its sentences together."""

MAX_STEPS = 2_000_000
"""Constituents that are added to a phrase on the way, some of which lead to no sentence."""

_MAX_COUNTING = 100_000
"""Steps that counting may take; equal phrases are counted at once, so it mostly takes few."""

_MAX_DRAWING = 20_000
"""Steps on the way to one drawn sentence."""

Value = bool | int | float | str


@dataclass(frozen=True)
class Variable:
    """The `?a` of a rule: one value, the same wherever the rule names it."""

    name: str


Features = Mapping[str, Value | Variable]
Bindings = Mapping[Variable, Value | Variable]


@dataclass(frozen=True)
class Category:
    """A symbol with features, such as `NP[NUM=sg, AGR=?a]`."""

    symbol: str
    features: Features = field(default_factory=dict)

    def __str__(self) -> str:
        listed = ", ".join(f"{name}={_shown(value)}" for name, value in self.features.items())
        return f"{self.symbol}[{listed}]" if listed else self.symbol


@dataclass(frozen=True, eq=False)
class Rule:
    """A category and what it may consist of: categories, and words as plain strings.

    `lemma` is that of a word from the lexicon, None for other rules; `where` is file and line.
    """

    category: Category
    children: tuple[Category | str, ...]
    where: str
    lemma: str | None = None

    def __str__(self) -> str:
        children = (
            repr(child) if isinstance(child, str) else str(child) for child in self.children
        )
        return f"{self.category} -> {' '.join(children)}"


Rules = Mapping[str, list[Rule]]


@dataclass(frozen=True)
class Phrase:
    """Words that form a constituent, its features, and those of the constituents with a role."""

    features: Features = field(default_factory=dict)
    words: tuple[str, ...] = ()
    roles: tuple[Features, ...] = ()
    lemmas: frozenset[str] = frozenset()
    count: float = 1.0
    """How many phrases it stands for, where equal ones are only counted."""
    n_words: float = 0.0
    """How many words they have together."""


class _Path(NamedTuple):
    """Where in a sentence a constituent is looked for."""

    above: tuple[Rule, ...] = ()
    lemmas: frozenset[str] = frozenset()
    """Those to the left of it that may not occur again."""
    place: tuple[int, ...] = ()
    """Which child it is of each rule above, counted from the last."""


def sentences(rules: Rules, start: str, *, distinct: Iterable[str] = ()) -> Iterator[Phrase]:
    """Generate every sentence that a grammar accepts, and no other; twice if derived in two ways.

    `rules` are those of the grammar and of the lexicon, by the symbol they expand. No lemma of the
    word classes in `distinct` occurs twice in a sentence.

    Rules are tried in their order, the children of a rule from left to right, and the features
    known so far narrow the choice at every step, so nothing is generated to be thrown away. Rules
    that nest without end, with file and line, and too many sentences are refused.
    """
    _check_size(rules, start)
    yield from _Derivation(rules, frozenset(distinct)).expand(start, {}, _Path())


def draws(
    rules: Rules, start: str, *, distinct: Iterable[str] = (), seed: int = 0
) -> list[Iterator[Phrase]]:
    """Draw sentences of a grammar at random, without end and with repetitions.

    One iterator for each rule of the start symbol. Wherever a symbol is expanded, each of the rules
    and words that fit comes once, in random order, before any of them comes again: so they are
    equally frequent, however many sentences begin with each.
    """
    drawing = _Drawing(rules, frozenset(distinct), seed)
    return [drawing.draw(rule) for rule in rules[start]]


def _check_size(rules: Rules, start: str) -> None:
    """Refuse more sentences than fit, before they are made."""
    n_sentences, n_words, n_steps = count_sentences(rules, start)
    for found, most, what in (
        (n_sentences, MAX_SENTENCES, "sentences"),
        (n_words, MAX_WORDS, "words in all sentences"),
        (n_steps, MAX_STEPS, "steps on the way to its sentences"),
    ):
        if found > most:
            raise InputError(
                f"{rules[start][0].where}: the grammar has {found:.3g} {what}; expected at most "
                f"{most:,}: use fewer words, as with words_per_class, or features that agree"
            )


def count_sentences(rules: Rules, start: str) -> tuple[float, float, float]:
    """Count what `sentences` would generate, without making it.

    Returns the number of sentences, of their words, and of constituents that are added to a phrase
    on the way. That no lemma occurs twice is not looked at, which leaves fewer.
    """
    counting = _Counting(rules)
    phrases = counting.expand(start, {}, _Path())
    n_sentences = sum(phrase.count for phrase in phrases)
    return n_sentences, sum(phrase.n_words for phrase in phrases), counting.steps


def unify(one: Features, other: Features, bindings: Bindings) -> Bindings | None:
    """Find what the variables must stand for so that no feature has two values.

    A feature that only one of the two has is no conflict. Returns the extended bindings; None if
    there is a conflict.

    Examples
    --------
    >>> unify({"NUM": Variable("n"), "GEN": "f"}, {"NUM": "sg"}, {})
    {Variable(name='n'): 'sg'}
    >>> unify({"NUM": "sg"}, {"NUM": "pl"}, {}) is None
    True
    """
    for name in one.keys() & other.keys():
        first, second = _resolve(one[name], bindings), _resolve(other[name], bindings)
        if first == second:
            continue
        if isinstance(first, Variable):
            bindings = {**bindings, first: second}
        elif isinstance(second, Variable):
            bindings = {**bindings, second: first}
        else:
            return None
    return bindings


class _Derivation:
    """Expands symbols top-down and remembers the phrases of each (symbol, known features)."""

    def __init__(self, rules: Rules, distinct: frozenset[str]) -> None:
        self.rules = rules
        self.distinct = distinct
        self.phrases: dict[tuple[str, frozenset[tuple[str, Value]]], list[Phrase]] = {}
        self.fresh = count()

    def expand(self, symbol: str, known: dict[str, Value], path: _Path) -> Iterable[Phrase]:
        key = symbol, frozenset(known.items())
        if key not in self.phrases:
            self.phrases[key] = [
                phrase for rule in self.rules[symbol] for phrase in self.apply(rule, known, path)
            ]
        return self.phrases[key]

    def apply(self, rule: Rule, known: dict[str, Value], path: _Path) -> Iterator[Phrase]:
        bindings = unify(rule.category.features, known, {})
        if bindings is None:
            return
        above = path.above
        if len(above) == MAX_DEPTH:
            culprit = next(r for r in reversed(above) if above.count(r) > 1 or r is above[0])
            raise InputError(
                f"{culprit.where}: endless recursion: {culprit} nests more than {MAX_DEPTH} deep"
            )
        phrase = Phrase(rule.category.features)
        if rule.lemma is not None and rule.category.symbol in self.distinct:
            phrase = replace(phrase, lemmas=frozenset({rule.lemma}))
        yield from self.complete(
            phrase, rule.children, bindings, path._replace(above=(*above, rule))
        )

    def complete(
        self,
        phrase: Phrase,
        children: tuple[Category | str, ...],
        bindings: Bindings,
        path: _Path,
    ) -> Iterator[Phrase]:
        """Add the children to a phrase in every way that agrees with it."""
        if not children:
            yield _resolved(phrase, bindings)
            return
        child, rest = children[0], children[1:]
        if isinstance(child, str):
            phrase = replace(phrase, words=(*phrase.words, child))
            yield from self.complete(phrase, rest, bindings, path)
            return
        inside = _Path(path.above, path.lemmas | phrase.lemmas, (*path.place, len(rest)))
        for part in self.parts(child, bindings, inside):
            part = self.renamed(part)
            agreed = unify(child.features, part.features, bindings)
            if agreed is not None and not phrase.lemmas & part.lemmas:
                joined = self.join(phrase, {**child.features, **part.features}, part, path)
                yield from self.complete(joined, rest, agreed, path)

    def parts(self, child: Category, bindings: Bindings, path: _Path) -> Iterable[Phrase]:
        """Return the phrases that a child may be, by the features known so far."""
        return self.expand(child.symbol, _known(child.features, bindings), path)

    def join(self, phrase: Phrase, features: Features, part: Phrase, path: _Path) -> Phrase:
        """Append `part`, which as a child of the phrase has these features."""
        role = (features,) if "ROLE" in features else ()
        return Phrase(
            phrase.features,
            phrase.words + part.words,
            phrase.roles + role + part.roles,
            phrase.lemmas | part.lemmas,
        )

    def renamed(self, phrase: Phrase) -> Phrase:
        """Set the variables left in a phrase apart from those of every other phrase."""
        values = (v for each in (phrase.features, *phrase.roles) for v in each.values())
        left = {value for value in values if isinstance(value, Variable)}
        if not left:
            return phrase
        return _resolved(phrase, {one: Variable(f"#{next(self.fresh)}") for one in left})


class _Drawing(_Derivation):
    """Makes phrases one by one, in random order, and remembers none."""

    def __init__(self, rules: Rules, distinct: frozenset[str], seed: int) -> None:
        super().__init__(rules, distinct)
        self.random = Random(seed).random
        self.fitting: dict[tuple, tuple[list[Rule], list[int]]] = {}
        self.left = _MAX_DRAWING

    def draw(self, rule: Rule) -> Iterator[Phrase]:
        """Draw a sentence after the other that begins with a rule; none where there is none."""
        while True:
            self.left = _MAX_DRAWING
            phrase = next(self.apply(rule, {}, _Path()), None)
            if phrase is None:
                return
            yield phrase

    def expand(self, symbol: str, known: dict[str, Value], path: _Path) -> Iterator[Phrase]:
        # Each place has a turn of its own: two nouns of a sentence are chosen independently.
        key = path.above, path.place, frozenset(known.items())
        if key not in self.fitting:
            rules = self.rules[symbol]
            fitting = [r for r in rules if unify(r.category.features, known, {}) is not None]
            self.fitting[key] = fitting, [0] * len(fitting)
        rules, used = self.fitting[key]
        # The least used ones first, the equally used ones at random.
        for _, _, i in sorted((times, self.random(), i) for i, times in enumerate(used)):
            # What may not occur again is left out at once: all else would be in vain.
            if symbol not in self.distinct or rules[i].lemma not in path.lemmas:
                used[i] += 1
                yield from self.apply(rules[i], known, path)

    def join(self, phrase: Phrase, features: Features, part: Phrase, path: _Path) -> Phrase:
        self.left -= 1
        if self.left < 0:
            raise InputError(
                f"{path.above[0].where}: no sentence found in {_MAX_DRAWING:,} steps; expected "
                "shorter ones, or features that agree earlier in a rule"
            )
        return super().join(phrase, features, part, path)


class _Counting(_Derivation):
    """Counts phrases instead of making them: one stands for all that nothing tells apart.

    That no lemma occurs twice is not looked at, so there may be fewer sentences.
    """

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules, frozenset())
        written = [rule for each in rules.values() for rule in each if rule.lemma is None]
        parts = [part for rule in written for part in (rule.category, *rule.children)]
        categories = [part for part in parts if isinstance(part, Category)]
        self.named = {name for category in categories for name in category.features}
        self.steps = 0.0
        self.left = _MAX_COUNTING

    def expand(self, symbol: str, known: dict[str, Value], path: _Path) -> list[Phrase]:
        key = symbol, frozenset(known.items())
        if key not in self.phrases:
            self.phrases[key] = _merged(super().expand(symbol, known, path), self.named)
        return self.phrases[key]

    def parts(self, child: Category, bindings: Bindings, path: _Path) -> list[Phrase]:
        """Merge what the features of the child do not tell apart."""
        return _merged(super().parts(child, bindings, path), child.features)

    def join(self, phrase: Phrase, features: Features, part: Phrase, path: _Path) -> Phrase:
        """Count the pairs of what two phrases stand for."""
        self.steps += phrase.count * part.count
        self.left -= 1
        if self.left < 0:
            raise InputError(
                f"{path.above[0].where}: the grammar has more than {_MAX_COUNTING:,} phrases that "
                "differ in their features; expected fewer, or features that agree"
            )
        n_words = phrase.n_words * part.count + phrase.count * part.n_words
        return replace(phrase, count=phrase.count * part.count, n_words=n_words)


def _merged(phrases: Iterable[Phrase], names: Collection[str]) -> list[Phrase]:
    """Make one phrase of all that have the same features of these names."""
    found: dict[tuple, Phrase] = {}
    for phrase in phrases:
        features = _numbered({n: v for n, v in phrase.features.items() if n in names})
        n_words = phrase.n_words + phrase.count * len(phrase.words)
        kind = tuple(sorted(features.items()))
        equal = found.get(kind, Phrase(features, count=0.0))
        found[kind] = replace(
            equal, count=equal.count + phrase.count, n_words=equal.n_words + n_words
        )
    return list(found.values())


def _numbered(features: Features) -> Features:
    """Give the variables numbers, but other names than `renamed`: none may stand for itself."""
    names = sorted(features)
    left = dict.fromkeys(v for v in map(features.get, names) if isinstance(v, Variable))
    number: dict[Any, Variable] = {variable: Variable(f"={i}") for i, variable in enumerate(left)}
    return {name: number.get(features[name], features[name]) for name in names}


def _resolve(value: Value | Variable, bindings: Bindings) -> Value | Variable:
    while isinstance(value, Variable) and value in bindings:
        value = bindings[value]
    return value


def _known(features: Features, bindings: Bindings) -> dict[str, Value]:
    resolved = {name: _resolve(value, bindings) for name, value in features.items()}
    return {name: value for name, value in resolved.items() if not isinstance(value, Variable)}


def _resolved(phrase: Phrase, bindings: Bindings) -> Phrase:
    if not bindings:
        return phrase

    def resolve(features: Features) -> Features:
        return {
            name: _resolve(value, bindings) if isinstance(value, Variable) else value
            for name, value in features.items()
        }

    return replace(
        phrase, features=resolve(phrase.features), roles=tuple(map(resolve, phrase.roles))
    )


def _shown(value: Value | Variable) -> str:
    return f"?{value.name}" if isinstance(value, Variable) else str(value)
