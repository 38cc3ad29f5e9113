"""Grammar files: rules in nltk's notation, and what becomes a column of the stimulus table."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlem_xr.schema import MIN_SENTENCES, InputError, check_integer, choose, shown
from mlem_xr.stimuli.expressions import Expression, read_expression
from mlem_xr.stimuli.lexicon import WORD_FEATURES, read_lines
from mlem_xr.stimuli.rules import (
    MAX_SENTENCES,
    Category,
    Features,
    Rule,
    Rules,
    Value,
    Variable,
    unify,
)

MAX_LINE = 10_000
"""Characters of a rule, with all lines that continue it."""

GRAMMARS = Path(__file__).parent / "grammars"
"""The bundled grammars and their lexicon."""

WHOLE = "sentence"
"""The role of the start symbol."""

N_WORDS = "N_WORDS"
"""A feature that every sentence has: how many words it is long."""


@dataclass
class Grammar:
    """A grammar file: its rules, and what its directives declare."""

    path: Path
    rules: list[Rule] = field(default_factory=list)
    start: str = ""
    columns: dict[str, Expression] = field(default_factory=dict)
    items: dict[str, Expression] = field(default_factory=dict)
    belongs: dict[str, str] = field(default_factory=dict)
    numeric: list[str] = field(default_factory=list)
    filters: list[Expression] = field(default_factory=list)
    distinct: dict[str, str] = field(default_factory=dict)
    lexicon: Path | None = None
    language: str = "en"
    sample: int | None = None
    """How many of its sentences to draw; None: all of them."""

    def reads(self, feature: str) -> bool:
        """Tell whether a column, an item or a filter depends on this feature of any role."""
        return any(feature == name for _, name in self.references())

    def references(self) -> dict[tuple[str, str], Expression]:
        """List what columns, items and filters read, each with an expression that does."""
        expressions = [*self.columns.values(), *self.items.values(), *self.filters]
        return {pair: each for each in expressions for pair in sorted(each.references)}


def read_grammar(path: Path) -> Grammar:
    """Read a grammar file, not yet checked against a lexicon: see `check_grammar`.

    Rules are in nltk's notation for feature grammars, with values that are words, numbers, booleans
    (`+F`, `-F`) or variables. Lines that begin with % are directives, those with # comments; the
    documentation's page on grammars lists the directives.
    """
    grammar = Grammar(path)
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        if line.startswith("%"):
            _read_directive(grammar, line[1:], where)
        else:
            grammar.rules += _read_rules(line, where)
    if not grammar.rules:
        raise InputError(f"{path}: no rules; expected at least one, such as \"S -> 'yes'\"")
    if not grammar.columns:
        raise InputError(f"{path}: no features; expected at least one %column NAME = EXPRESSION")
    for name, item in grammar.belongs.items():
        others = [other for other in (*grammar.items, *grammar.columns) if other != name]
        choose(f"{grammar.columns[name].where}: {name} of", item, others)
    grammar.start = grammar.start or grammar.rules[0].category.symbol
    return grammar


def check_sample(argument: str, number: Any) -> int:
    """Return how many sentences are to be drawn, if that many can be."""
    return check_integer(argument, number, at_least=MIN_SENTENCES, below=MAX_SENTENCES + 1)


def by_symbol(grammar: Grammar, words: list[Rule]) -> dict[str, list[Rule]]:
    """Sort the rules of a grammar, then the words, by the symbol they expand, in order."""
    rules: dict[str, list[Rule]] = {}
    for rule in [*grammar.rules, *words]:
        rules.setdefault(rule.category.symbol, []).append(rule)
    return rules


def check_grammar(grammar: Grammar, rules: Rules, lexicon: Path | None) -> None:
    """Check that a grammar fits a lexicon; `rules` are those of both, by symbol.

    Undefined symbols, categories that nothing matches, and features that are used and never set are
    refused, with file and line.
    """
    words = [s for s, expansions in rules.items() if any(r.lemma is not None for r in expansions)]
    known = f"known: {', '.join(rules)}"
    if grammar.start not in rules:
        raise InputError(f"{grammar.path}: undefined start symbol {grammar.start!r}; {known}")
    for rule in grammar.rules:
        for child in rule.children:
            if isinstance(child, Category):
                _check_category(child, rule, rules, lexicon)
    for symbol, where in grammar.distinct.items():
        if symbol not in words:
            raise InputError(
                f"{where}: undefined word class {symbol!r}; "
                f"{_named(lexicon)} has: {', '.join(words)}"
            )
    _check_features(grammar, rules)


def _named(lexicon: Path | None) -> str:
    return "the grammar, without %lexicon," if lexicon is None else str(lexicon)


def _check_category(category: Category, rule: Rule, rules: Rules, lexicon: Path | None) -> None:
    expansions = rules.get(category.symbol)
    if not expansions:
        raise InputError(
            f"{rule.where}: undefined symbol {category.symbol!r}: no rule expands it, and "
            f"{_named(lexicon)} has no words of that class"
        )
    constants = _constants(category.features)
    if all(unify(constants, other.category.features, {}) is None for other in expansions):
        raise InputError(f"{rule.where}: no word or rule of {category.symbol!r} matches {category}")


def _check_features(grammar: Grammar, rules: Rules) -> None:
    """Refuse features that only variables or mistyped names could refer to."""
    given = [rule.category for expansions in rules.values() for rule in expansions]
    asked = [child for rule in grammar.rules for child in rule.children]
    inside = [child for child in asked if isinstance(child, Category)]
    constants = [_constants(category.features) for category in [*given, *inside]]
    roles = {WHOLE, *(str(features["ROLE"]) for features in constants if "ROLE" in features)}
    own = {name for category in given for name in _constants(category.features)}
    own |= {"ROLE", *WORD_FEATURES}
    anywhere = own.union(*constants)
    for rule in grammar.rules:
        for category in [rule.category, *rule.children]:
            for name in category.features if isinstance(category, Category) else ():
                if name not in own and not (name in anywhere and grammar.reads(name)):
                    raise InputError(
                        f"{rule.where}: feature {name!r} is never set: no word has it and no rule "
                        f"gives it a value; set: {', '.join(sorted(own))}"
                    )
    for (role, name), expression in grammar.references().items():
        if role not in roles:
            raise InputError(
                f"{expression.where}: no constituent has the role {role!r}; roles: "
                f"{', '.join(sorted(roles))}"
            )
        if name not in anywhere and (role, name) != (WHOLE, N_WORDS):
            raise InputError(
                f"{expression.where}: feature {name!r} is never set; set: "
                f"{', '.join(sorted(anywhere))}"
            )


def _constants(features: Features) -> Features:
    return {name: value for name, value in features.items() if not isinstance(value, Variable)}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield lines and the number on which they begin; a backslash continues a line."""
    pending, first = "", 0
    for number, line in enumerate(read_lines("grammar", path), start=1):
        line = line.strip()
        if len(pending) + len(line) > MAX_LINE:
            raise InputError(
                f"{path}, line {first or number}: more than {MAX_LINE:,} characters; "
                "expected several rules"
            )
        if not pending and (not line or line.startswith("#")):
            continue
        first = first or number
        pending += line.removesuffix("\\")
        if not line.endswith("\\"):
            yield first, pending
            pending, first = "", 0
    if pending:
        yield first, pending


def _read_directive(grammar: Grammar, text: str, where: str) -> None:
    directive, rest = [*text.split(maxsplit=1), "", ""][:2]
    known = ["start", "lexicon", "language", "distinct", "column", "numeric", "item", "filter"]
    choose(f"{where}: directive", directive, [*known, "sample"])
    if not rest:
        raise InputError(f"{where}: %{directive} of nothing")
    if directive in ("column", "numeric", "item"):
        _read_column(grammar, directive, rest, where)
    elif directive == "filter":
        grammar.filters.append(read_expression(rest, where))
    elif directive == "sample":
        number = int(rest) if rest.isdecimal() else rest
        grammar.sample = check_sample(f"{where}: %sample", number)
    elif directive == "distinct":
        grammar.distinct |= dict.fromkeys(rest.split(), where)
    elif directive == "lexicon":
        bundled = rest == "bundled"
        grammar.lexicon = GRAMMARS / "lexicon.csv" if bundled else grammar.path.parent / rest
    else:
        setattr(grammar, directive, rest)


def _read_column(grammar: Grammar, directive: str, text: str, where: str) -> None:
    """Read `NAME = EXPRESSION`, or `NAME of ITEM = EXPRESSION` of a feature."""
    name, equals, expression = (part.strip() for part in text.partition("="))
    match name.split() if directive != "item" else ():
        case [name, "of", item]:
            grammar.belongs[name] = item
    if directive == "numeric":
        grammar.numeric.append(name)
    if not equals or not name.isidentifier():
        raise InputError(f"{where}: %{directive} {text!r}; expected NAME = EXPRESSION")
    if name in grammar.columns or name in grammar.items:
        raise InputError(f"{where}: column {name!r} is declared twice")
    columns = grammar.items if directive == "item" else grammar.columns
    columns[name] = read_expression(expression, where)


def _read_rules(line: str, where: str) -> list[Rule]:
    # nltk takes over a second to import.
    try:
        from nltk.grammar import FeatureGrammar
    except ImportError as error:
        raise InputError(
            f'stimuli: a grammar needs nltk ({error}): pip install "mlem_xr[grammars]"'
        ) from error
    try:
        productions = FeatureGrammar.fromstring(line).productions()
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[-1][:200]
        raise InputError(
            f"{where}: {shown(line)} is no rule of a feature grammar: {reason}"
        ) from error
    return [
        Rule(
            _category(production.lhs(), where),
            tuple(
                child if isinstance(child, str) else _category(child, where)
                for child in production.rhs()
            ),
            where,
        )
        for production in productions
    ]


def _category(nonterminal: Any, where: str) -> Category:
    """Turn nltk's nonterminal into a category."""
    from nltk.featstruct import TYPE

    if not isinstance(nonterminal.get(TYPE), str):
        raise InputError(f"{where}: {nonterminal!r} has no symbol; expected one such as NP[NUM=sg]")
    items = ((name, value) for name, value in nonterminal.items() if name != TYPE)
    return Category(
        nonterminal[TYPE], {str(name): _value(name, value, where) for name, value in items}
    )


def _value(name: Any, value: Any, where: str) -> Value | Variable:
    from nltk.sem.logic import Variable as NltkVariable

    if isinstance(value, NltkVariable):
        return Variable(value.name.removeprefix("?"))
    if isinstance(name, str) and isinstance(value, bool | int | float | str):
        return value
    raise InputError(
        f"{where}: feature {name} is {value!r}; expected a word, a number, a boolean or a variable"
    )
