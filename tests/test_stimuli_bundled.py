"""The bundled stimulus sets: three equal those of the original program, one is as documented."""

import hashlib
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from mlem_xr.stimuli import describe_stimuli, generate_stimuli
from mlem_xr.stimuli.grammar import GRAMMARS
from mlem_xr.stimuli.lexicon import read_lexicon, zipf_frequency


def csv_lines(stimuli: xr.Dataset) -> list[str]:
    """One line per sentence: text and features joined by commas, nothing where undefined."""
    columns = [stimuli["text"].values, *(stimuli[name].values for name in stimuli.features)]
    return [
        ",".join("" if pd.isna(value) else str(value) for value in row)
        for row in zip(*columns, strict=True)
    ]


def sha256(lines: list[str]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


COLUMNS = {
    "short_sentence": "sentence_GROUP,subj_TYPE,subj_ANIM,subj_GEN,subj_NUM,subj_PERS,subj_ZIPF,"
    "sentence_TENSE,verb_ZIPF",
    "relative_clause": "sentence_CLAUSE,sentence_RC_attached,subj_NUM,subj_GEN,subj_ZIPF,obj_NUM,"
    "obj_GEN,obj_ZIPF,embed_NUM,embed_GEN,embed_ZIPF,intervener_NUM,intervener_GEN,verb_ZIPF",
    "long_range_agreement": "prep_LEMMA,sentence_PP_attached,subj_NUM,subj_GEN,subj_ZIPF,obj_NUM,"
    "obj_GEN,obj_ZIPF,embedobj_NUM,embedobj_GEN,embedobj_ZIPF,intervener_NUM,intervener_GEN,"
    "verb_LEMMA",
}

ROWS = {
    "short_sentence": [
        "Mary plays.,sv,PropN,True,f,sg,3,4.5,pres,4.5",
        "the women sang.,sv,N,True,f,pl,3,5.0,past,3.5",
        "you fell.,sv,PRO,True,,,2,6.5,past,4.5",
        "it vanishes.,sv,PRO,False,,sg,3,6.5,pres,3.0",
        "who sneezes?,question,PRO,True,,,3,6.0,pres,2.5",
        "which pencils vanished?,question,N,False,,pl,3,3.5,past,3.0",
    ],
    "relative_clause": [
        "the woman sees the princess who admires the actress.,"
        "subjwho,peripheral,sg,f,5.0,sg,f,4.5,sg,f,4.0,False,False,4.5",
        "the princes who the actresses see admire the princess.,"
        "objwho,center_embedding,pl,m,4.5,sg,f,4.5,pl,f,4.0,False,True,2.5",
    ],
    "long_range_agreement": [
        "the woman admires the princess behind the actress.,"
        "behind,peripheral,sg,f,5.0,sg,f,4.5,sg,f,4.0,False,False,admires",
        "the actresses near the actor see the princesses.,"
        "near,center_embedding,pl,f,4.0,pl,f,4.5,sg,m,4.5,True,True,sees",
    ],
}

# Of the original program's tables as CSV without the header: of all lines in their order for
# short_sentence, of the sorted lines for the others, whose order is not the original's.
HASHES = {
    "short_sentence": "8ec8684206a2ec32d9ec677573b5b03732cfe723e43fdd3cf50bf007f067e263",
    "relative_clause": "d340efe1b5a194659b9de2bf0cff924f565ae4b6c9d22fecf8475283bf299c9b",
    "long_range_agreement": "c694658f905c16450b6cd1ab45cf457c24957d1e1ca7840d4c06424434a5b7e4",
}


@pytest.mark.parametrize("name", HASHES)
def test_bundled_sets_equal_the_original(name: str) -> None:
    stimuli = generate_stimuli(name)
    assert ",".join(stimuli.attrs["features"]) == COLUMNS[name]
    lines = csv_lines(stimuli)
    assert set(ROWS[name]) <= set(lines)
    assert sha256(lines if name == "short_sentence" else sorted(lines)) == HASHES[name]
    assert stimuli.attrs["stimuli"] == name


def test_bundled_dtypes() -> None:
    stimuli = generate_stimuli("short_sentence")
    dtypes = [str(stimuli[name].dtype) for name in stimuli.attrs["features"]]
    expected = ["object", "object", "bool", "object", "object", "int64", "float64", "object"]
    assert dtypes == [*expected, "float64"]


@pytest.mark.parametrize("name", ["relative_clause", "long_range_agreement"])
def test_no_lemma_twice_and_interveners(name: str) -> None:
    stimuli = generate_stimuli(name)
    lemma = {word.children[0]: word.lemma for word in read_lexicon(GRAMMARS / "lexicon.csv")}
    for text in stimuli.text.values:
        lemmas = [lemma[word] for word in text.rstrip(".").split() if word in lemma]
        assert len(set(lemmas)) == len(lemmas) >= 4 or "who" in text
    embedded = "embed" if name == "relative_clause" else "embedobj"
    attached = stimuli[stimuli.attrs["features"][1]].values
    for feature in ("NUM", "GEN"):
        differ = stimuli[f"subj_{feature}"].values != stimuli[f"{embedded}_{feature}"].values
        between = attached == "center_embedding"
        np.testing.assert_array_equal(stimuli[f"intervener_{feature}"].values, differ & between)


def test_bundled_frequencies_are_those_of_wordfreq() -> None:
    words = read_lexicon(GRAMMARS / "lexicon.csv")
    assert len(words) > 50
    for word in words:
        assert word.category.features["ZIPF"] == zipf_frequency(str(word.lemma)), word.where


def test_bundled_sets_need_no_wordfreq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    assert generate_stimuli("short_sentence").sizes["sentence"] == 522


LARGE = (
    "sentence_GROUP,subj_type,subj_PERS,subj_NUM,subj_GEN,subj_ANIM,verb_type,verb_PERS,verb_NUM,"
    "verb_finite,has_main,has_embed,has_objrel,has_relative_clause,has_subjrel,"
    "incongruence_poss_subj_count,incongruence_poss_obj_count,incongruence_subj_obj_count,"
    "incongruence_subj_embedsubj_count,rel_type,clause_type,bound_variable,mean_zipf,"
    "sentence_length,long_range_agreement_with_attractor"
)


@pytest.fixture(scope="module")
def large() -> xr.Dataset:
    return generate_stimuli("large")


def test_large_has_as_many_sentences_of_each_kind(large: xr.Dataset) -> None:
    assert ",".join(large.features) == LARGE and len(large.features) == 25
    numeric = [name for name in large.features if large[name].attrs.get("kind") == "numeric"]
    assert [name for name in numeric if "incongruence" not in name] == [
        "mean_zipf",
        "sentence_length",
    ]
    assert len(numeric) == 6
    assert large.attrs["items"] == ["subj_LEMMA", "verb_LEMMA", "obj_LEMMA"]
    counts = pd.Series(large.sentence_GROUP.values).value_counts()
    assert counts.to_dict() == dict.fromkeys(
        ["simple", "transitive", "reflexive", "possessive", "relative", "embedded", "agreement"],
        300,
    )
    assert len(set(large.text.values)) == 2100
    # The sentences are part of what results are found by.
    assert large.attrs["stimuli_hash"] == "ae99eb54db85380727d4a50cc6520154"


# Checked by hand.
LARGE_ROWS = [
    "he remembered who Lori admires.,embedded,PRO,3,sg,m,True,Matrix,,,True,"
    "False,True,False,False,False,,,,1.0,,objwho,,4.5,5.0,",
    "few princes saw your plate.,possessive,quantified,3,pl,m,True,Trans,,,True,"
    "False,False,False,False,False,1.0,2.0,2.0,,,,False,4.5,5.0,",
    "every man admired him.,transitive,quantified,3,sg,m,True,Trans,,,True,"
    "False,False,False,False,False,,,0.0,,,,False,4.5,4.0,",
    "every prince will know who sees the books.,embedded,quantified,3,sg,m,True,Matrix,,,False,"
    "False,True,False,False,False,,,,0.0,,subjwho,,5.0,8.0,",
    "the pencils which John sees fell.,agreement,N,3,pl,,False,Intrans,,,True,"
    "False,False,True,True,False,,,,2.0,which,,,4.5,6.0,True",
    "which actresses who admire the pencil see no prince?,agreement,which,3,pl,f,True,Trans,3.0,pl,"
    "True,True,False,False,True,True,,,2.0,,who,subjwhich,,4.0,9.0,True",
]


def test_rows_of_large(large: xr.Dataset) -> None:
    assert set(LARGE_ROWS) <= set(csv_lines(large))


def test_large_says_of_its_sentences_what_their_words_say(large: xr.Dataset) -> None:
    table = large.to_dataframe()
    words = table["text"].str.findall("[A-Za-z]+")
    assert (table["sentence_length"] == words.str.len()).all()
    assert (table["has_main"] == table["text"].str.endswith("?")).all()
    helped = words.map({"will", "does", "do", "did"}.intersection).astype(bool)
    assert (table["verb_finite"] != helped).all()
    assert (table["has_relative_clause"] == (table["has_subjrel"] | table["has_objrel"])).all()
    assert (table["rel_type"].notna() == table["has_relative_clause"]).all()
    assert (table["clause_type"].notna() == (table["has_main"] | table["has_embed"])).all()
    agree = table[["subj_NUM", "verb_NUM"]].dropna()
    assert (agree["subj_NUM"] == agree["verb_NUM"]).all() and len(agree) > 400
    # Person, number and gender of a reflexive are those of the subject.
    assert not table.loc[
        table["sentence_GROUP"] == "reflexive", "incongruence_subj_obj_count"
    ].any()


def test_no_feature_of_large_is_another_one(large: xr.Dataset) -> None:
    with pytest.warns(UserWarning) as log:
        description = describe_stimuli(large)
    messages = [str(one.message) for one in log]
    assert len(messages) == 2
    assert "correlate above 0.5: has_relative_clause and has_subjrel (0.68), " in messages[0]
    assert "few pairs of sentences differ in verb_PERS (1.2%), " in messages[1]
    assert "bound_variable" in messages[1]
    assert not description.constant.any() and float(description.explained.max()) < 0.9
    assert np.abs(np.triu(description.correlation, 1)).max() < 0.7
    names = description["feature"].values
    determines = names[np.argwhere(description.determines.values)]
    assert determines.tolist() == [["rel_type", "has_relative_clause"]]


def test_fewer_sentences_of_large() -> None:
    few = generate_stimuli("large", n_sentences=70, random_state=3)
    assert pd.Series(few.sentence_GROUP.values).value_counts().tolist() == [10] * 7
