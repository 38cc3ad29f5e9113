import dask
import numpy as np
import pytest
import xarray as xr

import mlem_xr as mx
import plain
from helpers import lazy
from mlem_xr.kernels.distances import DISTANCES
from mlem_xr.kernels.folds import split
from mlem_xr.schema import InputError

OUTPUTS = (
    *("importance", "std_error", "p_value", "weight", "alpha", "intercept"),
    *("r2", "r", "mse", "variance"),
)


def plain_profile(
    activation, stimuli, *, distance, target, min_max, zscore, folds, random_state, features
):
    x = plain.feature_distances([stimuli[name].values for name in features])
    min_max = folds == "pairs" if min_max is None else min_max
    y = plain.target(activation, distance, min_max=min_max, zscore=zscore)
    y = y if target == "square" else np.sqrt(y)
    splits = (
        plain.pair_splits(len(y), random_state)
        if folds == "pairs"
        else plain.sentence_splits(len(activation), random_state)
    )
    return plain.explain(x, y, splits, sentences=folds == "sentences")


def check(result, expected, *, tolerance):
    assert set(result.data_vars) == set(expected)
    for name, value in expected.items():
        scale = np.max(np.abs(value))
        np.testing.assert_allclose(
            result[name].values, value, rtol=tolerance, atol=tolerance * scale, err_msg=name
        )


OPTIONS = [
    {},
    {"min_max": False},
    {"zscore": True},
    {"folds": "sentences", "random_state": 3},
    {"folds": "sentences", "mae": True},
    {"folds": "sentences", "min_max": True, "zscore": True},
    {"folds": "sentences", "zscore": True, "distance": "l2"},
    {"folds": "sentences", "distance": "norm_diff"},
    {"folds": "sentences", "distance": "manhattan", "features": ["number", "gender"]},
    {"folds": "sentences", "target": "none"},
    {"random_state": 7, "features": ["gender", "number"]},
    {"distance": "manhattan"},
    {"distance": "norm_diff"},
    {"distance": "sqeuclidean"},
    {"target": "none"},
    {"target": "none", "min_max": False, "zscore": True},
    {"mae": True},
]
DEFAULTS = {
    **{"distance": "euclidean", "target": "square", "min_max": None, "zscore": False},
    **{"folds": "pairs", "random_state": 0},
}


def expected_of(activation, stimuli, options):
    options = DEFAULTS | {"features": stimuli.attrs["features"]} | options
    with_mae = options.pop("mae", False)
    found = plain_profile(activation, stimuli, **options)
    return found if with_mae else {k: v for k, v in found.items() if k != "mae"}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_multivariate_importance_is_that_of_the_plain_loop(activations, stimuli, options):
    result = mx.multivariate_importance(activations, **options)
    cell = {"model": 0, "seed": 1, "step": 0, "pooling": 1, "layer": 2}
    activation = activations["activation"].isel(cell).values
    expected = expected_of(activation, stimuli, options)
    # scikit-learn's ridge stops at 1e-6 or so: the closed forms themselves are tested more tightly.
    check(result.isel(cell), expected, tolerance=2e-4)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_univariate_importance_is_that_of_the_plain_loop(activations, stimuli, options):
    result = mx.univariate_importance(activations, **options)
    for unit in (0, 4):
        cell = {"model": 0, "seed": 0, "step": 0, "pooling": 0, "layer": 1, "unit": unit}
        activation = activations["activation"].isel(cell).values[:, np.newaxis]
        expected = expected_of(activation, stimuli, options)
        check(result.isel(cell), expected, tolerance=2e-4)


def test_means_over_permutations_converge_to_the_closed_form(activations, stimuli):
    """Permute for real; the mean over many permutations is the importance."""
    cell = {"model": 0, "seed": 0, "step": 0, "pooling": 0, "layer": 0}
    result = mx.multivariate_importance(activations).isel(cell)
    x = plain.feature_distances([stimuli[name].values for name in stimuli.attrs["features"]])
    y = plain.target(
        activations["activation"].isel(cell).values, "euclidean", min_max=True, zscore=False
    )
    rng = np.random.default_rng(0)
    increases = []
    for fold, (_, _, _, test) in enumerate(plain.pair_splits(len(y), 0)):
        weight, intercept = result["weight"][fold].values, result["intercept"][fold].item()
        error = np.mean((y[test] - intercept - x[test] @ weight) ** 2)
        increase = np.empty((2000, x.shape[1]))
        for r in range(2000):
            for k in range(x.shape[1]):
                permuted = x[test].copy()
                permuted[:, k] = rng.permutation(permuted[:, k])
                increase[r, k] = np.mean((y[test] - intercept - permuted @ weight) ** 2) - error
        increases.append(increase)
    increase = np.mean(increases, axis=0)
    noise = increase.std(axis=0) / np.sqrt(len(increase))
    gap = np.abs(increase.mean(axis=0) - result["importance"].values)
    assert (gap <= 4 * noise + 1e-15).all()
    assert (noise < 0.02 * np.max(increase.mean(axis=0))).all()


def test_the_units_that_carry_a_feature_are_found_and_no_others():
    """Forty units of noise, of which some carry one or two features of 120 sentences."""
    rng = np.random.default_rng(3)
    features = {name: rng.permutation(np.arange(120) % 2) for name in ("tense", "number", "voice")}
    carriers = {"tense": [3, 4, 17], "number": [4, 30], "voice": []}
    values = rng.normal(size=(120, 40))
    for name, units in carriers.items():
        values[:, units] += 3 * features[name][:, np.newaxis]
    data = xr.Dataset(
        {"activation": (("sentence", "unit"), values)},
        {name: ("sentence", values) for name, values in features.items()},
    )
    importance = mx.univariate_importance(data)["importance"]
    for name, units in carriers.items():
        # By chance a unit of noise has up to 1e-5; those that carry a feature have 1e-3 or more.
        assert np.flatnonzero(importance.sel(feature=name) > 1e-4).tolist() == units


@pytest.mark.parametrize(
    "chunks", [{"layer": 1}, {"seed": 1, "unit": 2}, {"sentence": 7}, {"pooling": 2}]
)
@pytest.mark.parametrize("function", [mx.multivariate_importance, mx.univariate_importance])
def test_lazy_results_are_those_of_numpy(activations, function, chunks):
    eager = function(activations)
    xr.testing.assert_allclose(function(lazy(activations, **chunks)).compute(), eager, rtol=1e-12)
    xr.testing.assert_identical(function(lazy(activations)).compute(), eager)


@pytest.mark.parametrize(
    "function", [mx.multivariate_importance, mx.univariate_importance, mx.distances]
)
def test_nothing_is_computed_before_it_is_asked_for(activations, function):
    def refuse(*args, **kwargs):
        raise AssertionError("computed too early")

    with dask.config.set(scheduler=refuse):
        result = function(lazy(activations))
        with pytest.raises(AssertionError, match="computed too early"):
            result.compute()


def test_threads_and_processes_agree_bit_for_bit(activations, processes):
    result = mx.univariate_importance(lazy(activations))
    threads = result.compute(scheduler="threads")
    xr.testing.assert_identical(threads, result.compute(**processes))
    xr.testing.assert_identical(threads, mx.univariate_importance(activations))


def test_dims_and_labels(activations):
    result = mx.univariate_importance(lazy(activations))
    cell = ("model", "seed", "step", "pooling", "layer")
    assert result["importance"].dims == (*cell, "unit", "feature")
    assert result["weight"].dims == (*cell, "unit", "fold", "feature")
    assert result["r2"].dims == (*cell, "unit")
    assert set(result.data_vars) == set(OUTPUTS)
    assert result["feature"].values.tolist() == activations.attrs["features"]
    assert all(variable.dtype == np.float64 for variable in result.data_vars.values())
    assert mx.multivariate_importance(activations)["alpha"].dims == (*cell, "fold")


def test_constant_units_have_no_scores_and_no_importance(activations, recwarn):
    activations["activation"][..., 2] = 1.5
    result = mx.univariate_importance(activations, mae=True).isel(unit=2)
    for name in ("r2", "r", "mse", "variance", "mae"):
        assert np.isnan(result[name]).all()
    assert (result["importance"] == 0).all()
    assert (result["std_error"] == 0).all()
    assert (result["p_value"] == 1).all()
    assert not recwarn.list


@pytest.mark.parametrize(
    "options",
    [{}, {"distance": "manhattan"}, {"folds": "sentences"}],
    ids=["pairs", "manhattan", "levels"],
)
def test_units_within_the_rounding_of_the_largest_one_are_constant(activations, options):
    """However tasks cut the units: the largest one may be with others, or with none."""
    values = activations["activation"]
    values[:] = 1e-3 * values / np.abs(values).max()
    assert mx.univariate_importance(activations, **options)["r2"].notnull().all()
    values[..., 0, :, 0] = 1e6
    values[:, 1, ..., 0, :, 3] = np.nan
    named = r"^activations: all sentences .* explain in (model=\w+, seed=\d.* layer=1(; )?){4} \("
    with pytest.warns(UserWarning, match=named):
        result = mx.univariate_importance(activations, **options)
    assert result["r2"].sel(layer=1).isnull().all()
    there = activations["activation"].sel(layer=1).notnull().any("sentence")
    constant = result[["importance", "p_value"]].sel(layer=1)
    assert (constant.isnull().any("feature") == ~there).all()
    assert (constant["importance"].where(there, 0) == 0).all()
    assert (constant["p_value"].where(there, 1) == 1).all()
    assert result["r2"].sel(layer=[2, 3]).notnull().all()
    for cut in (-1, 1, 2, 5):
        with pytest.warns(UserWarning, match="^activations: all sentences .* layer=1"):
            found = mx.univariate_importance(activations.chunk(unit=cut), **options).compute()
        xr.testing.assert_allclose(found, result, rtol=1e-9)


@pytest.mark.parametrize("cut", [1, 3, -1])
def test_units_are_no_rounding_where_another_one_varies(activations, cut):
    """Beside a unit as large that is the same in all sentences, in whichever task that is."""
    values = activations["activation"]
    values[:] = 1e-3 * values / np.abs(values).max()
    expected = mx.univariate_importance(activations).isel(unit=slice(1, 4))
    assert expected["r2"].notnull().all()
    values[..., 0] = 1e6
    values[..., 4] *= 1e6
    found = mx.univariate_importance(activations.chunk(unit=cut)).isel(unit=slice(1, 4))
    xr.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_prediction_that_is_constant_in_a_fold_has_no_correlation():
    """Its differences are rounding errors, which correlate with anything."""
    rng = np.random.default_rng(0)
    data = xr.Dataset(
        {"activation": (("sentence", "unit"), rng.normal(size=(100, 200)))},
        {"plural": ("sentence", np.arange(100) % 2)},
    )
    scan = mx.univariate_importance(data)
    constant = (scan["weight"] == 0).any("fold").squeeze("feature")
    assert 20 < constant.sum() < 180
    assert scan["r"].where(constant).isnull().all()
    assert scan["r"].where(~constant, 0).notnull().all()


def test_what_was_not_recorded_stays_nan(activations):
    activations["activation"][:, 1] = np.nan
    activations["activation"][..., 0, :, 3:] = np.nan
    activations["activation"][..., 2, :, :] = np.nan
    multivariate = mx.multivariate_importance(activations)
    univariate = mx.univariate_importance(activations)
    for result in (multivariate, univariate):
        for variable in result.data_vars.values():
            assert np.isnan(variable.isel(seed=1)).all()
            assert np.isnan(variable.isel(layer=2)).all()
            assert np.isfinite(variable.isel(seed=0, layer=1)).all()
    assert np.isnan(univariate["r2"].isel(layer=0, unit=[3, 4])).all()
    smaller = activations.isel(unit=slice(0, 3), layer=[0], seed=[0])
    part = multivariate.isel(layer=[0], seed=[0])
    xr.testing.assert_allclose(part, mx.multivariate_importance(smaller), rtol=1e-12)


def test_infinite_activations_are_named(activations):
    activations["activation"][0, 1, 0, 1, 2, 3, 4] = np.inf
    message = "NaN or infinite values in model=toy, seed=1, step=-1, pooling=mean, layer=3"
    for function in (mx.multivariate_importance, mx.univariate_importance):
        with pytest.raises(InputError, match=message):
            function(lazy(activations)).compute()
    part = lazy(activations).sel(seed=1, layer=3, model="toy")
    with pytest.raises(InputError, match="model=toy, seed=1, layer=3, step=-1, pooling=mean"):
        mx.multivariate_importance(part).compute()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["sg"] * 40, "number never differ"),
        (list(range(40)), "number differ between all sentences"),
    ],
)
def test_a_feature_without_contrast_is_named_and_has_no_importance(activations, values, message):
    data = activations.assign_coords(number=("sentence", values))
    with pytest.warns(UserWarning, match=f"^features: {message}"):
        result = mx.multivariate_importance(data)
    part = result.sel(feature="number")
    assert (part["importance"] == 0).all()
    assert (part["p_value"] == 1).all()
    assert (part["weight"] == 0).all()


@pytest.mark.parametrize("distance", [name for name in DISTANCES if name != "precomputed"])
@pytest.mark.filterwarnings("ignore:Data was converted to boolean")
def test_every_distance_is_that_of_scikit_learn(activations, distance):
    from sklearn.metrics import pairwise_distances

    part = activations.isel(seed=0, pooling=0, layer=[0, 1])
    result = mx.distances(lazy(part), distance=distance)
    assert result.dims[-2:] == ("sentence", "other_sentence")
    for layer in (0, 1):
        values = part["activation"][0, 0, layer].values.astype(float)
        if distance == "norm_diff":
            norms = np.linalg.norm(values, axis=1)
            expected = np.abs(np.subtract.outer(norms, norms))
        else:
            expected = pairwise_distances(values, metric=distance)
        np.testing.assert_allclose(result[0, 0, layer], expected, atol=1e-12)


def test_distances_keep_the_labels_of_the_sentences(activations):
    part = activations.isel(seed=0, pooling=0, layer=0)
    labels = [f"s{i}" for i in range(part.sizes["sentence"])]
    result = mx.distances(part.assign_coords(sentence=labels))
    assert result["sentence"].values.tolist() == labels
    assert result["other_sentence"].values.tolist() == labels
    expected = mx.distances(part)[..., 3, 5]
    np.testing.assert_array_equal(result.sel(sentence="s3", other_sentence="s5"), expected)


def test_zscored_distances(activations):
    part = activations.isel(model=0, seed=0, step=0, pooling=0, layer=0)
    values = part["activation"].values.astype(float)
    scaled = part.assign(
        activation=(("sentence", "unit"), (values - values.mean(0)) / values.std(0))
    )
    np.testing.assert_allclose(mx.distances(part, zscore=True), mx.distances(scaled), atol=1e-12)


def test_bad_options_are_named(activations):
    with pytest.raises(InputError, match="^distance: unknown value 'euclid'; known: 'euclidean'"):
        mx.multivariate_importance(activations, distance="euclid")
    with pytest.raises(InputError, match="^distance: 'cosine' means nothing for a single unit"):
        mx.univariate_importance(activations, distance="cosine")
    with pytest.raises(InputError, match="^distance: 'correlation' means nothing"):
        mx.univariate_importance(activations, distance="correlation")
    with pytest.raises(InputError, match="^features: unknown value 'tense'"):
        mx.multivariate_importance(activations, features=["tense"])
    with pytest.raises(InputError, match="^folds: unknown value 'blocks'"):
        mx.multivariate_importance(activations, folds="blocks")
    with pytest.raises(InputError, match="^alphas: found"):
        mx.multivariate_importance(activations, alphas=[0.0, 1.0])
    for alphas in ([1e-9, 1.0], "a", None):
        with pytest.raises(InputError, match="^alphas: found .*; expected"):
            mx.multivariate_importance(activations, alphas=alphas)
    with pytest.raises(InputError, match="^features: unknown value 3; known: 'number'"):
        mx.multivariate_importance(activations, features=3)
    with pytest.raises(InputError, match="^random_state: found -1"):
        mx.multivariate_importance(activations, random_state=-1)
    with pytest.raises(InputError, match="^activations: 3 sentences; expected at least 4"):
        mx.multivariate_importance(activations.isel(sentence=slice(0, 3)))
    with pytest.raises(InputError, match="no variable 'activation'"):
        mx.multivariate_importance(activations.rename(activation="values"))
    flat = activations.isel(unit=0)
    with pytest.raises(InputError, match="which lack 'unit'"):
        mx.multivariate_importance(flat)
    with pytest.raises(InputError, match="^zscore: unknown value 'no'; known: False, True"):
        mx.multivariate_importance(activations, zscore="no")
    with pytest.raises(InputError, match="^target: unknown value 'cube'; known: 'square', 'none'"):
        mx.multivariate_importance(activations, target="cube")
    with pytest.raises(InputError, match="has the dimension 'fold'; .*rename it"):
        mx.multivariate_importance(activations.expand_dims("fold"))


def test_an_undefined_distance_is_named(activations):
    activations["activation"][..., 5, :] = 1.0
    with pytest.raises(InputError, match="^distance: 'correlation' is undefined .* sentence 5"):
        mx.multivariate_importance(activations, distance="correlation")


ROUNDED = {
    "equal": lambda row, noise: row + 0 * noise,
    "rounded": lambda row, noise: row * (1 + 1e-7 * noise).astype(np.float32),
}


@pytest.mark.parametrize("kind", ROUNDED)
@pytest.mark.parametrize("distance", ["euclidean", "cosine", "manhattan", "norm_diff"])
def test_rounding_is_not_signal(stimuli, kind, distance):
    """As the first token of a causal network, which sees nothing of the sentence."""
    rng = np.random.default_rng(0)
    row = rng.normal(size=256).astype(np.float32)
    values = ROUNDED[kind](row, rng.normal(size=(40, 1))).astype(np.float32)
    dims = ("layer", "sentence", "unit")
    other = rng.normal(size=values.shape).astype(np.float32)
    layers = {"layer": [1, 2, 3]}
    data = xr.Dataset({"activation": (dims, np.stack([values, other, values]))}, layers)
    data = data.assign_coords(stimuli.coords).assign_attrs(stimuli.attrs)
    message = r"same activations, .* nothing to explain in layer=1; layer=3 \(the first"
    with pytest.warns(UserWarning, match=message):
        result = mx.multivariate_importance(data, distance=distance)
    with pytest.warns(UserWarning, match=message):
        scan = mx.univariate_importance(data)
    for found in (result.sel(layer=[1, 3]), scan.sel(layer=[1, 3])):
        assert np.isnan(found["r2"]).all()
        assert (found["importance"] == 0).all()
        assert (found["p_value"] == 1).all()
    assert np.isfinite(result["r2"].sel(layer=2))
    assert np.isfinite(scan["r2"].sel(layer=2)).all()


@pytest.mark.parametrize(("dtype", "offset"), [(np.float32, 1e5), (np.float64, 1e6)])
@pytest.mark.parametrize("distance", ["euclidean", "sqeuclidean", "nan_euclidean", "manhattan"])
def test_large_means_lose_no_digits(stimuli, dtype, offset, distance):
    # So many units that the squares of what is far do not fit float64.
    offset = offset * np.linspace(0.5, 1, 256)
    values = (np.random.default_rng(0).normal(size=(2, 40, 256)) + offset).astype(dtype)
    dims = ("layer", "sentence", "unit")
    far = xr.Dataset({"activation": (dims, values)}, {"layer": [1, 2]})
    far = far.assign_coords(stimuli.coords).assign_attrs(stimuli.attrs)
    near = far.assign(activation=(dims, values.astype(float) - offset))
    for function in (mx.multivariate_importance, mx.univariate_importance):
        expected = function(near, distance=distance)
        found = function(far, distance=distance)
        # Units alone are worked on in single precision.
        alone = function is mx.univariate_importance
        rtol, atol = (1e-3, 1e-6) if alone else (1e-7, 1e-9)
        xr.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)
    expected = mx.distances(near, distance=distance)
    xr.testing.assert_allclose(mx.distances(far, distance=distance), expected, rtol=1e-9, atol=1e-9)
    if distance == "euclidean":
        expected = mx.mds(near, max_iter=5)
        xr.testing.assert_allclose(mx.mds(far, max_iter=5), expected, atol=1e-6)


def test_equal_distances_have_no_scores():
    """Sentences that are all equally far apart leave nothing to explain."""
    data = xr.Dataset(
        {"activation": (("sentence", "unit"), np.eye(12))},
        coords={"odd": ("sentence", np.arange(12) % 2)},
    )
    for min_max in (True, False):
        result = mx.multivariate_importance(data, min_max=min_max)
        assert np.isnan(result["r2"])
        assert (result["importance"] == 0).all()
        assert (result["p_value"] == 1).all()


def of_features(values):
    """Activations (sentence, unit) with a feature of two levels and one of three."""
    rng = np.random.default_rng(1)
    features = {"two": rng.integers(0, 2, len(values)), "three": rng.integers(0, 3, len(values))}
    coords = {name: ("sentence", levels) for name, levels in features.items()}
    return xr.Dataset({"activation": (("sentence", "unit"), values)}, coords)


@pytest.mark.parametrize("zscore", [False, True])
def test_where_a_unit_is_not_0_does_not_matter_where_it_is_constant(zscore):
    """In a fold, or among the sentences of one that the other fold is trained on."""
    rng = np.random.default_rng(0)
    values = np.zeros((60, 300))
    values[rng.integers(0, 60, 300), np.arange(300)] = rng.normal(size=300)
    # Some units are mostly 0, others are so in one fold alone.
    held_out, _ = split(60, 0)
    values[held_out == 0, :100] += rng.normal(size=(30, 100))
    options = {"folds": "sentences", "zscore": zscore}
    expected = mx.univariate_importance(of_features(values), **options)
    assert 0.5 < expected["r2"].isnull().mean() < 1
    assert expected["p_value"].isin([1.0]).any()
    for offset in (1.0, -0.3):
        found = mx.univariate_importance(of_features(values + offset), **options)
        xr.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    # Pairs alone are worked on in single precision.
    found = mx.univariate_importance(of_features(values), mae=True, **options).drop_vars("mae")
    xr.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


ROUNDED_FOLDS = {
    "multivariate": mx.multivariate_importance,
    "with mae": lambda data, **options: mx.multivariate_importance(data, mae=True, **options),
    "of distances": lambda data, **options: mx.multivariate_importance(
        data, target="none", **options
    ),
    "univariate": mx.univariate_importance,
    "univariate, with mae": lambda data, **options: mx.univariate_importance(
        data, mae=True, **options
    ),
    "decompose": mx.decompose,
    "decompose, units": lambda data, **options: mx.decompose(data, per="unit", **options),
}


@pytest.mark.parametrize("call", ROUNDED_FOLDS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("distance", ["euclidean", "manhattan", "norm_diff", "sqeuclidean"])
def test_what_is_constant_in_a_fold_but_for_rounding_has_no_scores(call, dtype, distance):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, 3))
    fold = split(60, 0)[0] == 1
    rounding = np.finfo(dtype).eps * rng.integers(-1, 2, (fold.sum(), 3))
    values[fold] = np.array([0.3, 0.7, -0.4]) * (1 + rounding)
    data = of_features(values.astype(dtype))
    result = ROUNDED_FOLDS[call](data, folds="sentences", distance=distance)
    assert result["r2"].isnull().all()
    varied = of_features(rng.normal(size=(60, 3)).astype(dtype))
    result = ROUNDED_FOLDS[call](varied, folds="sentences", distance=distance)
    assert result["r2"].notnull().all()


@pytest.mark.parametrize("distance", ["cosine", "correlation"])
def test_parallel_sentences_in_a_fold_have_no_scores(distance):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, 5))
    fold = split(60, 0)[0] == 1
    values[fold] = rng.normal(size=5) * rng.uniform(1, 2, (fold.sum(), 1))
    result = mx.multivariate_importance(of_features(values), folds="sentences", distance=distance)
    assert np.isnan(result["r2"])


def one_hot(rng, dtype):
    """Sentences that have no direction in common."""
    return np.eye(60) / 3


def orthonormal(rng, dtype):
    return np.linalg.qr(rng.normal(size=(60, 60)))[0]


def parallel(rng, dtype):
    return rng.normal(size=8) * rng.uniform(1, 2, (60, 1))


def of_one_length(rng, dtype):
    values = rng.normal(size=(60, 8)).astype(dtype)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


EQUAL = [
    (one_hot, "euclidean"),
    (one_hot, "cosine"),
    (orthonormal, "euclidean"),
    (orthonormal, "cosine"),
    (parallel, "cosine"),
    (parallel, "correlation"),
    (of_one_length, "norm_diff"),
]


@pytest.mark.parametrize(("values", "distance"), EQUAL)
@pytest.mark.parametrize("folds", ["pairs", "sentences"])
@pytest.mark.parametrize("target", ["square", "none"])
def test_distances_that_are_equal_but_for_rounding_have_nothing_to_explain(
    values, distance, folds, target
):
    # Level sums judge a target from its moments, which see no single precision.
    for dtype in (np.float64,) if values is orthonormal else (np.float32, np.float64):
        data = of_features(values(np.random.default_rng(0), dtype).astype(dtype))
        for min_max in (False, True):
            options = {"distance": distance, "folds": folds, "target": target, "min_max": min_max}
            result = mx.multivariate_importance(data, **options)
            assert np.isnan(result["r2"])
            assert (result["importance"] == 0).all()
            assert (result["p_value"] == 1).all()
            assert mx.decompose(data, **options)["r2"].isnull().all()
    options = {"distance": distance, "target": target, "n_draws": 9}
    assert mx.randomization_test(data, **options)["statistic"].isnull().all()


@pytest.mark.parametrize("folds", ["pairs", "sentences"])
@pytest.mark.parametrize("target", ["square", "none"])
def test_units_that_differ_in_sign_alone_have_no_difference_of_norms(folds, target):
    rng = np.random.default_rng(0)
    values = rng.choice([-1, 1], (60, 2)) * (1 + 2.2e-16 * rng.integers(-1, 2, (60, 2)))
    options = {"distance": "norm_diff", "target": target}
    data = of_features(values)
    assert mx.univariate_importance(data, folds=folds, **options)["r2"].isnull().all()
    assert mx.decompose(data, per="unit", folds=folds, **options)["r2"].isnull().all()
    test = mx.randomization_test(data, per="unit", n_draws=9, **options)
    assert test["statistic"].isnull().all()


@pytest.mark.parametrize("distance", ["euclidean", "cosine", "norm_diff"])
def test_small_differences_of_distances_are_explained(distance):
    """A hundred million times smaller than the distances themselves."""
    rng = np.random.default_rng(0)
    values = {
        "euclidean": np.eye(60) + 1e-9 * rng.normal(size=(60, 60)),
        "cosine": rng.normal(size=60) * (1 + 1e-5 * rng.normal(size=(60, 60))),
        "norm_diff": of_one_length(rng, float) * (1 + 1e-12 * rng.normal(size=(60, 1))),
    }[distance]
    result = mx.multivariate_importance(of_features(values), distance=distance)
    assert np.isfinite(result["r2"])
