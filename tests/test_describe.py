"""The description of a stimulus set against plain counting."""

import itertools
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.linear_model import LinearRegression

from mlem_xr.schema import InputError
from mlem_xr.stimuli import generate_stimuli, read_stimuli
from mlem_xr.stimuli.describe import describe_stimuli, description_text

TABLE = pd.DataFrame(
    {
        "sentence": list("abcdefgh"),
        "lemma": ["dog", "cat", "she", "run", "dog", "cat", "she", "run"],
        "class": ["n", "n", "p", None, "n", "n", "p", None],
        "gender": ["m", "m", "f", "f", "m", "m", "f", "f"],
        "long": [True, False, False, True, False, True, True, False],
        "same": [1, 1, 1, 1, 1, 1, 1, 1],
    }
)
FEATURES = ["lemma", "class", "gender", "long", "same"]


@pytest.fixture
def description() -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return describe_stimuli(read_stimuli(TABLE))


def plain_distances() -> np.ndarray:
    rows = TABLE[FEATURES].to_dict("records")
    return np.array(
        [
            [not pd.isna(a[f]) and not pd.isna(b[f]) and a[f] != b[f] for f in FEATURES]
            for a, b in itertools.combinations(rows, 2)
        ],
        dtype=float,
    )


def test_sizes_levels_and_counts(description: xr.Dataset) -> None:
    assert int(description.n_sentences) == 8
    assert int(description.n_pairs) == 28
    assert int(description.n_patterns) == len(np.unique(plain_distances(), axis=0))
    assert description.undefined.values.tolist() == [0, 2, 0, 0, 0]
    for name in FEATURES:
        feature = description.sel(feature=name)
        counted = dict(zip(feature.level.values, feature.level_count.values, strict=True))
        expected = TABLE[name].value_counts().to_dict()
        assert {level: n for level, n in counted.items() if n} == expected


def test_pairs_that_differ_and_correlation(description: xr.Dataset) -> None:
    distances = plain_distances()
    np.testing.assert_array_equal(description.differing_pairs, distances.sum(axis=0))
    # "same" never differs, so its correlation does not exist.
    expected = np.full((5, 5), np.nan)
    expected[:4, :4] = np.corrcoef(distances[:, :4].T)
    np.testing.assert_allclose(description.correlation, expected, atol=1e-12)


def test_constant_and_confounded(description: xr.Dataset) -> None:
    assert description.constant.values.tolist() == [False, False, False, False, True]
    determines = {
        (one, other)
        for one in FEATURES
        for other in FEATURES
        if bool(description.determines.sel(feature=one, other_feature=other))
    }
    # Undefined is a class of its own: "class" tells the gender of verbs too.
    assert determines == {("lemma", "class"), ("lemma", "gender"), ("class", "gender")}


def test_explained_share_equals_a_regression(description: xr.Dataset) -> None:
    distances = plain_distances()[:, :4]
    for k, name in enumerate(FEATURES[:4]):
        others = np.delete(distances, k, axis=1)
        expected = LinearRegression().fit(others, distances[:, k]).score(others, distances[:, k])
        assert float(description.explained.sel(feature=name)) == pytest.approx(expected)
    assert np.isnan(description.explained.sel(feature="same"))


def test_levels_within_which_a_feature_varies(description: xr.Dataset) -> None:
    for one, other in itertools.permutations(FEATURES, 2):
        groups = TABLE.groupby(other, dropna=False)[one]
        expected = sum(column.nunique() > 1 for _, column in groups)
        assert int(description.varies_within.sel(feature=one, other_feature=other)) == expected
    assert description.n_levels.values.tolist() == [4, 3, 2, 2, 1]


def test_what_can_hardly_be_told_is_warned_of() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.integers(0, 2, (60, 3)), columns=["a", "b", "copy"]).astype(str)
    table["sentence"], table["both"] = [f"s {i}" for i in range(60)], table["a"] + table["b"]
    table["copy"], table["rare"] = table["a"], [None] * 56 + ["x", "y", "x", "y"]
    with pytest.warns(UserWarning) as log:
        text = description_text(describe_stimuli(read_stimuli(table)))
    messages = "\n".join(str(one.message) for one in log)
    assert (
        "nearly all of the distances of a (100%), copy (100%); leave some of them out" in messages
    )
    assert "few pairs of sentences differ in rare (0.23%); analyze the sentences" in messages
    assert "explained above 90% by the others together:\n  a (100%)\n  copy (100%)\n" in text
    assert "differs in less than 2% of the pairs:\n  rare (0.23%)\n" in text
    assert "minority of the levels of another feature:\n  a: 0 of 4 levels of both\n" in text


def test_a_feature_is_nested_in_the_one_within_whose_levels_it_varies_least() -> None:
    i = np.arange(24)
    table = pd.DataFrame({"sentence": [f"s {k}" for k in i], "four": i % 4, "six": i // 4})
    table["nested"] = np.where((i < 4) & (i % 2 == 1), "x", "y")
    table = table.astype(str)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        text = description_text(describe_stimuli(read_stimuli(table)))
    assert text.endswith("nested: 1 of 6 levels of six")


def test_correlations_are_warned_of() -> None:
    with pytest.warns(
        UserWarning, match=r"correlate above 0.5: class and gender \(0\.\d\d\)"
    ) as log:
        describe_stimuli(read_stimuli(TABLE))
    message = str(log[0].message)
    correlation = np.corrcoef(plain_distances()[:, :4].T)
    named = {
        (one, other)
        for (i, one), (j, other) in itertools.combinations(enumerate(FEATURES[:4]), 2)
        if f"{one} and {other}" in message
    }
    assert named == {
        (FEATURES[i], FEATURES[j])
        for i, j in itertools.combinations(range(4), 2)
        if abs(correlation[i, j]) > 0.5
    }


def test_negative_correlation_is_warned_of() -> None:
    table = pd.DataFrame({"sentence": list("abcd"), "a": list("xxyy"), "b": ["p", "q", None, None]})
    with pytest.warns(UserWarning, match=r"a and b \(-0.63\)"):
        describe_stimuli(read_stimuli(table))


def test_bundled_set_is_balanced() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        description = describe_stimuli(generate_stimuli("short_sentence"))
    assert int(description.n_patterns) == 256
    assert not description.constant.any() and not description.determines.any()
    apart = description.correlation.values[~np.eye(9, dtype=bool)]
    assert abs(apart).max() < 0.5


def test_text(description: xr.Dataset) -> None:
    text = description_text(description)
    assert text.splitlines()[0] == (
        f"stimuli: 8 sentences, 5 features, 28 pairs, {int(description.n_patterns)} "
        "covariate patterns"
    )
    assert "\nclass            2            8 (29%)  n: 4, p: 2\n" in text
    assert "  class and gender (0." in text
    assert "constant:\n  same" in text
    assert "  class by lemma\n  gender by lemma, class" in text


def test_text_of_many_levels() -> None:
    table = pd.DataFrame({"sentence": list("abcdefghijk"), "word": range(11)})
    text = description_text(describe_stimuli(read_stimuli(table)))
    assert "6: 1, 7: 1, 3 more" in text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([10, 9.5, 10, -1], [-1, 9.5, 10]),
        (["b", "c", "a", "b"], ["a", "b", "c"]),
        ([True, False, True, None], [False, True, None]),
    ],
)
def test_levels_are_sorted(values: list, expected: list) -> None:
    table = pd.DataFrame({"sentence": list("abcd"), "other": list("wxyz"), "f": values})
    level = describe_stimuli(read_stimuli(table)).level.sel(feature="f")
    assert level.values.tolist()[: len(expected)] == expected


def test_no_feature() -> None:
    with pytest.raises(InputError, match="^features: none found"):
        describe_stimuli(xr.Dataset(coords={"text": ("sentence", list("abcd"))}))


def test_dimensions_and_dtypes_are_those_documented(description: xr.Dataset) -> None:
    lines = re.findall(r"- ((?:`\w+`(?:, )?)+) \(([\w ,]+)\) (\w+)", describe_stimuli.__doc__ or "")
    found = {
        name: (() if dims == "no dimension" else tuple(dims.split(", ")), dtype)
        for names, dims, dtype in lines
        for name in re.findall(r"\w+", names)
    }
    assert found == {
        name: (variable.dims, str(variable.dtype)) for name, variable in description.items()
    }
