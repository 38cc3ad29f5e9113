"""The generator accepts exactly what nltk's parser accepts."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from nltk.featstruct import TYPE
from nltk.grammar import FeatStructNonterminal, FeatureGrammar, Production
from nltk.parse import FeatureChartParser
from nltk.sem.logic import Variable as NltkVariable

from mlem_xr.schema import InputError
from mlem_xr.stimuli import generate_stimuli
from mlem_xr.stimuli.grammar import GRAMMARS, by_symbol, read_grammar
from mlem_xr.stimuli.lexicon import read_lexicon
from mlem_xr.stimuli.rules import Category, Rule, Variable, count_sentences, draws, sentences

GRAMMAR_WITH_EVERYTHING = """
S -> NP[NUM=?n, CASE=nom] VP[NUM=?n]
S[INV=?i] -> Aux[+INV, NUM=?n] NP[NUM=?n, CASE=nom] V[FORM=base] | 'yes'
NP[NUM=?n] -> D[NUM=?n] N[NUM=?n]
NP[NUM=?n, CASE=?c] -> Pro[NUM=?n, CASE=?c]
VP[NUM=?n] -> V[FORM=fin, NUM=?n] Obj
Obj ->
Obj -> NP[CASE=acc]
D -> 'the'
D[NUM=sg] -> 'a'
N -> 'sheep'
N[NUM=pl] -> 'dogs'
Pro[NUM=sg, CASE=nom] -> 'he'
Pro[CASE=acc] -> 'them'
V[FORM=fin, NUM=sg] -> 'sees'
V[FORM=fin, NUM=pl] -> 'see'
V[FORM=base] -> 'see'
Aux[NUM=sg, INV=True] -> 'does'
"""


def generated(text: str, path: Path) -> list[tuple[str, ...]]:
    path.write_text("%column any = 1\n" + text)
    grammar = read_grammar(path)
    return [phrase.words for phrase in sentences(by_symbol(grammar, []), grammar.start)]


def nltk_grammar(text: str) -> FeatureGrammar:
    # Without the directive, nltk would take the features of the first rule for the start's.
    return FeatureGrammar.fromstring("%start S\n" + text)


def accepted(text: str, max_length: int) -> set[tuple[str, ...]]:
    """Try every string of words up to a length with nltk's parser."""
    grammar = nltk_grammar(text)
    parser = FeatureChartParser(grammar)
    words = sorted({w for p in grammar.productions() for w in p.rhs() if isinstance(w, str)})
    strings = itertools.chain.from_iterable(
        itertools.product(words, repeat=n) for n in range(1, max_length + 1)
    )
    return {string for string in strings if next(iter(parser.parse(string)), None)}


def test_generates_exactly_what_nltk_accepts(tmp_path: Path) -> None:
    words = generated(GRAMMAR_WITH_EVERYTHING, tmp_path / "g.fcfg")
    parser = FeatureChartParser(nltk_grammar(GRAMMAR_WITH_EVERYTHING))
    assert all(next(iter(parser.parse(sentence)), None) for sentence in words)
    short = {sentence for sentence in words if len(sentence) <= 3}
    assert short == accepted(GRAMMAR_WITH_EVERYTHING, 3)
    assert ("the", "sheep", "see") in short and ("a", "sheep", "see") not in short
    assert ("he", "sees", "the", "dogs") in words


VARIABLES_LEFT_OPEN = {
    # The two A leave F open; what the first one becomes is nothing to the second.
    "S -> A[F=?x] A[F=?y] B[F=?x] C[F=?y]\nA[F=?v] -> 'a'\nB[F=1] -> 'b'\nC[F=2] -> 'c'": {"aabc"},
    # A says that F and G are the same, whatever they are.
    "S -> A[F=?x, G=?y] B[F=?x] B[F=?y]\nA[F=?v, G=?v] -> 'a'\nB[F=1] -> 'b'\nB[F=2] -> 'c'": {
        "abb",
        "acc",
    },
    # S says so, and what A is made of decides.
    "S -> A[F=?x, G=?x]\nA[F=?v, G=?w] -> B[F=?v] B[F=?w]\nB[F=1] -> 'b'\nB[F=2] -> 'c'": {
        "bb",
        "cc",
    },
}


@pytest.mark.parametrize("text", VARIABLES_LEFT_OPEN)
def test_variables_left_open(tmp_path: Path, text: str) -> None:
    expected = {tuple(sentence) for sentence in VARIABLES_LEFT_OPEN[text]}
    assert set(generated(text, tmp_path / "g.fcfg")) == expected == accepted(text, 4)


def random_grammar(seed: int) -> str:
    """Write a grammar of three levels with random agreement."""
    rng = np.random.default_rng(seed)

    def category(symbol: str) -> str:
        features = [f"{f}={rng.choice(['x', 'y', '?v', '?w'])}" for f in "FG" if rng.random() < 0.7]
        return f"{symbol}[{', '.join(features)}]"

    rules = [f"{category('S')} -> {category('A')} {category('B')}" for _ in range(2)]
    rules += [f"{category(s)} -> {category('C')} {category('C')}" for s in "AB" for _ in range(2)]
    rules += [f"{category('B')} -> {category('C')}"]
    rules += [f"{category('C')} -> '{word}'" for word in "ppqq"]
    return "\n".join(rules)


@pytest.mark.parametrize("seed", range(15))
def test_random_grammars_agree_with_nltk(tmp_path: Path, seed: int) -> None:
    text = random_grammar(seed)
    assert set(generated(text, tmp_path / "g.fcfg")) == accepted(text, 4)


@pytest.mark.parametrize("seed", range(15))
def test_draws_are_the_sentences_of_a_grammar_each_sooner_or_later(
    tmp_path: Path, seed: int
) -> None:
    text = random_grammar(seed)
    expected = set(generated(text, tmp_path / "g.fcfg"))
    sources = draws(by_symbol(read_grammar(tmp_path / "g.fcfg"), []), "S", seed=seed)
    found = {p.words for source in sources for p in itertools.islice(source, 300)}
    assert found == expected


def test_random_grammars_are_neither_trivial_nor_equal(tmp_path: Path) -> None:
    sizes = {len(set(generated(random_grammar(n), tmp_path / "g.fcfg"))) for n in range(15)}
    assert len(sizes) > 3
    assert max(sizes) > 0 and min(sizes) < 2**3 + 2**4


def parser_of(name: str) -> FeatureChartParser:
    """Make a parser of nltk for a bundled set."""
    grammar = read_grammar(GRAMMARS / f"{name}.fcfg")
    assert grammar.lexicon is not None
    rules = by_symbol(grammar, read_lexicon(grammar.lexicon))

    def nonterminal(category: Category) -> FeatStructNonterminal:
        features = {
            name: NltkVariable(f"?{value.name}") if isinstance(value, Variable) else value
            for name, value in category.features.items()
        }
        return FeatStructNonterminal({TYPE: category.symbol, **features})

    productions = [
        Production(
            nonterminal(rule.category),
            [child if isinstance(child, str) else nonterminal(child) for child in rule.children],
        )
        for expansions in rules.values()
        for rule in expansions
    ]
    return FeatureChartParser(FeatureGrammar(FeatStructNonterminal({TYPE: "S"}), productions))


def test_bundled_sentences_parse() -> None:
    parser = parser_of("relative_clause")
    stimuli = generate_stimuli("relative_clause")
    for text in stimuli.text.values[::960]:
        words = text.replace(".", " .").split()
        assert next(iter(parser.parse(words)), None), text
        wrong = [{"sees": "see", "see": "sees"}.get(word, word) for word in words]
        assert next(iter(parser.parse(wrong)), None) is None, wrong


def test_drawn_sentences_parse() -> None:
    parser = parser_of("large")
    for text in generate_stimuli("large", n_sentences=70).text.values[::5]:
        words = re.sub(r"([.?])", r" \1", text).split()
        assert next(iter(parser.parse(words)), None), text
        wrong = [words[0], *words]
        assert next(iter(parser.parse(wrong)), None) is None, wrong


def test_a_rule_is_shown_as_it_is_written() -> None:
    left = Category("N", {"NUM": "sg", "GEN": Variable("g")})
    assert str(Rule(left, ("she", Category("V")), "here")) == "N[NUM=sg, GEN=?g] -> 'she' V"


BOUNDED = """
S -> P[DEPTH=3]
P[DEPTH=3] -> P[DEPTH=2] P[DEPTH=2] | 'x' P[DEPTH=1]
P[DEPTH=2] -> P[DEPTH=1] 'and' P[DEPTH=1, OPEN=?o] Q[OPEN=?o]
P[DEPTH=1, OPEN=?o] -> 'a' R[OPEN=?o] | 'b b'
Q -> 'q'
Q[OPEN=yes] -> 'w'
R[OPEN=yes] -> 'r'
R[OPEN=no] ->
"""


@pytest.mark.parametrize("text", [GRAMMAR_WITH_EVERYTHING, BOUNDED])
def test_sentences_are_counted_without_being_made(tmp_path: Path, text: str) -> None:
    found = generated(text, tmp_path / "some.fcfg")
    rules = by_symbol(read_grammar(tmp_path / "some.fcfg"), [])
    n_sentences, n_words, _ = count_sentences(rules, "S")
    assert (n_sentences, n_words) == (len(found), sum(map(len, found)))


@pytest.mark.parametrize("name", ["short_sentence", "relative_clause"])
def test_the_words_of_a_lexicon_are_counted_by_their_features(name: str) -> None:
    grammar = read_grammar(GRAMMARS / f"{name}.fcfg")
    assert grammar.lexicon is not None
    rules = by_symbol(grammar, read_lexicon(grammar.lexicon))
    found = list(sentences(rules, grammar.start))
    n_sentences, n_words, n_steps = count_sentences(rules, grammar.start)
    assert n_sentences == len(found) < n_steps
    assert n_words == sum(len(phrase.words) for phrase in found)


def test_how_many_and_with_which_seed_may_be_as_large_as_is_said() -> None:
    largest = {"n_sentences": 200_000, "random_state": 2**32 - 1}
    with pytest.warns(UserWarning, match="200,000 sentences are to be drawn; found 5"):
        generate_stimuli("short_sentence", **largest)
    for option, value in largest.items():
        with pytest.raises(InputError, match=rf"{option}: found .* and below {value + 1}$"):
            generate_stimuli("short_sentence", **{option: value + 1})


@pytest.mark.parametrize(
    ("limit", "needed"),
    [
        ("MAX_SENTENCES", 9),
        ("MAX_WORDS", 18),
        ("MAX_STEPS", 3 + 9),  # Each A is added to an empty phrase, and each B to each A.
        ("_MAX_COUNTING", 2),  # What is alike is counted at once: an A, and a B.
        ("_MAX_DRAWING", 2),
    ],
)
def test_a_grammar_may_be_as_large_as_its_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, needed: int
) -> None:
    path = tmp_path / "own.fcfg"
    rules = ["S -> A B", "A -> 'a' | 'b' | 'c'", "B -> 'd' | 'e' | 'f'"]
    path.write_text("\n".join([*rules, "%column N = sentence.N_WORDS"]))
    grammar = by_symbol(read_grammar(path), [])

    def make() -> int:
        if limit == "_MAX_DRAWING":
            return len([next(draws(grammar, "S")[0]) for _ in range(9)])
        return len(list(sentences(grammar, "S")))

    monkeypatch.setattr(f"mlem_xr.stimuli.rules.{limit}", needed)
    assert make() == 9
    monkeypatch.setattr(f"mlem_xr.stimuli.rules.{limit}", needed - 1)
    with pytest.raises(InputError, match=rf" {needed - 1} |at most {needed - 1}:"):
        make()
