"""The bundled stimulus sets equal those of the original program."""

import hashlib
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from mlem_xr.stimuli import generate_stimuli
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
