"""Own grammars: what a grammar file can say, what goes wrong, and the documented example."""

import doctest
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import xarray as xr

from mlem_xr.schema import InputError
from mlem_xr.stimuli import generate_stimuli, list_stimuli
from mlem_xr.stimuli.expressions import read_expression
from mlem_xr.stimuli.lexicon import zipf_frequency
from mlem_xr.stimuli.table import to_dataframe

DOCS = Path(__file__).parents[1] / "docs"

LEXICON = """CLASS,WORD,LEMMA,ZIPF,NUM,ANIM
# a comment
N,dog,dog,4.5,sg,True
N,cat,cat,4.5,sg,True
N,dogs,dog,4.5,pl,True
N,sheep,sheep,4.0,,True
V,runs,run,5.0,sg,
V,run,run,5.0,pl,
"""
RULES = """%column subj_NUM = subj.NUM
S -> N[ROLE=subj, NUM=?n] V[NUM=?n]
"""


def write(folder: Path, rules: str = RULES, lexicon: str = LEXICON) -> Path:
    (folder / "own.csv").write_text(lexicon)
    (folder / "own.fcfg").write_text("%lexicon own.csv\n" + rules)
    return folder / "own.fcfg"


def table(stimuli: xr.Dataset) -> dict[str, Any]:
    """Text to the feature's value as text, or to the tuple of values; undefined: empty."""
    rows = to_dataframe(stimuli).astype(object).fillna("").astype(str).itertuples(index=False)
    return {row[0]: row[1] if len(row) == 2 else tuple(row[1:]) for row in rows}


def test_agreement_reaches_back_to_the_subject(tmp_path: Path) -> None:
    """The verb, which comes later, decides the number of "sheep"."""
    assert table(generate_stimuli(write(tmp_path))) == {
        "dog runs": "sg",
        "cat runs": "sg",
        "dogs run": "pl",
        "sheep runs": "sg",
        "sheep run": "pl",
    }


def test_a_phrase_and_its_head_share_a_role(tmp_path: Path) -> None:
    rules = """%column kind = subj.KIND
%column word = subj.WORD
%column zipf = subj.ZIPF
%column whole = sentence.MOOD
S[MOOD=decl] -> NP[ROLE=subj, KIND=definite, NUM=?n] V[NUM=?n]
NP[ROLE=?r, NUM=?n] -> 'the' N[ROLE=?r, NUM=?n]
"""
    rows = table(generate_stimuli(write(tmp_path, rules)))
    assert rows["the cat runs"] == ("definite", "cat", "4.5", "decl")


def test_filters_distinct_and_derived_columns(tmp_path: Path) -> None:
    rules = """%start T
%distinct N
%filter not (subj.NUM == 'pl' and obj.NUM == 'pl')
%column same = subj.NUM == obj.NUM
%column kind = 'plural' if subj.NUM == 'pl' else obj.LEMMA
T -> N[ROLE=subj, NUM=?n] V[NUM=?n] N[ROLE=obj] '!'
"""
    rows = table(generate_stimuli(write(tmp_path, rules)))
    assert rows["dog runs cat!"] == ("True", "cat")
    assert rows["dogs run cat!"] == ("False", "plural")
    assert "dog runs dogs!" not in rows  # one lemma
    assert "sheep run dogs!" not in rows  # both plural
    # Undefined is not true: a filter drops it.
    assert not any(text.endswith("sheep!") and text.startswith("dogs") for text in rows)


def test_undefined_in_some_sentences(tmp_path: Path) -> None:
    rules = "%column obj_NUM = obj.NUM\nS -> N V\nS -> N V N[ROLE=obj]\n"
    stimuli = generate_stimuli(write(tmp_path, rules))
    rows = table(stimuli)
    assert rows["dog runs"] == "" and rows["dog runs sheep"] == "" and rows["dog runs cat"] == "sg"


def test_two_derivations_of_a_sentence_count_once(tmp_path: Path) -> None:
    rules = (
        RULES + "S -> X[NUM=?n, ROLE=subj] V[NUM=?n]\nX[NUM=?n, ROLE=?r] -> N[NUM=?n, ROLE=?r]\n"
    )
    texts = generate_stimuli(write(tmp_path, rules)).text.values
    assert len(set(texts)) == len(texts) == 5


def test_a_feature_may_bound_recursion(tmp_path: Path) -> None:
    rules = """%column depth = np.DEPTH
S -> NP[ROLE=np, DEPTH=?d]
NP[DEPTH=0] -> N
NP[DEPTH=1] -> N 'near' NP[DEPTH=0]
NP[DEPTH=2] -> N 'near' NP[DEPTH=1]
"""
    counts = pd.Series(generate_stimuli(write(tmp_path, rules)).depth.values).value_counts()
    assert counts.to_dict() == {0: 4, 1: 16, 2: 64}


def test_words_per_class(tmp_path: Path) -> None:
    path = write(tmp_path)
    few = table(generate_stimuli(path, words_per_class=1))
    assert list(few) == ["dog runs", "dogs run", "sheep runs", "sheep run"]
    assert table(generate_stimuli(path, words_per_class={"N": 1})) == few
    assert len(table(generate_stimuli(path, words_per_class={"N": 2, "V": 1}))) == 5
    for bad in ({"Adj": 1}, 0, {"N": -1}, "many"):
        with pytest.raises(InputError, match="words_per_class"):
            generate_stimuli(path, words_per_class=bad)  # type: ignore[arg-type]


def test_sentences_are_drawn(tmp_path: Path) -> None:
    """Different ones, of the grammar, the same ones each time; rules and words equally often."""
    path = write(tmp_path, RULES + "S -> N[ROLE=subj, NUM=?n] V[NUM=?n] N '!'\n%distinct N\n")
    every = table(generate_stimuli(path))
    drawn = generate_stimuli(path, n_sentences=8)
    assert table(drawn).items() <= every.items()
    assert [text.endswith("!") for text in drawn.text.values] == [False] * 4 + [True] * 4
    assert generate_stimuli(path, n_sentences=8).equals(drawn)
    other = generate_stimuli(path, n_sentences=8, random_state=1)
    assert set(other.text.values) != set(drawn.text.values)
    path.write_text(path.read_text() + "%sample 8\n")
    assert generate_stimuli(path).equals(drawn)
    with pytest.raises(InputError, match="line 6: %sample: found 'a few'; expected an integer"):
        generate_stimuli(write(tmp_path, RULES + "S -> N V\nS -> N\n%sample a few"))


def test_all_sentences_are_drawn_where_more_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, RULES + "%filter subj.LEMMA != 'cat'\n")
    with pytest.warns(UserWarning, match="40 sentences are to be drawn; found 4"):
        drawn = generate_stimuli(path, n_sentences=40)
    assert table(drawn) == table(generate_stimuli(path))


def test_drawn_sentences_need_no_list_of_all(tmp_path: Path) -> None:
    rules = "%column first = a.LEMMA\nS -> N[ROLE=a]" + " N" * 40
    drawn = generate_stimuli(write(tmp_path, rules), n_sentences=9)
    # Twice each of dog, dogs, cat and sheep, and one more.
    assert pd.Series(drawn["first"].values).value_counts().to_dict() == {
        "dog": 4,
        "cat": 3,
        "sheep": 2,
    }


def test_too_few_to_have_a_feature_are_refused(tmp_path: Path) -> None:
    rules = "%column n = n.NUM\n%sample 4\n" + "S -> W W\n" * 4 + "W -> 'a' | 'b' | 'c'\n"
    path = write(tmp_path, rules + "S -> N[ROLE=n, NUM=sg] V[NUM=sg]")
    with pytest.raises(InputError, match="'n' is never set in any sentence; draw more than 4 sent"):
        generate_stimuli(path)


def test_numbers_of_a_sentence(tmp_path: Path) -> None:
    rules = """%numeric length = sentence.N_WORDS
%numeric zipf of noun = round(subj.ZIPF, 1)
%numeric mean = mean(subj.ZIPF, verb.ZIPF, obj.ZIPF)
%numeric differ = count(subj.NUM != obj.NUM, subj.LEMMA != obj.LEMMA)
%column has_object = defined(obj.LEMMA)
%item noun = subj.LEMMA
S -> N[ROLE=subj, NUM=?n] V[ROLE=verb, NUM=?n] '.'
S -> 'the' N[ROLE=subj, NUM=?n] V[ROLE=verb, NUM=?n] N[ROLE=obj, LEMMA=dog] '!'
"""
    stimuli = generate_stimuli(write(tmp_path, rules))
    assert table(stimuli)["dog runs."][:5] == ("2.0", "5.0", "4.75", "", "False")
    assert table(stimuli)["the cat runs dogs!"][:5] == ("4.0", "5.0", str(14 / 3), "2.0", "True")
    kinds = [stimuli[name].attrs.get("kind") for name in stimuli.features]
    assert kinds == ["numeric"] * 4 + [None] and stimuli["zipf"].attrs["item"] == "noun"


def test_lexicon_argument_and_bundled_lexicon(tmp_path: Path) -> None:
    path = write(tmp_path)
    other = tmp_path / "other.csv"
    other.write_text(LEXICON.replace("dog", "cow"))
    assert "cow runs" in table(generate_stimuli(path, lexicon=other))
    path.write_text("%column subj_GEN = subj.GEN\nS -> PropN[ROLE=subj] VI[AGR=3sg]\n")
    with pytest.raises(InputError, match="line 2"):  # nltk's notation wants '3sg' in quotes
        generate_stimuli(path)
    rules = "%column subj_GEN = subj.GEN\nS -> PropN[ROLE=subj] VI[AGR='3sg']\n"
    path.write_text("%lexicon bundled\n" + rules)
    assert table(generate_stimuli(path))["Mary plays"] == "f"
    path.write_text(rules)
    with pytest.raises(InputError, match="'PropN': .* the grammar, without %lexicon, has no words"):
        generate_stimuli(path)


def test_a_grammar_of_its_own_words_takes_no_others(tmp_path: Path) -> None:
    """Not the bundled ones of a class that happens to have the same name."""
    rules = """
        %column number = n.NUM
        S -> Det[NUM=?x] N[ROLE=n, NUM=?x]
        Det[NUM=sg] -> 'this'
        Det[NUM=pl] -> 'these'
        N[NUM=sg] -> 'dog'
        N[NUM=sg] -> 'cat'
        N[NUM=pl] -> 'dogs'
        N[NUM=pl] -> 'cats'
    """
    path = tmp_path / "own.fcfg"
    path.write_text("\n".join(line.strip() for line in rules.splitlines()))
    stimuli = generate_stimuli(path)
    assert stimuli["text"].values.tolist() == ["this dog", "this cat", "these dogs", "these cats"]


def test_continued_lines_and_line_numbers(tmp_path: Path) -> None:
    rules = "%column n = subj.NUM\nS -> N[ROLE=subj] \\\n   V\n# comment\n\nT -> U\n"
    with pytest.raises(InputError, match=r"own.fcfg, line 7: undefined symbol 'U'"):
        generate_stimuli(write(tmp_path, rules))
    rows = table(generate_stimuli(write(tmp_path, rules.replace("T -> U", "T -> V"))))
    assert "dog run" in rows


def test_missing_frequencies_come_from_wordfreq(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lexicon = LEXICON.replace("N,dogs,dog,4.5", "N,dogs,dog,").replace(
        "N,cat,cat,4.5", "N,cat,cat,1.5"
    )
    rules = RULES + "%column zipf = subj.ZIPF\n"
    path = write(tmp_path, rules, lexicon)
    rows = table(generate_stimuli(path))
    assert rows["dogs run"] == ("pl", str(zipf_frequency("dog")))
    assert rows["cat runs"] == ("sg", "1.5")
    path.write_text("%language xx\n" + path.read_text())
    with pytest.raises(InputError, match="wordfreq does not know 'xx'"):
        generate_stimuli(path)
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    with pytest.raises(
        InputError, match=r"own.csv, line 5: 'dog' has no ZIPF.*mlem_xr\[grammars\]"
    ):
        generate_stimuli(path)
    assert generate_stimuli(write(tmp_path, RULES, lexicon)).sizes["sentence"] == 5


COLUMN = "%column n = subj.NUM\n"
BAD_GRAMMARS = {
    "line 3: undefined symbol 'W'": COLUMN + "S -> N[ROLE=subj] W",
    "line 3: no word or rule of 'N' matches N": COLUMN + "S -> N[ROLE=subj, -ANIM]",
    "line 3: feature 'NUB' is never set": COLUMN + "S -> N[ROLE=subj, NUB=?x] V[NUB=?x]",
    "line 3: feature 'GEN' is never set": COLUMN + "S -> N[ROLE=subj, GEN=f] V",
    "line 2: feature 'NUB' is never set": "%column n = subj.NUB\nS -> N[ROLE=subj] V",
    "line 2: no constituent has the role 'sub'": "%column n = sub.NUM\nS -> N[ROLE=subj] V",
    "line 2: column 'n' is never set": "%column n = subj.MOOD\nS[MOOD=x] -> N[ROLE=subj] V",
    "line 4: endless recursion: NP -> N 'of' NP": COLUMN
    + "S -> NP V\nNP -> N 'of' NP\nNP -> N[ROLE=subj]",
    "line 5: endless recursion: NP -> NP PP": COLUMN
    + "S -> NP V\nNP -> N[ROLE=subj]\nNP -> NP PP\nPP -> 'x'",
    "line 3: .* is no rule of a feature grammar: .*xpected comma": COLUMN + "S -> N[NUM=sg",
    "line 3: .* is no rule of a feature grammar: Unterminated": COLUMN + "S -> N 'x",
    "line 3: .* is no rule of a feature grammar: Expected an arrow": COLUMN + "S = N",
    "line 3: feature AGR is .NUM='sg'.; expected a word": COLUMN + "S -> N[AGR=[NUM=sg]]",
    "line 3: feature .slash. is": COLUMN + "S/NP -> N",
    "line 3: .* has no symbol": COLUMN + "S -> [NUM=sg]",
    "line 2: .* is no expression; expected role.FEATURE": "%column n = subj.NUM < 3\nS -> N",
    "line 2: .*import.* is no expression": "%column n = __import__('os').name\nS -> N",
    "line 2: directive: unknown value 'colum'": "%colum n = subj.NUM\nS -> N",
    "line 2: %column 'n'; expected NAME": "%column n\nS -> N",
    "line 3: column 'n' is declared twice": COLUMN + COLUMN + "S -> N",
    "line 2: %distinct of nothing": "%distinct\nS -> N",
    "line 3: undefined word class 'Adj'": COLUMN + "%distinct Adj\nS -> N[ROLE=subj]",
    "undefined start symbol 'T'": COLUMN + "%start T\nS -> N[ROLE=subj]",
    "no features": "S -> N",
    "no rules": COLUMN,
    "accept no sentence": COLUMN + "%filter subj.NUM == 'du'\nS -> N[ROLE=subj]",
    "subj.WORD is both 'dog' and 'cat'": COLUMN + "S -> N[ROLE=subj] V N[ROLE=subj]",
    "expected at least 4": COLUMN + "S -> N[ROLE=subj, LEMMA=dog]",
}


@pytest.mark.parametrize("message", BAD_GRAMMARS)
def test_bad_grammars(tmp_path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        generate_stimuli(write(tmp_path, BAD_GRAMMARS[message]))
    if "line" in message:
        assert str(tmp_path / "own.fcfg") in str(error.value)


BAD_LEXICONS = {
    "own.csv, line 2: 'N sg' has no WORD": "CLASS,WORD,NUM\nN,,sg\n",
    "own.csv, line 3: 'dog' has no CLASS": "CLASS,WORD,NUM\nN,cat,\n,dog,\n",
    "own.csv, line 2: 4 cells; expected 3": "CLASS,WORD,NUM\nN,dog,sg,3\n",
    "own.csv: no column 'WORD'; found: CLASS, NUM": "CLASS,NUM\nN,sg\n",
    "own.csv: no column 'CLASS'; found: none": "",
    "own.fcfg, line 3: undefined symbol 'V': .*own.csv has no words": "CLASS,WORD,NUM\nN,dog,sg\n",
}


@pytest.mark.parametrize("message", BAD_LEXICONS)
def test_bad_lexicons(tmp_path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate_stimuli(write(tmp_path, lexicon=BAD_LEXICONS[message]))


def test_missing_files(tmp_path: Path) -> None:
    for source in ("nonsense", tmp_path / "missing.fcfg", tmp_path, 3):
        with pytest.raises(InputError, match="a bundled set .*short_sentence"):
            generate_stimuli(source)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot read .*missing.csv"):
        generate_stimuli(write(tmp_path), lexicon=tmp_path / "missing.csv")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.X", 1),
        ("a.Z", None),
        ("b.X", None),
        ("a.X == 1", True),
        ("a.X != 1", False),
        ("a.X != a.Z", None),
        ("not a.Z", None),
        ("a.X == 2 and a.Z", False),
        ("a.Z and a.X == 1", None),
        ("a.Z or a.X == 1", True),
        ("a.Z or a.X == 2", None),
        ("'one' if a.X == 1 else a.Y", "one"),
        ("'one' if a.X == 2 else a.Y", "y"),
        ("'one' if a.Z else a.Y", None),
        ("None if a.X == 1 else a.Y", None),
        ("defined(a.Z)", False),
        ("defined(a.X)", True),
        ("defined(a.X == a.Z)", False),
        ("count(a.X == 1, a.Y == 'z', a.X == 1, a.Z)", 2),
        ("count(a.Z, b.X)", None),
        ("mean(a.X, a.Z, 4)", 2.5),
        ("mean(a.Z)", None),
        ("round(a.X, 0.4)", 1.2),
        ("round(3.75, 0.5)", 4.0),
        ("round(a.Z, 1)", None),
    ],
)
def test_expressions(text: str, expected: Any) -> None:
    expression = read_expression(text, "here")
    assert expression.evaluate({"a": {"X": 1, "Y": "y"}}) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mean(a.Y)", "here: found 'y'; expected a number"),
        ("round(a.X, 0)", "here: found a step of 0; expected one above 0"),
    ],
)
def test_words_and_numbers_are_told_apart(text: str, message: str) -> None:
    expression = read_expression(text, "here")
    with pytest.raises(InputError, match=message):
        expression.evaluate({"a": {"X": 1, "Y": "y"}})


@pytest.mark.parametrize("text", ["mean()", "round(1)", "defined(a.X, 1)", "max(1)", "a.X(1)"])
def test_what_is_no_call(text: str) -> None:
    with pytest.raises(InputError, match=r"is no expression; expected .*count\(...\), defined"):
        read_expression(text, "here")


def test_documented_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DOCS)
    failed, tried = doctest.testfile(str(DOCS / "grammars.md"), module_relative=False)
    assert tried > 4 and failed == 0


@pytest.mark.parametrize(("kind", "name"), [("fcfg", "negation.fcfg"), ("csv", "negation.csv")])
def test_documented_files_are_the_real_ones(kind: str, name: str) -> None:
    page = (DOCS / "grammars.md").read_text()
    shown = re.search(f"```{kind}\n(.*?)```", page, re.DOTALL)
    assert shown and shown[1] == (DOCS / "examples" / name).read_text()


def test_documented_example() -> None:
    stimuli = generate_stimuli(DOCS / "examples" / "negation.fcfg")
    rows = table(stimuli)
    assert len(rows) == stimuli.sizes["sentence"] == 2 * 2 * 2 * 2 * 3 * 2
    assert rows["the girl does not sing."] == ("True", "pres", "False", "", "sg", "4.5")
    assert rows["the boys often vanished."] == ("False", "past", "False", "often", "pl", "3.0")
    assert rows["the boys did not rarely vanish."][:4] == ("True", "past", "True", "rarely")
    for wrong in ("the girl do not sing.", "the boys vanishes.", "the girl does not sang."):
        assert wrong not in rows


def test_documented_sets_exist() -> None:
    page = (DOCS / "grammars.md").read_text()
    assert all(f"`{name}`" in page for name in list_stimuli())


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = write(tmp_path)
    expected = table(generate_stimuli(path))
    for name in ("own.csv", "own.fcfg"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert (tmp_path / "own.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    assert table(generate_stimuli(path)) == expected


def test_a_variable_that_nothing_binds_agrees_with_anything(tmp_path: Path) -> None:
    """Only the verb has the variable: every verb follows every noun."""
    rules = RULES.replace("N[ROLE=subj, NUM=?n]", "N[ROLE=subj]")
    found = table(generate_stimuli(write(tmp_path, rules)))
    assert set(found) == {
        f"{noun} {verb}" for noun in ("dog", "cat", "dogs", "sheep") for verb in ("runs", "run")
    }
    assert found["dog run"] == "sg"


def test_a_class_may_have_words_and_a_rule(tmp_path: Path) -> None:
    rules = RULES + "N[NUM=pl] -> N[NUM=sg, WORD=dog] 'pack'\n"
    with_rule = table(generate_stimuli(write(tmp_path, rules)))
    assert set(table(generate_stimuli(write(tmp_path)))) < set(with_rule)
    assert with_rule["dog pack run"] == "pl"
