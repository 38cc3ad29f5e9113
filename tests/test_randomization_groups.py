"""Groups in the randomization test: against a slow plain loop, their draws, size and power."""

from itertools import chain, combinations
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import mlem_xr as mx
import plain
from helpers import layers, save, write
from mlem_xr.cli import app
from mlem_xr.kernels.features import features_of
from mlem_xr.kernels.randomization import randomization_design, randomize
from mlem_xr.kernels.together import draw_together, together
from mlem_xr.schema import InputError

N = 24
N_DRAWS = 9
GROUPS = {
    **{"levels": [0, 1], "mixed": [1, 3, 4], "numbers": [3, 4], "one": [0], "number": [3]},
    # Of nouns and of sentences, where there are nouns.
    "both": [0, 1, 2],
}
"""Of the features below."""


def members_of(groups, n_features=5):
    return np.array([np.isin(np.arange(n_features), own) for own in groups])


def options(**changed):
    usual = {"per": "unit", "distance": "euclidean", "target": "square", "zscore": False}
    return SimpleNamespace(**(usual | {"n_draws": N_DRAWS, "random_state": 3} | changed))


@pytest.fixture(scope="module")
def simulated():
    """Features 0 to 2 have levels, 3 is a number, 4 a point; 0, 1 and 3 have undefined values."""
    rng = np.random.default_rng(5)
    noun = np.arange(N) % 12
    levels = np.column_stack([rng.integers(-1, 3, 12), rng.integers(-1, 2, 12)])[noun]
    levels = np.column_stack([levels, rng.integers(0, 2, N)])
    number = np.where(np.arange(12) == 5, np.nan, np.arange(12))
    position = np.column_stack([number, *rng.normal(size=(2, 12))])[noun] / 20
    numbers = np.column_stack([np.where(noun == 5, -1, noun), noun])
    codes = np.column_stack([levels, numbers]).astype(np.int32)
    activation = rng.normal(size=(N, 3)) + 0.7 * codes[:, [1]] + [0, 9, 0] * position[:, [1]]
    items = np.repeat(np.arange(N, dtype=np.int32)[:, np.newaxis], 5, axis=1)
    return activation, codes, position, items, np.where(np.arange(5) == 2, items, noun[:, None])


def known(codes, position, squared=False):
    return features_of(codes, position, np.array([3, 4, 4]), squared=squared)


def drawn_features(features, group, drawn, b):
    """The features with those of a group as they are in a draw, row b."""
    codes, position = features.codes.copy(), features.position.copy()
    for k, own in zip(group.features, drawn.members, strict=True):
        there = own.items.number >= 0
        value = own.value[b, own.items.number[there]]
        if own.items.are_measured:
            position[np.ix_(there, features.axis_of == k)] = value
        else:
            codes[there, k] = value
    return features_of(codes, position, features.axis_of, squared=features.squared)


def plain_statistic(x, y, members):
    """Try all subsets of the members whose weights in an ordinary regression are not negative."""
    beside = np.column_stack([np.delete(x, members, axis=1), np.ones(len(y))])
    left = [v - beside @ np.linalg.lstsq(beside, v, rcond=None)[0] for v in (x[:, members], y)]
    subsets = chain.from_iterable(
        combinations(range(len(members)), size) for size in range(1, 1 + len(members))
    )
    found = []
    for subset in subsets:
        own = left[0][:, list(subset)]
        weight = np.linalg.lstsq(own, left[1], rcond=None)[0]
        if len(subset) == 1 or (weight >= 0).all():
            sign = weight[0] if len(subset) == 1 else 1
            found.append(np.sign(sign) * np.linalg.norm(own @ weight))
    r = max(found) / np.linalg.norm(left[1])
    rank = np.linalg.matrix_rank(np.column_stack([x, np.ones(len(y))]))
    return r * np.sqrt((len(y) - rank) / (1 - r**2))


CASES = [{}, {"target": "none"}, {"per": "layer"}, {"per": "layer", "distance": "cosine"}]


@pytest.mark.parametrize("by_items", [False, True], ids=["sentences", "items"])
@pytest.mark.parametrize("squared", [False, True], ids=["linear", "squared"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_statistics_and_p_values_are_those_of_the_plain_loop(simulated, case, squared, by_items):
    activation, codes, position, sentences, nouns = simulated
    features, items = known(codes, position, squared), nouns if by_items else sentences
    own, groups = options(**case), members_of(GROUPS.values())
    found = randomize(activation, features, items, own, groups)
    design = randomization_design(features, items, N_DRAWS, own.random_state, groups)
    targets = [activation] if own.per == "layer" else list(activation.T[..., np.newaxis])
    first, second = np.triu_indices(N, 1)
    t = np.empty((len(targets), len(GROUPS), 1 + N_DRAWS))
    for g, (group, members) in enumerate(zip(design.groups, GROUPS.values(), strict=True)):
        drawn = design.drawn_together(g)
        for b in range(1 + N_DRAWS):
            x = drawn_features(features, group, drawn, b).distances(first, second)
            for u, unit in enumerate(targets):
                y = plain.target(unit, own.distance, min_max=False, zscore=False)
                t[u, g, b] = plain_statistic(
                    x, y if own.target == "square" else np.sqrt(y), members
                )
    p = (t >= t[..., :1] - 1e-9).mean(axis=2)
    compared, over = t, 0
    if own.per == "layer":
        compared = (t - t.mean(axis=2, keepdims=True)) / t.std(axis=2, keepdims=True)
        over = 1
    largest = compared.max(axis=over, keepdims=True)
    family = (1 + (largest[..., 1:] >= compared[..., :1] - 1e-9).sum(axis=2)) / (1 + N_DRAWS)
    at = slice(None) if own.per == "unit" else 0
    of_groups = {name: values[..., 5:] for name, values in found.items()}
    np.testing.assert_allclose(of_groups["statistic"], t[at, :, 0], rtol=1e-6)
    np.testing.assert_allclose(of_groups["p_value"], p[at])
    np.testing.assert_allclose(of_groups["p_value_max"], np.maximum(p, family)[at])


@pytest.mark.parametrize("per", ["layer", "unit"])
def test_a_group_of_one_feature_is_that_feature_and_changes_no_other(simulated, per):
    activation, codes, position, _, items = simulated
    features = known(codes, position)
    found = randomize(activation, features, items, options(per=per), members_of([[0], [3], [4]]))
    alone = randomize(activation, features, items, options(per=per))
    for name in found:
        np.testing.assert_array_equal(found[name][..., :5], alone[name])
    for name in ("statistic", "p_value"):
        np.testing.assert_allclose(found[name][..., 5:], alone[name][..., [0, 3, 4]], rtol=1e-9)


def test_more_draws_begin_with_the_same_and_what_is_undefined_stays_so(simulated):
    _, codes, position, _, items = simulated
    for members in GROUPS.values():
        group = together(known(codes, position), items, members)
        many, few = draw_together(group, 30, 1), draw_together(group, 10, 1)
        for k, own, start in zip(members, many, few, strict=True):
            np.testing.assert_array_equal(own[:10], start)
            assert len(own[0]) == len(np.unique(items[codes[:, k] >= 0, k]))
            assert np.isfinite(own).all() and (own != own[0]).any()
            assert (own >= 0).all() or k > 2


def test_levels_and_numbers_of_a_group_keep_what_they_have_in_common():
    """Given the feature outside, two features agree in 90 %, and a number follows the second."""
    rng = np.random.default_rng(0)
    n = 400
    beside = rng.integers(0, 2, n)
    first = np.where(rng.random(n) < 0.7, beside, 1 - beside)
    second = np.where(rng.random(n) < 0.9, first, 1 - first)
    number = second + rng.normal(size=n) / 4
    codes = np.column_stack([first, second, np.arange(n), beside]).astype(np.int32)
    features = features_of(codes, number[:, np.newaxis], np.array([2]))
    items = np.repeat(np.arange(n)[:, np.newaxis], 4, axis=1)
    a, b, z = draw_together(together(features, items, [0, 1, 2]), 200, 0)
    assert (a == b).mean() == pytest.approx((first == second).mean(), abs=0.01)
    assert (a == beside).mean() == pytest.approx((first == beside).mean(), abs=0.01)
    apart = z[..., 0][b == 1].mean() - z[..., 0][b == 0].mean()
    assert apart == pytest.approx(number[second == 1].mean() - number[second == 0].mean(), abs=0.02)
    assert (b != second).mean() == pytest.approx(0.45, abs=0.1)


def test_features_of_other_items_are_drawn_given_those_before():
    """A feature of nouns follows one outside in 80 %; one of sentences follows that in 90 %."""
    rng = np.random.default_rng(2)
    noun = np.arange(600) % 60
    beside = np.arange(60)[noun] % 2
    gender = np.where(rng.random(60) < 0.8, np.arange(60) % 2, 1 - np.arange(60) % 2)[noun]
    number = np.where(rng.random(600) < 0.9, gender, 1 - gender)
    undefined = np.where(noun == 7, -1, gender)
    codes = np.column_stack([number, undefined, beside]).astype(np.int32)
    items = np.column_stack([np.arange(600), noun, noun])
    group = together(features_of(codes), items, [0, 1])
    assert [part.features for part in group.parts] == [(1,), (0,)]
    of_sentence, of_noun = draw_together(group, 300, 0)
    there = undefined >= 0
    own = of_noun[:, group.members[1].number[there]]
    # The penalty of the regression counts with 59 nouns.
    assert (own == beside[there]).mean() == pytest.approx(
        (gender == beside)[there].mean(), abs=0.06
    )
    found = (of_sentence[:, there] == own).mean()
    assert found == pytest.approx((number == gender)[there].mean(), abs=0.01)
    # Given the noun's, nothing is left to the feature outside.
    apart = own != beside[there]
    assert (of_sentence[:, there] == own)[apart].mean() == pytest.approx(found, abs=0.04)


def test_what_is_outside_determines_stays_as_it_is():
    rng = np.random.default_rng(1)
    beside, free = rng.integers(0, 2, (2, 60))
    codes = np.column_stack([1 - beside, free, beside]).astype(np.int32)
    items = np.repeat(np.arange(60)[:, np.newaxis], 3, axis=1)
    group = together(features_of(codes), items, [0, 1])
    determined, drawn = draw_together(group, 20, 0)
    assert not group.is_determined and (determined == 1 - beside).all()
    assert (drawn != free).mean() > 0.3
    assert together(features_of(codes), items, [0]).is_determined


def rate_of(strength, n_sets=60, n_draws=99, n_nouns=80):
    """How often a group is significant at 5 %: correlated with an encoded feature, 3 units.

    Of the group, one feature is the nouns' own, as is the one beside, and one the sentences'.
    """
    found = []
    noun = np.arange(80) % n_nouns
    for seed in range(n_sets):
        rng = np.random.default_rng(seed)
        beside = rng.integers(0, 2, 80)[noun]
        first = np.where(rng.random(80) < 0.6, beside, rng.integers(0, 2, 80))[noun]
        second = np.where(rng.random(80) < 0.6, first, rng.integers(0, 2, 80))
        codes = np.column_stack([first, second, beside]).astype(np.int32)
        units = rng.normal(size=(80, 3)) + beside[:, np.newaxis]
        units += strength * second[:, np.newaxis]
        items = np.column_stack([noun, np.arange(80), noun])
        own = options(n_draws=n_draws, random_state=seed)
        result = randomize(units, features_of(codes), items, own, members_of([[0, 1]], 3))
        found.append(result["p_value"][:, 3])
    return np.mean(np.array(found) <= 0.05)


@pytest.mark.parametrize("n_nouns", [80, 20])
def test_size_is_nominal_and_effects_are_found(n_nouns):
    assert rate_of(0.0, n_nouns=n_nouns) < 0.09
    assert rate_of(1.5, n_sets=10, n_nouns=n_nouns) > 0.8


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    noun = np.arange(30) % 10
    own = {"number": rng.integers(0, 2, 30), "gender": noun % 2, "animate": noun // 5}
    own["tense"] = rng.integers(0, 2, 30)
    units = rng.normal(size=(30, 3)) + 2 * own["gender"][:, np.newaxis]
    coords = {name: ("sentence", values) for name, values in (own | {"noun": noun}).items()}
    return xr.Dataset({"activation": (("sentence", "unit"), units)}, coords=coords)


FEATURES = ["number", "gender", "animate", "tense"]
OWN = {"features": FEATURES, "items": {"gender": "noun", "animate": "noun"}, "n_draws": 19}


def test_groups_are_labels_beside_the_features(data):
    groups = {"noun": ["gender", "animate"], "verb": ["tense", "number"]}
    groups["subject"] = ["number", "gender"]
    for per in ("layer", "unit"):
        found = mx.randomization_test(data, per=per, groups=groups, **OWN)
        assert found["feature"].values.tolist() == [*FEATURES, *groups]
        alone = mx.randomization_test(data, per=per, **OWN)
        xr.testing.assert_equal(found.sel(feature=FEATURES), alone)
        lazy = mx.randomization_test(data.chunk(), per=per, groups=groups, **OWN)
        xr.testing.assert_allclose(lazy.compute(), found)


def test_groups_that_cannot_be_drawn_are_refused_or_named(data):
    for groups, message in {
        "subject": "groups: found .subject.; expected a mapping of names to features",
        (("noun", ("gender", "voice")),): "groups: 'noun': unknown value 'voice'",
        (("gender", ("tense",)),): "groups: 'gender' is a feature; expected another name",
    }.items():
        with pytest.raises(InputError, match=message):
            mx.randomization_test(data, groups=groups, **OWN)
    measured = data.assign_coords(length=("sentence", np.arange(30.0), {"kind": "numeric"}))
    message = (
        "groups: 'g' has 'gender' \\(of 'noun'\\) and 'length' \\(of sentences\\), and 'length'"
    )
    with pytest.raises(InputError, match=message):
        mx.randomization_test(
            measured,
            **(OWN | {"features": [*FEATURES, "length"]}),
            groups={"g": ["gender", "length"]},
        )
    table = xr.DataArray(np.ones((1, 30, 30)) - np.eye(30), dims=("feature", "sentence", "other"))
    given = data.assign(feature_distance=table.rename(other="other_sentence"))
    given = given.assign_coords(feature=["edits"])
    with pytest.raises(InputError, match="^groups: 'g' has 'edits', whose distances are given"):
        mx.randomization_test(
            given, features=["tense", "edits"], groups={"g": ["tense", "edits"]}, n_draws=9
        )
    copied = data.assign_coords(copy=data["tense"], other=1 - data["tense"])
    with pytest.warns(UserWarning) as caught:
        found = mx.randomization_test(
            copied,
            **{"features": ["tense", "copy", "other", "number"], "n_draws": 9, "items": {}},
            groups={"copies": ["tense", "copy"], "any": ["other", "number"], "whole": FEATURES[:1]},
        )
    assert str(caught[-1].message).startswith("groups: the other features determine copies, or")
    assert found["p_value"].sel(feature="copies") == 1
    # Of the other two, one has nothing of its own.
    statistic = found["statistic"].sel(feature=["any", "number"]).values
    assert statistic[0] == pytest.approx(statistic[1])
    assert found["p_value"].sel(feature="any") < 1


def test_groups_are_saved_opened_and_on_the_command_line(stimuli, tmp_path):
    path = mx.create_store(stimuli, tmp_path / "groups.zarr", pooling=["first-token", "mean"])
    write(path, layers(0))
    own = {"groups": {"agreement": ["number", "gender"]}, "n_draws": 9}
    result = mx.randomization_test(mx.open_store(path), **own)
    assert save(result)["computed"] == 6
    assert save(result) == {"skipped": 6}
    opened = mx.open_results(path, "randomization_test", **own)
    xr.testing.assert_allclose(
        opened["p_value"].drop_vars("computed_from").compute(), result["p_value"].compute()
    )
    words = ["test", str(path), "--draws", "9", "--group", "agreement=number,gender"]
    file = tmp_path / "p.csv"
    ran = CliRunner().invoke(app(), [*words, "-o", str(file)])
    assert ran.exit_code == 0, ran.output
    assert ",agreement," in file.read_text()
