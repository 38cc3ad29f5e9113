"""Items: columns that say what sentences are made of, and the features that belong to them."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner

import mlem_xr as mx
from helpers import layers, write
from mlem_xr.cli import app
from mlem_xr.schema import InputError, check_features, check_items
from mlem_xr.stimuli.describe import description_text
from mlem_xr.stimuli.grammar import GRAMMARS
from mlem_xr.stimuli.items import item_codes, items_of_features, warn_of_undeclared_items
from mlem_xr.stimuli.lexicon import read_lexicon
from mlem_xr.stimuli.table import to_dataframe

TABLE = pd.DataFrame(
    {
        "sentence": ["she sings.", "she sang.", "he sings.", "he sang.", "it rains.", "it rained."],
        "noun": ["she", "she", "he", "he", None, None],
        "tense": ["pres", "past"] * 3,
        "gender": ["f", "f", "m", "m", None, None],
        "verb": [1, 1, 1, 1, 2, 2],
    }
)
ITEMS = ["noun", "verb"]
BUNDLED = {
    "short_sentence": {
        **dict.fromkeys(["subj_TYPE", "subj_ANIM", "subj_GEN", "subj_PERS"], "subj_LEMMA"),
        **{"subj_ZIPF": "subj_LEMMA", "verb_ZIPF": "verb_LEMMA"},
    },
    "relative_clause": {
        **{f"{role}_GEN": f"{role}_LEMMA" for role in ("subj", "obj", "embed")},
        **{f"{role}_ZIPF": f"{role}_LEMMA" for role in ("subj", "obj", "embed", "verb")},
    },
    "long_range_agreement": {
        f"{role}_{name}": f"{role}_LEMMA"
        for role in ("subj", "obj", "embedobj")
        for name in ("GEN", "ZIPF")
    },
}


@pytest.fixture
def stimuli() -> xr.Dataset:
    return mx.read_stimuli(TABLE, items=ITEMS)


def linked() -> xr.Dataset:
    """Stimuli whose gender says itself that it belongs to the noun."""
    stimuli = mx.read_stimuli(TABLE, items=ITEMS)
    stimuli["gender"].attrs["item"] = "noun"
    return stimuli


def test_items_are_columns_without_being_features(stimuli: xr.Dataset) -> None:
    assert stimuli.attrs["features"] == check_features(stimuli) == ["tense", "gender"]
    assert stimuli.attrs["items"] == check_items(stimuli) == ["noun", "verb"]
    assert stimuli["noun"].values[:4].tolist() == ["she", "she", "he", "he"]
    assert stimuli["noun"].isnull().values.tolist() == [False] * 4 + [True] * 2
    assert stimuli["verb"].dtype == np.int64
    assert mx.feature_distances(stimuli)["feature"].values.tolist() == ["tense", "gender"]


@pytest.mark.parametrize("items", ["noun", ["noun"], ("noun",), {"noun"}, np.array(["noun"])])
def test_items_may_be_given_as_one_name_or_several(items: object) -> None:
    assert mx.read_stimuli(TABLE, items=items).attrs["items"] == ["noun"]  # type: ignore[arg-type]


def test_items_come_in_the_order_of_the_table() -> None:
    assert mx.read_stimuli(TABLE, items=["verb", "noun"]).attrs["items"] == ["noun", "verb"]


@pytest.mark.parametrize("items", [None, [], ()])
def test_without_items_there_is_no_word_of_them(items: object) -> None:
    stimuli = mx.read_stimuli(TABLE, items=items)  # type: ignore[arg-type]
    assert set(stimuli.attrs) == {"stimuli", "features", "stimuli_hash"}
    assert all(coordinate.attrs == {} for coordinate in stimuli.coords.values())


def test_the_hash_of_stimuli_without_items_is_what_it_was() -> None:
    """Stores and results that are there are found by it."""
    table = pd.DataFrame(
        {
            "sentence": ["a b", "c d", "e f", "g h"],
            "odd": [1, 0, 1, 0],
            "gender": ["f", None, "m", "f"],
            "noun": ["x", "y", "z", "x"],
        }
    )
    expected = "6438bf5549ba778620452a3eba7b7663"
    assert mx.read_stimuli(table).attrs["stimuli_hash"] == expected
    bundled = mx.read_stimuli("short_sentence")
    bare = mx.read_stimuli(bundled.drop_vars(bundled.attrs["items"]))
    assert bare.attrs["stimuli_hash"] == "4ea2e43b4c3c893592932c07b48eae1e"
    assert set(bare.attrs) == {"stimuli", "features", "stimuli_hash"}


def test_the_hash_depends_on_the_items() -> None:
    tables = [
        (TABLE, []),
        (TABLE, ["noun"]),
        (TABLE, ["noun", "verb"]),
        (TABLE.drop(columns="noun"), []),
        (TABLE.assign(noun=["she", "she", "he", "he", "he", "he"]), ["noun"]),
        (TABLE.rename(columns={"noun": "subject"}), ["subject"]),
    ]
    found = {mx.read_stimuli(table, items=items).attrs["stimuli_hash"] for table, items in tables}
    assert len(found) == len(tables)


def test_the_hash_does_not_depend_on_what_a_table_cannot_say(stimuli: xr.Dataset) -> None:
    assert mx.read_stimuli(linked()).attrs["stimuli_hash"] == stimuli.attrs["stimuli_hash"]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["nuon"], "items: unknown value 'nuon'; known: 'noun', 'tense', 'gender', 'verb'"),
        (["sentence"], "items: unknown value 'sentence'"),
        ([3], "items: found 3; expected a name"),
        ({"gender": "noun"}, "items: found .*; expected one value or a list"),
        (["noun", "tense", "gender", "verb"], "no features; expected .* 'sentence' and the items"),
    ],
)
def test_what_cannot_be_an_item_is_refused(items: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mx.read_stimuli(TABLE, items=items)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("noun", [None] * 6, "column 'noun' is empty"),
        ("noun", [[1]] * 6, "column 'noun' holds"),
        ("unit", [1] * 6, "mlem_xr itself uses the name of column 'unit'"),
        ("a/b", [1] * 6, "column 'a/b'; expected a name without '/'"),
    ],
)
def test_a_column_of_items_is_checked_like_any_other(
    column: str, values: list, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        mx.read_stimuli(TABLE.assign(**{column: values}), items=[column])


def test_items_may_be_as_many_as_there_are_sentences() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"sentence": [f"s {i}" for i in range(40)], "odd": [0, 1] * 20})
    table["surprisal"], table["id"] = rng.normal(size=40), range(40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stimuli = mx.read_stimuli(table, items=["surprisal", "id"])
        write_and_explain = stimuli.assign(
            activation=(("sentence", "unit"), rng.normal(size=(40, 3)))
        )
        mx.multivariate_importance(write_and_explain).compute()


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet"])
def test_a_written_table_gives_the_same_stimuli_when_its_items_are_named(
    tmp_path: Path, stimuli: xr.Dataset, ending: str
) -> None:
    path = tmp_path / f"stimuli{ending}"
    mx.write_stimuli(stimuli, path)
    again = mx.read_stimuli(path, items=stimuli.attrs["items"])
    xr.testing.assert_identical(again, stimuli)
    assert list(to_dataframe(again)) == ["sentence", "tense", "gender", "noun", "verb"]
    assert mx.read_stimuli(path).attrs["features"] == ["tense", "gender", "noun", "verb"]


def test_a_csv_that_would_change_an_item_is_refused(tmp_path: Path) -> None:
    stimuli = mx.read_stimuli(TABLE.assign(noun=["01", "1", "2", "01", "1", "2"]), items="noun")
    with pytest.raises(InputError, match="a CSV file would not keep 'noun' as it is"):
        mx.write_stimuli(stimuli, tmp_path / "stimuli.csv")


def test_a_dataset_keeps_its_items_and_takes_more() -> None:
    stimuli = linked()
    xr.testing.assert_identical(mx.read_stimuli(stimuli), stimuli)
    more = mx.read_stimuli(stimuli, items="tense")
    assert more.attrs["items"] == ["tense", "noun", "verb"]
    assert more.attrs["features"] == ["gender"]
    assert more["gender"].attrs == {"item": "noun"}


def test_a_feature_of_a_bundled_set_may_become_an_item() -> None:
    stimuli = mx.read_stimuli("long_range_agreement", items="verb_LEMMA")
    assert "verb_LEMMA" in stimuli.attrs["items"]
    assert len(stimuli.attrs["features"]) == 13
    assert stimuli["subj_GEN"].attrs["item"] == "subj_LEMMA"


def test_items_are_known_where_the_attributes_of_the_dataset_are_lost(stimuli: xr.Dataset) -> None:
    bare = xr.Dataset(coords=stimuli.coords)
    assert bare.attrs == {}
    assert check_features(bare) == ["tense", "gender"]
    assert mx.read_stimuli(bare).attrs["stimuli_hash"] == stimuli.attrs["stimuli_hash"]


def test_what_the_attribute_names_is_no_feature() -> None:
    data = mx.read_stimuli(TABLE).assign_attrs(items=["noun"])
    del data.attrs["features"]
    assert check_features(data) == ["tense", "gender", "verb"]
    with pytest.raises(InputError, match="^features: unknown value 'noun'; known: 'tense'"):
        check_features(data, ["noun"])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = mx.create_store(linked(), tmp_path / "toy.zarr")
    write(path, layers(n=6, n_layers=2, pooling=("mean",)))
    return path


def test_a_store_gives_items_back_as_they_were(store: Path) -> None:
    expected, opened = linked(), mx.open_store(store)
    for name in [*expected.attrs["features"], *expected.attrs["items"], "text"]:
        assert opened[name].variable.identical(expected[name].variable), name
    assert {name: opened.attrs[name] for name in expected.attrs} == expected.attrs
    assert mx.create_store(linked(), store) == store


@pytest.mark.parametrize("name", ["noun", "verb"])
def test_lost_items_are_an_error_and_mended_like_features(store: Path, name: str) -> None:
    before = mx.open_store(store)
    (store / name / "c" / "0").unlink()
    with pytest.raises(InputError, match="damaged"):
        mx.open_store(store)
    mx.create_store(linked(), store)
    xr.testing.assert_identical(mx.open_store(store), before)


def test_a_store_of_other_items_is_refused(store: Path, tmp_path: Path) -> None:
    other = mx.read_stimuli(TABLE, items="noun")
    with pytest.raises(InputError, match="other stimuli"):
        mx.create_store(other, store)
    path = mx.create_store(mx.read_stimuli(TABLE[["sentence", "tense"]]), tmp_path / "old.zarr")
    stimuli = mx.read_stimuli(TABLE[["sentence", "noun", "tense"]], items="noun")
    with pytest.raises(InputError, match=r"without items; expected stimuli.drop_vars\(\['noun'\]"):
        mx.create_store(stimuli, path)
    assert mx.create_store(stimuli.drop_vars(["noun"]), path) == path


def test_analyses_selections_and_results_leave_items_alone(store: Path) -> None:
    data = mx.open_store(store).sel(pooling=["mean"])
    whole = mx.concatenate_layers(data)
    some = data.isel(sentence=slice(0, 5))
    for part in (data, whole, some):
        profile = mx.multivariate_importance(part).compute()
        assert profile["feature"].values.tolist() == ["tense", "gender"]
        assert check_items(part) == ["noun", "verb"]
    assert some["noun"].equals(data["noun"][:5])
    saved = mx.save_results(mx.mds(data, init="classical"), progress=False)
    assert saved["noun"].variable.identical(data["noun"].variable)
    assert check_features(saved) == ["tense", "gender"]
    opened = mx.save_results(mx.multivariate_importance(data), progress=False)
    assert opened["feature"].values.tolist() == ["tense", "gender"]


def test_features_know_their_items() -> None:
    stimuli = linked()
    assert items_of_features(stimuli, ["tense", "gender"]) == {"gender": "noun"}
    assert items_of_features(stimuli, ["tense"]) == {}
    gone = stimuli.drop_vars("noun")
    assert items_of_features(gone, ["tense", "gender"]) == {}
    assert mx.read_stimuli(gone)["gender"].attrs == {}
    assert items_of_features(stimuli.isel(sentence=[0, 2, 4]), ["gender"]) == {"gender": "noun"}


def test_a_mapping_says_which_features_belong_to_items() -> None:
    stimuli = linked()
    features = ["tense", "gender"]
    assert items_of_features(stimuli, features, {}) == {}
    assert items_of_features(stimuli, features, {"gender": "verb"} | {"gender": "noun"}) == {
        "gender": "noun"
    }
    assert items_of_features(stimuli, ["tense"], {"gender": "noun"}) == {}
    # Another feature may stand for items.
    assert items_of_features(mx.read_stimuli(TABLE), ["gender"], {"gender": "noun"}) == {
        "gender": "noun"
    }


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["noun"], "items: found .*; expected a mapping of features to columns"),
        ("noun", "items: found 'noun'; expected a mapping"),
        ({"gendr": "noun"}, "items: feature: unknown value 'gendr'; known: 'tense', 'gender'"),
        ({3: "noun"}, "items: feature: unknown value 3"),
        ({"noun": "verb"}, "items: feature: unknown value 'noun'"),
        ({"gender": "nuon"}, "items: column of 'gender': .*'nuon'; known: 'noun', 'verb', 'tense'"),
        ({"gender": "text"}, "items: column of 'gender': unknown value 'text'"),
        ({"gender": "sentence"}, "items: column of 'gender': unknown value 'sentence'"),
        ({"gender": "gender"}, "items: column of 'gender': unknown value 'gender'"),
        ({"gender": None}, "items: column of 'gender': unknown value None"),
        (
            {"tense": "noun"},
            "items: 'tense' is not constant within the items of 'noun': 'she' has the levels "
            "'pres' and 'past'; expected one level for each item",
        ),
        ({"gender": "verb"}, "of 'verb': 1 has the levels 'f' and 'm'"),
    ],
)
def test_what_does_not_belong_to_items_is_refused(items: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        items_of_features(linked(), ["tense", "gender"], items)


def test_an_undefined_level_is_one_of_its_own_and_a_sentence_without_an_item_has_no_say() -> None:
    table = TABLE.assign(gender=["f", "f", "m", None, "f", "m"])
    stimuli = mx.read_stimuli(table, items=ITEMS)
    with pytest.raises(InputError, match="'he' has the levels 'm' and undefined"):
        items_of_features(stimuli, ["gender"], {"gender": "noun"})
    table = TABLE.assign(gender=["f", "f", "m", "m", "f", "m"])
    stimuli = mx.read_stimuli(table, items=ITEMS)
    assert items_of_features(stimuli, ["gender"], {"gender": "noun"}) == {"gender": "noun"}


def test_items_are_numbered_and_undefined_ones_are_not(stimuli: xr.Dataset) -> None:
    codes = item_codes(stimuli, "noun")
    assert codes.dtype == np.int32
    assert codes.tolist() == [0, 0, 1, 1, -1, -1]
    assert item_codes(stimuli.isel(sentence=[2, 0]), "noun").tolist() == [0, 1]


def said(stimuli: xr.Dataset, items: dict[str, str]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_undeclared_items(stimuli, check_features(stimuli), items)
    return [str(one.message) for one in caught]


def test_a_feature_that_seems_to_belong_to_items_is_warned_of(stimuli: xr.Dataset) -> None:
    assert said(stimuli, {}) == [
        "items: gender is constant within the items of 'noun'; if it belongs to them, write "
        'items={"gender": "noun"}'
    ]
    assert said(stimuli, {"gender": "noun"}) == []


@pytest.mark.parametrize(("nouns", "is_said"), [("aabc", True), ("aabcd", False)])
def test_half_of_the_sentences_have_to_share_their_item(nouns: str, is_said: bool) -> None:
    """With fewer, a feature is constant within items without meaning to."""
    table = pd.DataFrame(
        {
            "sentence": [f"s{i}" for i in range(len(nouns))],
            "noun": list(nouns),
            "gender": ["f" if noun == "a" else "m" for noun in nouns],
        }
    )
    assert bool(said(mx.read_stimuli(table, items="noun"), {})) == is_said


def test_one_warning_names_all_features_and_what_was_declared_before() -> None:
    table = TABLE.assign(zipf=[3, 3, 4, 4, 5, 5], animate=[True] * 4 + [False] * 2)
    stimuli = mx.read_stimuli(table, items=ITEMS)
    # Of two columns that fit, that with fewer items: 'animate' is constant within verbs.
    [message] = said(stimuli.drop_vars("verb").assign_coords(verb=stimuli["verb"]), {})
    assert message == (
        "items: gender, zipf are constant within the items of 'noun'; animate is constant within "
        "the items of 'verb'; if they belong to them, write "
        'items={"gender": "noun", "zipf": "noun", "animate": "verb"}'
    )
    [message] = said(stimuli, {"gender": "noun"})
    assert message.endswith('write items={"gender": "noun", "zipf": "noun", "animate": "verb"}')


@pytest.mark.parametrize(
    "change",
    [
        {"noun": list("abcdef")},
        {"noun": ["a", "a", "b", "c", "d", "e"], "gender": list("ffmfmf")},
        {"gender": ["f", "f", "m", "f", "f", "f"]},
        {"gender": ["f"] * 4 + [None] * 2},
        {"gender": ["f"] * 4 + ["m"] * 2},
    ],
    ids=[
        "as many items as sentences",
        "too few sentences share an item",
        "it varies within an item",
        "one level",
        "one level where there are items",
    ],
)
def test_what_says_nothing_is_not_warned_of(change: dict) -> None:
    assert (
        said(mx.read_stimuli(TABLE.drop(columns="verb").assign(**change), items="noun"), {}) == []
    )


def test_items_are_described(stimuli: xr.Dataset) -> None:
    description = mx.describe_stimuli(linked())
    assert description["item"].values.tolist() == ["noun", "verb"]
    found = {name: description[name].values.tolist() for name in ("n_items", "without_item")}
    assert found == {"n_items": [2, 2], "without_item": [2, 0]}
    assert description["smallest_item"].values.tolist() == [2, 2]
    assert description["largest_item"].values.tolist() == [2, 4]
    assert description["belongs_to"].values.tolist() == ["", "noun"]
    assert description["feature"].values.tolist() == ["tense", "gender"]
    text = description_text(description)
    rows = [line.split() for line in text.splitlines()]
    assert ["noun", "2", "2", "(2", "without)", "gender"] in rows
    assert ["verb", "2", "2", "to", "4"] in rows
    bare = mx.read_stimuli(TABLE[["sentence", "tense", "gender"]])
    assert "items " not in description_text(mx.describe_stimuli(bare))


def test_a_selection_may_have_no_item_left() -> None:
    rest = linked().isel(sentence=slice(4, None))
    description = mx.describe_stimuli(rest).sel(item="noun")
    found = [description[name].item() for name in ("n_items", "largest_item", "without_item")]
    assert found == [0, 0, 2]
    assert items_of_features(rest, ["tense", "gender"]) == {"gender": "noun"}
    assert said(rest, {}) == []


@pytest.fixture(scope="module", params=BUNDLED)
def bundled(request: pytest.FixtureRequest) -> xr.Dataset:
    return mx.read_stimuli(request.param)


def test_bundled_sets_have_the_lemmas_of_their_constituents(bundled: xr.Dataset) -> None:
    belongs = BUNDLED[bundled.attrs["stimuli"]]
    assert set(bundled.attrs["items"]) == set(belongs.values())
    assert items_of_features(bundled, bundled.attrs["features"]) == belongs
    lemmas = {word.children[0]: word.lemma for word in read_lexicon(GRAMMARS / "lexicon.csv")}
    said = [{lemmas.get(word) for word in text[:-1].split()} for text in bundled.text.values]
    for column in bundled.attrs["items"]:
        assert all(map(set.__contains__, said, bundled[column].values))
        assert len(np.unique(item_codes(bundled, column))) < bundled.sizes["sentence"] / 10


def test_features_that_vary_within_a_lemma_belong_to_none(bundled: xr.Dataset) -> None:
    belongs = BUNDLED[bundled.attrs["stimuli"]]
    for feature in set(bundled.attrs["features"]) - set(belongs):
        for column in bundled.attrs["items"]:
            with pytest.raises(InputError, match="is not constant within"):
                items_of_features(bundled, [feature], {feature: column})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_undeclared_items(bundled, bundled.attrs["features"], belongs)


GRAMMAR = """%lexicon own.csv
%item noun = subj.LEMMA
%column number = subj.NUM
%column gender of noun = subj.GEN
S -> 'the' N[ROLE=subj] 'left' '.'
"""
LEXICON = (
    "CLASS,WORD,LEMMA,NUM,GEN\nN,girl,girl,sg,f\nN,girls,girl,pl,f\nN,boy,,sg,m\nN,boys,boy,pl,m"
)


def generated(folder: Path, grammar: str = GRAMMAR) -> xr.Dataset:
    (folder / "own.csv").write_text(LEXICON)
    (folder / "own.fcfg").write_text(grammar)
    return mx.generate_stimuli(folder / "own.fcfg")


def test_a_grammar_declares_items_and_what_belongs_to_them(tmp_path: Path) -> None:
    stimuli = generated(tmp_path)
    assert stimuli.attrs["features"] == ["number", "gender"]
    assert stimuli.attrs["items"] == ["noun"]
    assert stimuli["noun"].values.tolist() == ["girl", "girl", "boy", "boy"]
    assert stimuli["gender"].attrs == {"item": "noun"} and stimuli["number"].attrs == {}


def test_a_grammar_may_take_another_column_for_items(tmp_path: Path) -> None:
    stimuli = generated(tmp_path, GRAMMAR.replace("%item", "%column"))
    assert stimuli.attrs["features"] == ["noun", "number", "gender"]
    assert "items" not in stimuli.attrs
    assert items_of_features(stimuli, ["number", "gender"]) == {"gender": "noun"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("of noun", "of nuon", "line 4: gender of: unknown value 'nuon'; known: 'noun', 'number'"),
        ("of noun", "of gender", "line 4: gender of: unknown value 'gender'"),
        ("number =", "number of noun =", "line 3: items: 'number' is not constant within .*'girl'"),
        ("%item noun =", "%item number =", "line 3: column 'number' is declared twice"),
        ("%item noun =", "%item noun of gender =", "line 2: %item .*; expected NAME = EXPRESSION"),
        ("%item noun = subj.LEMMA", "%item noun", "line 2: %item 'noun'; expected NAME"),
        ("subj.LEMMA", "obj.LEMMA", "line 2: no constituent has the role 'obj'"),
        ("subj.LEMMA", "subj.CASE", "line 2: feature 'CASE' is never set"),
        ("subj.LEMMA", "sentence.LEMMA", "line 2: column 'noun' is never set in any sentence"),
        ("of noun", "at noun", "line 4: %column .*; expected NAME = EXPRESSION"),
    ],
)
def test_mistakes_in_a_grammar_name_the_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        generated(tmp_path, GRAMMAR.replace(old, new))


def test_the_command_line_takes_items(tmp_path: Path, stimuli: xr.Dataset) -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(app(), [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.stdout

    TABLE.to_csv(tmp_path / "in.csv", index=False)
    options = ["--item", "noun", "--item", "verb"]
    path = tmp_path / "out.csv"
    found = run("stimuli", str(tmp_path / "in.csv"), *options, "-o", str(path), "--describe")
    assert "6 sentences, 2 features\nitems: noun, verb\n" in found
    assert f"wrote {path}; read it with --item noun --item verb\n" in found
    assert "2 (2 without)" in found
    again = mx.read_stimuli(path, items=ITEMS)
    assert again.attrs["stimuli_hash"] == stimuli.attrs["stimuli_hash"]


def test_the_command_line_records_items_and_says_so(tmp_path: Path) -> None:
    network = pytest.importorskip("networks").save_bert(tmp_path / "network")
    TABLE.to_csv(tmp_path / "in.csv", index=False)
    words = ["record", str(tmp_path / "in.csv"), "--item", "noun", "--item", "verb"]
    words += ["--model", str(network), "--store", str(tmp_path / "s.zarr")]
    result = CliRunner().invoke(app(), words)
    assert result.exit_code == 0, result.output
    assert mx.open_store(tmp_path / "s.zarr").attrs["items"] == ITEMS
    shown = CliRunner().invoke(app(), ["info", str(tmp_path / "s.zarr")]).stdout
    assert "6 sentences; tense, gender\nitems: noun, verb\n" in shown
    words = ["multivariate", str(tmp_path / "s.zarr"), "--item", "none", "--layer", "1"]
    result = CliRunner().invoke(app(), words)
    assert result.exit_code == 0, result.output
    opened = mx.open_results(tmp_path / "s.zarr", "multivariate_importance", items={})
    assert opened.attrs["settings"]["items"] == {}
