"""The randomization test: against a slow plain loop, its draws, its size, and as an analysis."""

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import dask
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import mlem_xr as mx
import plain
from helpers import layers, lazy, refuse, save, write
from mlem_xr.cli import app
from mlem_xr.kernels import draws, randomization
from mlem_xr.kernels.draws import Items, conditional_distribution, draw, is_determined, items_of
from mlem_xr.kernels.features import features_of
from mlem_xr.kernels.randomization import randomization_design, randomize
from mlem_xr.schema import InputError

sys.path.append(str(Path(__file__).parent / "benchmarks"))

from sizes import Setting, p_values, rate  # noqa: E402

WHERE = {"model": 0, "seed": 1, "step": 0, "pooling": 1, "layer": 2}
N_DRAWS = 39


def one_by_one(n, n_features):
    """Every sentence is an item of its own."""
    return np.repeat(np.arange(n, dtype=np.int32)[:, np.newaxis], n_features, axis=1)


def options(**changed):
    usual = {"per": "unit", "distance": "euclidean", "target": "square", "zscore": False}
    return SimpleNamespace(**(usual | {"n_draws": N_DRAWS, "random_state": 3} | changed))


def drawn_codes(design, k):
    """Codes of a feature as they are, then of every draw: (1 + draw, sentence)."""
    own = design.drawn(k)
    return np.where(own.items.number >= 0, own.value[:, own.items.number], -1)


def plain_t(x, y, k):
    """The t of a column in an ordinary regression with intercept."""
    design = np.column_stack([x, np.ones(len(y))])
    coefficient = np.linalg.lstsq(design, y, rcond=None)[0]
    residual = y - design @ coefficient
    rank = np.linalg.matrix_rank(design)
    variance = residual @ residual / (len(y) - rank)
    return coefficient[k] / np.sqrt(variance * np.linalg.pinv(design.T @ design)[k, k])


def plain_test(codes, y, design):
    """Recompute all pairs of every draw and regress: t of each feature, (feature, 1 + draw)."""
    columns = [np.where(column < 0, np.nan, column) for column in codes.T.astype(float)]
    x = plain.feature_distances(columns)
    found = np.empty((len(columns), 1 + design.n_draws))
    for k in range(len(columns)):
        for b, row in enumerate(drawn_codes(design, k)):
            own = x.copy()
            own[:, k] = plain.feature_distances([np.where(row < 0, np.nan, row)])[:, 0]
            found[k, b] = plain_t(own, y, k)
    return found


def p_of(t, largest=None):
    """The share of draws, the data among them, that are as large."""
    drawn = t[1:] if largest is None else largest
    return (1 + (drawn >= t[0] - 1e-9).sum()) / (1 + len(t) - 1)


@pytest.fixture(scope="module")
def simulated():
    """Thirty sentences of six nouns, four features (undefined values, one of the noun), units."""
    rng = np.random.default_rng(5)
    n = 30
    noun = np.arange(n) % 10
    codes = np.column_stack(
        [
            rng.integers(-1, 3, n),
            rng.integers(0, 2, n),
            np.array([0, 1, 1, 0, 2, 2, 0, 1, -1, 2])[noun],
            rng.integers(-1, 2, n),
        ]
    ).astype(np.int32)
    activation = rng.normal(size=(n, 4)) + 0.7 * codes[:, [0]] + [5, 0, -3, 100]
    items = one_by_one(n, 4)
    items[:, 2] = noun
    return activation, codes, items


CASES = [
    {},
    {"zscore": True},
    {"distance": "norm_diff"},
    {"target": "none"},
    {"distance": "sqeuclidean", "target": "none"},
    {"per": "layer"},
    {"per": "layer", "zscore": True},
    {"per": "layer", "distance": "cosine"},
    {"per": "layer", "distance": "manhattan", "target": "none"},
]


@pytest.mark.parametrize("by_items", [False, True], ids=["sentences", "items"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_statistics_and_p_values_are_those_of_the_plain_loop(simulated, case, by_items):
    activation, codes, items = simulated
    items = items if by_items else one_by_one(*codes.shape)
    own = options(**case)
    found = randomize(activation, features_of(codes), items, own)
    design = randomization_design(features_of(codes), items, own.n_draws, own.random_state)
    units = [activation] if own.per == "layer" else list(activation.T[..., np.newaxis])
    t = []
    for unit in units:
        y = plain.target(unit, own.distance, min_max=False, zscore=own.zscore)
        t.append(plain_test(codes, y if own.target == "square" else np.sqrt(y), design))
    t = np.array(t)
    over = 0 if own.per == "unit" else 1
    compared = t
    if own.per == "layer":
        compared = (t - t.mean(axis=2, keepdims=True)) / t.std(axis=2, keepdims=True)
    largest = np.broadcast_to(compared.max(axis=over, keepdims=True), t.shape)
    for u, k in np.ndindex(t.shape[:2]):
        at = (u, k) if own.per == "unit" else k
        assert found["statistic"][at] == pytest.approx(t[u, k, 0], rel=1e-7)
        assert found["p_value"][at] == p_of(t[u, k])
        family = p_of(compared[u, k], largest[u, k, 1:])
        assert found["p_value_max"][at] == max(family, p_of(t[u, k]))


def test_many_units_in_blocks_are_the_same(simulated, monkeypatch):
    activation, codes, items = simulated
    expected = randomize(activation, features_of(codes), items, options())
    monkeypatch.setattr(randomization, "_UNITS", 3)
    monkeypatch.setattr(randomization, "_BLOCK", 2000)
    monkeypatch.setattr(randomization, "_KEPT", 0)
    randomization._cached_design.cache_clear()
    found = randomize(activation, features_of(codes), items, options())
    randomization._cached_design.cache_clear()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-10)


def test_the_scale_and_the_place_of_the_activations_do_not_matter(simulated):
    activation, codes, items = simulated
    expected = randomize(activation, features_of(codes), items, options())
    for scale in (1e-30, 1e30):
        found = randomize(scale * (activation + 1), features_of(codes), items, options())
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-6)


@pytest.mark.parametrize("case", [{}, {"target": "none"}, {"per": "layer"}], ids=str)
def test_draws_that_are_the_data_are_ties(case):
    """Of four items, two of each level, one draw in four splits them as they are."""
    level = np.repeat([0, 1], 20)
    items = np.arange(40) // 10
    codes = level.astype(np.int32)[:, np.newaxis]
    activation = np.random.default_rng(0).normal(size=(40, 3)) + 100 * level[:, np.newaxis] / 7
    own = options(n_draws=400, **case)
    found = randomize(activation, features_of(codes), items.astype(np.int32)[:, np.newaxis], own)
    [feature] = drawn_codes(
        randomization_design(features_of(codes), items[:, np.newaxis], 400, 3), 0
    )[np.newaxis]
    same = (feature == level).all(axis=1) | (feature == 1 - level).all(axis=1)
    assert 30 < same[1:].sum() < 100
    np.testing.assert_array_equal(
        found["p_value"], same.sum() / 401 + np.zeros_like(found["p_value"])
    )


def as_items(level, *covariates):
    level = np.asarray(level)
    covariate = np.array(covariates).reshape(len(covariates), len(level)).T
    none = np.empty((len(level), 0))
    return Items(np.arange(len(level)), level, covariate + 1, none, none, False)


@pytest.mark.parametrize(("n_constant", "n_tried"), [(0, 2), (1, 4), (2, 7), (3, 11)])
def test_agreement_by_chance_is_judged_over_all_that_is_tried(n_constant, n_tried):
    """Items alike in pairs, of which half have each level: a pair agrees by chance in one of two.

    Tried are all others together, each of them, and each two.
    """
    enough = math.floor(math.log2(1000 * n_tried)) + 1
    for n_pairs in (enough - 1, enough):
        pair = np.repeat(np.arange(n_pairs), 2)
        level, other = pair % 2, np.concatenate([pair, [n_pairs, n_pairs + 1]])
        level = np.concatenate([level, [1, 1] if n_pairs % 2 else [0, 1]])
        assert level.mean() == 0.5
        constant = np.zeros((n_constant, len(level)), int)
        found = is_determined(as_items(level, other, *constant))
        assert found == (0.5**n_pairs < 1e-3 / n_tried) == (n_pairs == enough)


def test_what_other_features_determine_is_found():
    rng = np.random.default_rng(0)
    a, b, c = rng.integers(0, 2, (3, 200))
    many = np.arange(200)
    assert is_determined(as_items(a, a, b))
    assert is_determined(as_items(1 - a, b, 2 * a - 1))
    assert is_determined(as_items(a ^ b, a, b, c))
    assert is_determined(as_items(a ^ b ^ c, a, b, c))
    # Others tell all sentences apart, yet one or two determine it.
    assert is_determined(as_items(a ^ b, a, b, many))
    assert is_determined(as_items(rng.permutation(171)[many % 57], many % 57))
    assert not is_determined(as_items(a, b, c))
    assert not is_determined(as_items(a, b, many))
    assert not is_determined(as_items(a))
    almost = a.copy()
    almost[:3] = 1 - almost[:3]
    assert not is_determined(as_items(a, almost, b))
    # A level of one sentence, and few sentences, may agree by chance.
    assert not is_determined(as_items((many == 0).astype(int), many % 100))
    assert not is_determined(as_items([0, 1, 0, 1], [0, 1, 0, 1]))


def test_features_without_an_answer_are_named_and_disturb_no_others(activations):
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 2, (2, 40))
    own = {"a": a, "b": b, "sum": a + 2 * b, "copy": a, "same": 0 * a, "row": np.arange(40)}
    data = activations.isel(WHERE).drop_vars(activations.attrs["features"])
    data.attrs = {}
    plainly = data.assign_coords({name: ("sentence", own[name]) for name in "ab"})
    data = data.assign_coords({name: ("sentence", values) for name, values in own.items()})
    for per in ("layer", "unit"):
        with pytest.warns(UserWarning) as caught:
            found = mx.randomization_test(data, per=per, n_draws=19)
        messages = [str(warning.message) for warning in caught]
        assert len(messages) == 2
        assert messages[0].startswith("features: a, copy, same, row never differ between two")
        assert messages[1] == (
            "features: the other features determine b, sum, so there is nothing to draw; p-value 1"
        )
        assert all(warning.filename == __file__ for warning in caught)
        assert (found["p_value"] == 1).all() and (found["p_value_max"] == 1).all()
        undefined = found["statistic"].isnull()
        assert undefined.sel(feature=["a", "copy", "same", "row"]).all()
        assert not undefined.sel(feature=["b", "sum"]).any()
        # A number of the row and a constant change nothing for the others.
        more = plainly.assign_coords({name: ("sentence", own[name]) for name in ("same", "row")})
        with pytest.warns(UserWarning, match="same, row never differ"):
            found = mx.randomization_test(more, per=per, n_draws=19).sel(feature=["a", "b"])
        expected = mx.randomization_test(plainly, per=per, n_draws=19)
        xr.testing.assert_allclose(found["statistic"], expected["statistic"])
        assert (found["p_value_max"] < 1).any()


@pytest.mark.parametrize(
    "own",
    [
        {"a": [0, 1, 0, 1]},
        {"a": [0, 1, 0, 1], "b": [0, 0, 1, 1]},
        {"a": [np.nan] * 20, "b": [0, 1, 1, 0] * 5},
        {"a": [0] * 19 + [1], "b": [0, 1, 1, 0] * 5},
        {"a": range(300), "b": range(299, -1, -1), "c": np.arange(300) // 2},
        {f"f{i}": np.arange(5) >> i & 1 for i in range(12)},
    ],
    ids=["four", "square", "undefined", "rare", "rows", "more features than sentences"],
)
@pytest.mark.parametrize("case", [{}, {"per": "layer"}, {"target": "none"}], ids=str)
@pytest.mark.filterwarnings("ignore:features")
def test_whatever_the_features_are_there_is_a_p_value(own, case):
    n = len(next(iter(own.values())))
    units = np.random.default_rng(n).normal(size=(n, 3))
    data = xr.Dataset(
        {"activation": (("sentence", "unit"), units)},
        {name: ("sentence", np.asarray(values)) for name, values in own.items()},
    )
    found = mx.randomization_test(data, n_draws=9, **case)
    for name in ("p_value", "p_value_max"):
        assert ((found[name] > 0) & (found[name] <= 1)).all()
    assert not np.isinf(found["statistic"]).any()


def test_constant_units_have_no_statistic_and_a_p_value_of_one(simulated):
    activation, codes, items = simulated
    expected = randomize(activation, features_of(codes), items, options())
    padded = np.insert(activation, [0, 2], 7.5, axis=1)
    found = randomize(padded, features_of(codes), items, options())
    constant = np.array([True, False, False, True, False, False])
    for name, values in expected.items():
        np.testing.assert_allclose(found[name][~constant], values, rtol=1e-10)
        np.testing.assert_array_equal(found[name][constant], np.nan if name == "statistic" else 1)
    for case in ({}, {"per": "layer"}, {"target": "none"}, {"per": "layer", "target": "none"}):
        nothing = randomize(np.full((30, 2), 1.5), features_of(codes), items, options(**case))
        assert np.isnan(nothing["statistic"]).all()
        assert (nothing["p_value"] == 1).all() and (nothing["p_value_max"] == 1).all()


def test_more_draws_begin_with_the_same_draws(simulated, monkeypatch):
    _, codes, items = simulated
    for k in range(4):
        own = items_of(features_of(codes), items, k)
        many = draw(own, 50, 1)
        np.testing.assert_array_equal(many[:20], draw(own, 20, 1))
        assert (many != draw(own, 50, 2)).any()
        with monkeypatch.context() as patch:
            patch.setattr(draws, "_BYTES", 100)
            np.testing.assert_array_equal(many, draw(own, 50, 1))


def test_the_order_of_the_features_changes_nothing(simulated):
    activation, codes, items = simulated
    order = [2, 0, 3, 1]
    expected = randomize(activation, features_of(codes), items, options(per="layer"))
    found = randomize(
        activation, features_of(codes[:, order]), items[:, order], options(per="layer")
    )
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values[order], atol=2 / N_DRAWS)
    np.testing.assert_allclose(found["statistic"], expected["statistic"][order])


def test_draws_follow_the_distribution_given_the_other_features():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 3, 600), rng.integers(-1, 2, 600)
    level = np.where(rng.random(600) < 0.6, a, rng.integers(0, 3, 600))
    own = items_of(features_of(np.column_stack([level, a, b])), one_by_one(600, 3), 0)
    drawn = draw(own, 400, 0)
    for other in range(3):
        observed = np.bincount(level[a == other], minlength=3) / (a == other).sum()
        share = np.bincount(drawn[:, a == other].ravel(), minlength=3) / drawn[:, a == other].size
        np.testing.assert_allclose(share, observed, atol=0.02)
    row, probability = conditional_distribution(own)
    assert len(probability) == 9
    for level in range(3):
        share = (drawn == level).mean(axis=0)
        np.testing.assert_allclose(share, probability[row, level], atol=5 * 0.5 / np.sqrt(400))


def test_undefined_values_stay_where_they_are(simulated):
    _, codes, items = simulated
    design = randomization_design(features_of(codes), items, N_DRAWS, 0)
    for k in range(4):
        found = drawn_codes(design, k)
        assert ((found == -1) == (codes[:, k] == -1)).all()
        assert (found[1:] != found[0]).any()


def test_items_are_drawn_together_and_given_what_is_constant_within_them(simulated):
    _, codes, items = simulated
    own = items_of(features_of(codes), items, 2)
    assert own.level.tolist() == [0, 1, 1, 0, 2, 2, 0, 1, 2]
    assert own.covariate.shape == (9, 0)
    found = drawn_codes(randomization_design(features_of(codes), items, N_DRAWS, 0), 2)
    assert (found[:, :10] == found[:, 10:20]).all() and (found[:, :10] == found[:, 20:]).all()
    # Never the same level in all of them: nothing would differ.
    few = as_items([0, 1, 0])
    drawn = draw(few, 300, 0)
    assert (drawn != drawn[:, :1]).any(axis=1).all()
    size = np.array([0, 0, 1, 1, 0, 0, 2, 2, 1, 1])[np.arange(30) % 10]
    own = items_of(
        features_of(np.column_stack([codes[:, 2], size, codes[:, 1]])), items[:, [2, 0, 1]], 0
    )
    assert own.covariate.shape == (9, 1)


def test_a_feature_of_many_levels_can_be_drawn():
    rng = np.random.default_rng(0)
    codes = np.column_stack([rng.permutation(400) % 171, rng.integers(0, 2, 400)]).astype(np.int32)
    design = randomization_design(features_of(codes), one_by_one(400, 2), 5, 0)
    assert drawn_codes(design, 0).max() == 170
    found = randomize(
        rng.normal(size=(400, 2)), features_of(codes), one_by_one(400, 2), options(n_draws=5)
    )
    assert np.isfinite(found["statistic"]).all()


@pytest.mark.parametrize(
    "setting",
    [
        Setting(about="independent", n_sentences=80),
        Setting(about="correlated", n_sentences=80, correlated=0.6),
        Setting(about="items", n_sentences=96, nouns=True, by_items=True),
    ],
    ids=lambda setting: setting.about,
)
def test_size_is_nominal_and_effects_are_found(setting):
    null, family = p_values(setting, strength=0.0, n_sets=40, n_draws=99)
    assert rate(null, 0.05)[0] < 0.09
    assert rate(null, 0.01)[0] < 0.03
    assert rate(family.min(axis=1, keepdims=True), 0.05)[0] < 0.15
    there, _ = p_values(setting, strength=3.0, n_sets=5, n_draws=99)
    assert rate(there, 0.05)[0] > 0.5


def test_sentences_that_share_an_item_are_not_independent():
    setting = Setting(about="", n_sentences=96, nouns=True)
    null, _ = p_values(setting, strength=0.0, n_sets=20, n_draws=99)
    assert rate(null, 0.05)[0] > 0.1


@pytest.mark.parametrize("per", ["layer", "unit"])
@pytest.mark.parametrize("chunks", [{"layer": 1}, {"seed": 1, "unit": 2}, {"sentence": 7}])
def test_lazy_results_are_those_of_numpy(activations, per, chunks):
    with dask.config.set(scheduler=refuse):
        result = mx.randomization_test(lazy(activations, **chunks), per=per, n_draws=9)
        with pytest.raises(AssertionError, match="computed too early"):
            result.compute()
    expected = mx.randomization_test(activations, per=per, n_draws=9)
    xr.testing.assert_allclose(result.compute(), expected)
    assert result.attrs == expected.attrs


def test_threads_and_processes_agree(activations, processes):
    data = lazy(activations.isel(seed=[0]))
    result = mx.randomization_test(data, per="unit", n_draws=19, features=["number", "gender"])
    threads = result.compute(scheduler="threads", num_workers=3)
    xr.testing.assert_allclose(threads, result.compute(**processes))


def test_draws_are_made_once_for_all_who_ask(simulated, monkeypatch):
    _, codes, items = simulated
    calls = []
    monkeypatch.setattr(randomization, "draw", lambda *a: calls.append(a) or draw(*a))
    randomization._cached_design.cache_clear()

    def ask(k):
        return randomization_design(features_of(codes), items, N_DRAWS, 11).drawn(k % 4)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(32)))
    assert len(calls) == 4


def test_dims_labels_and_attributes(activations):
    features = ["number", "gender"]
    result = mx.randomization_test(lazy(activations), n_draws=9, features=features)
    assert list(result.data_vars) == ["statistic", "p_value", "p_value_max"]
    for variable in result.data_vars.values():
        assert variable.dims == ("model", "seed", "step", "pooling", "layer", "feature")
        assert variable.dtype == np.float64
    assert result.attrs["settings"] == {
        **{"per": "layer", "distance": "euclidean", "target": "square", "zscore": False},
        **{"scale": "linear", "n_draws": 9, "random_state": 0, "features": features, "items": {}},
        "groups": [],
    }
    unit = mx.randomization_test(lazy(activations), per="unit", n_draws=9)
    assert unit["p_value"].dims[-2:] == ("unit", "feature")
    assert "over all units" in unit["p_value_max"].attrs["long_name"]
    assert "over all features" in result["p_value_max"].attrs["long_name"]
    assert (unit["p_value_max"] >= unit["p_value"]).all()


def test_what_was_not_recorded_stays_nan(activations):
    activations["activation"][:, 1] = np.nan
    activations["activation"][..., 0, :, 3:] = np.nan
    result = mx.randomization_test(activations, per="unit", n_draws=9)
    for variable in result.data_vars.values():
        assert np.isnan(variable.isel(seed=1)).all()
        assert np.isnan(variable.isel(layer=0, unit=[3, 4])).all()
        assert np.isfinite(variable.isel(seed=0, layer=[1, 2])).all()
    smaller = activations.isel(unit=slice(0, 3), layer=[0], seed=[0])
    part = result.isel(layer=[0], seed=[0], unit=slice(0, 3))
    xr.testing.assert_allclose(part, mx.randomization_test(smaller, per="unit", n_draws=9))


@pytest.fixture
def store(stimuli, tmp_path):
    path = mx.create_store(stimuli, tmp_path / "toy.zarr", pooling=["first-token", "mean"])
    write(path, layers(0), seed=0)
    write(path, layers(1), seed=1)
    return path


def with_nouns(data):
    """Forty sentences of ten nouns; their number is the noun's."""
    noun = np.array([f"noun {i % 10}" for i in range(40)], dtype=object)
    singular = np.where(np.arange(40) % 10 < 5, "sg", "pl").astype(object)
    return data.assign_coords(noun=("sentence", noun), number=("sentence", singular))


def test_items_are_a_coordinate_of_the_sentences(activations):
    data = with_nouns(activations)
    own = {"per": "unit", "n_draws": 99}
    by_noun = mx.randomization_test(data, items={"number": "noun"}, **own)
    by_sentence = mx.randomization_test(data, items={}, **own)
    assert by_noun.attrs["settings"]["items"] == {"number": "noun"}
    xr.testing.assert_allclose(by_noun["statistic"], by_sentence["statistic"])
    changed = (by_noun["p_value"] != by_sentence["p_value"]).any(set(by_noun.dims) - {"feature"})
    assert changed.values.tolist() == [True, False, False, False]
    # A sentence whose noun is undefined is drawn alone.
    noun = data["noun"].where(data["noun"] != "noun 3", None)
    without = mx.randomization_test(data.assign_coords(noun=noun), items={"number": "noun"}, **own)
    assert (without["p_value"] != by_noun["p_value"]).any()


@pytest.mark.parametrize("per", ["layer", "unit"])
def test_results_are_saved_resumed_and_opened(store, per):
    own = {"per": per, "n_draws": 9}
    result = mx.randomization_test(mx.open_store(store), **own)
    assert save(result.sel(seed=[0])) == {"computed": 6}
    assert save(result) == {"computed": 6, "skipped": 6}
    opened = mx.open_results(store, "randomization_test", **own)
    for name, variable in result.compute().items():
        xr.testing.assert_allclose(opened[name].drop_vars("computed_from").compute(), variable)
        assert opened[name].attrs == variable.attrs
    words = "n_draws 9" if per == "layer" else "per unit; n_draws 9"
    assert mx.list_results(store)["settings"].tolist() == [words]


def test_items_tell_saved_results_apart(store):
    data = mx.open_store(store)
    noun = np.arange(40)
    result = mx.randomization_test(data, n_draws=9)
    mx.save_results(result, progress=False)
    data = data.assign_coords(noun=("sentence", noun))
    own = {"n_draws": 9, "items": {"number": "noun"}}
    saved = mx.save_results(mx.randomization_test(data, **own), progress=False)
    opened = mx.open_results(store, "randomization_test", **own)
    xr.testing.assert_equal(opened["p_value"].compute(), saved["p_value"].compute())
    assert opened.attrs["settings"]["items"] == {"number": "noun"}
    assert mx.open_results(store, "randomization_test", n_draws=9).attrs["settings"]["items"] == {}
    with pytest.raises(InputError, match="none saved .* with items gender=noun"):
        mx.open_results(store, "randomization_test", items={"gender": "noun"})
    with pytest.raises(InputError, match="^items: found 3; expected a mapping"):
        mx.open_results(store, "randomization_test", items=3)


def test_the_test_of_units_is_corrected_for_their_number(store):
    result = mx.randomization_test(mx.open_store(store), per="unit", n_draws=19)
    saved = mx.save_results(result, progress=False)
    corrected = mx.save_results(mx.correct_p_values(saved), progress=False)
    assert (corrected["p_value"] >= saved["p_value"]).all()
    assert (corrected["p_value"] > saved["p_value"]).any()
    assert corrected.attrs["settings"]["result"]["analysis"] == "randomization_test"
    with pytest.raises(InputError, match="'p_value' has no dimension 'unit'"):
        mx.correct_p_values(mx.randomization_test(mx.open_store(store), n_draws=9))


def test_the_command_writes_a_table(store, tmp_path):
    file = tmp_path / "p.csv"
    words = ["test", str(store), "--per", "unit", "--draws", "9", "-o", str(file)]
    ran = CliRunner().invoke(app(), words)
    assert ran.exit_code == 0, ran.output
    assert file.read_text().splitlines()[0] == (
        "model,seed,step,pooling,layer,unit,feature,statistic,p_value,p_value_max"
    )
    ran = CliRunner().invoke(app(), ["test", str(store), "--draws", "9"])
    assert ran.exit_code == 0 and "largest statistic" in ran.output
    ran = CliRunner().invoke(app(), ["test", str(store), "--per", "unit", "--distance", "cosine"])
    assert ran.exit_code == 2 and "means nothing for a single unit" in ran.output


def test_bad_input_is_named(activations):
    data = with_nouns(activations)
    for given, message in {
        "noun": "items: found 'noun'; expected a mapping",
        ("noun",): "items: found .*; expected a mapping",
    }.items():
        with pytest.raises(InputError, match=message):
            mx.randomization_test(data, items=given)
    for given, message in [
        ({"number": 1}, "items: column of 'number': unknown value 1; known: 'animate'"),
        ({"tense": "noun"}, "items: feature: unknown value 'tense'; known: 'number'"),
        ({"number": "verb"}, "items: column of 'number': unknown value 'verb'"),
        ({"gender": "noun"}, "'gender' is not constant within the items of 'noun'"),
    ]:
        with pytest.raises(InputError, match=message):
            mx.randomization_test(data, items=given)
    with pytest.raises(InputError, match="^n_draws: found 0; expected an integer of at least 1"):
        mx.randomization_test(data, n_draws=0)
    with pytest.raises(InputError, match="^per: unknown value 'voxel'; known: 'layer', 'unit'"):
        mx.randomization_test(data, per="voxel")
    with pytest.raises(InputError, match="^distance: 'cosine' means nothing for a single unit"):
        mx.randomization_test(data, per="unit", distance="cosine")
    mx.randomization_test(data, per="layer", distance="cosine", n_draws=1)
