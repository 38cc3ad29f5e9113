import warnings
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest
import xarray as xr
from scipy.special import expit, softmax
from scipy.stats import norm
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_info, threadpool_limits

import mlem_xr.kernels.decoding as kernel
from helpers import lazy
from mlem_xr.analyses.decoding import DecodingOptions, decoding_baseline
from mlem_xr.kernels.decoding import classes, decode, fold_auc, weighted_auc
from mlem_xr.kernels.distances import standardize
from mlem_xr.kernels.logistic import Classifier
from mlem_xr.running.blas import one_blas_thread
from mlem_xr.schema import InputError
from mlem_xr.stimuli.pairs import feature_codes

WHERE = {"model": 0, "seed": 1, "step": 0, "pooling": 1, "layer": 2}


def plain_auc(activation, label, *, random_state=0):
    """The AUC of each fold by scikit-learn alone."""
    folds = StratifiedKFold(3, shuffle=True, random_state=random_state)
    classifier = LogisticRegressionCV(
        cv=3,
        class_weight="balanced",
        scoring="roc_auc_ovr_weighted",
        solver="newton-cholesky",
        Cs=10,
        random_state=random_state,
        l1_ratios=(0,),
        use_legacy_attributes=False,
    )
    with threadpool_limits(1):
        return np.array(
            [
                classifier.fit(activation[train], label[train]).score(activation[test], label[test])
                for train, test in folds.split(activation, label)
            ]
        )


def auc_of_folds(*arrays, **options):
    """Call the kernel with one thread, as the analysis does."""
    with one_blas_thread():
        return fold_auc(*arrays, **options)


def sentences(n, n_units, n_classes, *, signal):
    """Noise, with as many units as classes that carry some of the label."""
    rng = np.random.default_rng([n, n_units, n_classes])
    sizes = np.arange(1, n_classes + 1)
    label = rng.permutation(np.resize(np.repeat(np.arange(n_classes), sizes), n))
    activation = rng.normal(1.0, 2.0, (n, n_units))
    activation[:, :n_classes] += signal * np.eye(n_classes)[label]
    return activation, label


# 40 of the 90 sentences are in the inner training sets: on either side of as many units.
@pytest.mark.parametrize(
    ("n_units", "n_classes"),
    [(6, 2), (6, 3), (6, 5), (39, 2), (39, 3), (40, 2), (40, 3), (40, 5), (100, 2), (100, 3)],
)
@pytest.mark.parametrize("signal", [1.5, 30.0])
def test_auc_is_that_of_the_plain_loop(n_units, n_classes, signal):
    activation, label = sentences(90, n_units, n_classes, signal=signal)
    with warnings.catch_warnings():
        # scikit-learn's own steps may stop for want of precision on separable classes.
        warnings.simplefilter("ignore")
        expected = plain_auc(activation, label, random_state=3)
    found = auc_of_folds(activation, label, random_state=3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_weighted_auc_is_that_of_scikit_learn(n_classes):
    rng = np.random.default_rng(0)
    label = rng.integers(0, n_classes, 50)
    # Rounded, so that many scores are equal.
    score = rng.dirichlet(np.ones(n_classes), 50).round(1)
    score[:, -1] = 1 - score[:, :-1].sum(axis=1)
    score = score[:, 1:] if n_classes == 2 else score
    expected = roc_auc_score(
        label,
        score[:, 0] if n_classes == 2 else score,
        multi_class="ovr",
        average="weighted",
    )
    assert weighted_auc(score, label) == pytest.approx(expected, abs=1e-12)


def test_summary_of_the_folds():
    activation, label = sentences(90, 30, 3, signal=1.0)
    auc = plain_auc(activation, label)
    error = auc.std(ddof=1) / np.sqrt(3)
    p_value = 2 * norm.sf(abs(auc.mean() - 0.5) / error)
    found = decode(activation, label[:, np.newaxis], DecodingOptions())
    assert list(found) == ["auc", "std", "std_error", "p_value"]
    expected = [auc.mean(), auc.std(ddof=1), error, p_value]
    np.testing.assert_allclose([value[0] for value in found.values()], expected, rtol=1e-6)


def test_equal_areas_of_one_half_have_a_p_value_of_one():
    found = kernel.summarize(np.array([[0.5, 0.5, 0.5], [1.0, 1.0, 1.0], [np.nan] * 3]))
    np.testing.assert_array_equal(found["p_value"], [1, 0, np.nan])


def test_activations_of_any_size_can_be_decoded():
    """Where the smallest penalties are lost next to the activations."""
    for n_units in (20, 90):
        activation, label = sentences(90, n_units, 3, signal=2.0)
        auc = auc_of_folds(activation, label, random_state=0).mean()
        for scale in (1e-8, 1e5, 1e9):
            scaled = auc_of_folds(activation * scale, label, random_state=0).mean()
            assert scaled == pytest.approx(auc, abs=0.1)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("n_units", [20, 90])
def test_activations_of_any_size_have_their_own_ranks(n_units, n_classes):
    """Tesla, say: all probabilities round to the same number, and there is something to read."""
    activation, label = sentences(90, n_units, n_classes, signal=2.0)
    expected = auc_of_folds(activation * 1e-8, label, random_state=0)
    assert expected.mean() > 0.6
    for scale in (1e-13, 1e-30):
        found = auc_of_folds(activation * scale, label, random_state=0)
        np.testing.assert_allclose(found, expected, atol=0.01)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_scores_are_ordered_as_probabilities(n_classes):
    rng = np.random.default_rng(0)
    label = rng.integers(0, n_classes, 50)
    n_outputs = 1 if n_classes == 2 else n_classes
    coefficient, intercept = rng.normal(size=(7, n_outputs)), rng.normal(size=n_outputs)
    activation = rng.normal(size=(50, 7))
    for scale in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0):
        outputs = activation @ coefficient * scale + intercept
        probability = expit(outputs) if n_classes == 2 else softmax(outputs, axis=1)
        found = kernel.scores(Classifier(coefficient, intercept), activation * scale)
        assert weighted_auc(found, label) == weighted_auc(probability, label)


def test_equal_sentences_have_equal_scores():
    """A product of matrices may treat its last rows otherwise."""
    rng = np.random.default_rng(0)
    for n_outputs in (1, 3):
        classifier = Classifier(rng.normal(size=(384, n_outputs)), rng.normal(size=n_outputs))
        found = kernel.scores(classifier, np.tile(rng.normal(size=384) * 1e-13, (77, 1)))
        assert (found == found[0]).all()


@pytest.mark.parametrize("options", [{}, {"zscore": True}, {"random_state": 5}], ids=str)
def test_decoding_baseline_is_the_kernel_in_each_representation(activations, options):
    part = activations.isel(seed=[1], layer=[0, 2])
    result = decoding_baseline(part, features=["gender", "number"], **options)
    codes = feature_codes(activations, ["gender", "number"]).values
    for where in np.ndindex(result["auc"].shape[:-1]):
        expected = decode(part["activation"].values[where], codes, DecodingOptions(**options))
        for name, values in expected.items():
            np.testing.assert_array_equal(result[name].values[where], values)


def test_undefined_values_are_a_class(activations):
    gender = activations["gender"].values
    label = np.unique([str(value) for value in gender], return_inverse=True)[1]
    assert len(np.unique(label)) == 3
    activation = activations["activation"].isel(WHERE).values
    result = decoding_baseline(activations.isel(WHERE), features=["gender"])
    expected = plain_auc(activation.astype(np.float64), label).mean()
    assert result["auc"].item() == pytest.approx(expected, abs=1e-9)


def test_zscore_standardises_every_unit(activations):
    activations["activation"][..., 3] *= 1000
    part = activations.isel(WHERE)
    scaled = part.assign(activation=(("sentence", "unit"), standardize(part["activation"].values)))
    expected = decoding_baseline(scaled)
    result = decoding_baseline(part, zscore=True)
    xr.testing.assert_allclose(result, expected.assign_attrs(result.attrs))
    assert not np.allclose(result["auc"], decoding_baseline(part)["auc"])


def test_a_feature_that_a_unit_carries_is_read_and_noise_is_not():
    rng = np.random.default_rng(0)
    n = 200
    values = rng.normal(size=(8, n, 12))
    plural, noise = rng.integers(0, 2, n), rng.integers(0, 2, n)
    values[..., 5] += 5 * plural
    data = xr.Dataset(
        {"activation": (("layer", "sentence", "unit"), values)},
        coords={"plural": ("sentence", plural), "noise": ("sentence", noise)},
    )
    result = decoding_baseline(data)
    carried, absent = result.sel(feature="plural"), result.sel(feature="noise")
    assert (carried["auc"] > 0.98).all()
    assert (carried["p_value"] < 1e-6).all()
    assert abs(absent["auc"] - 0.5).max() < 0.1
    assert absent["p_value"].median() > 0.05


@pytest.mark.parametrize("zscore", [False, True])
@pytest.mark.parametrize("rounding", [0.0, 1e-7])
def test_activations_without_information_have_an_auc_of_a_half(activations, rounding, zscore):
    """Rounding may go with a feature: it depends on the batch, and that on the sentence."""
    plural = activations["number"] == activations["number"][0]
    size = 1 + activations["unit"] / 7
    activations["activation"][...] = (size * (1 + rounding * plural)).astype(np.float32)
    values = activations["activation"]
    assert bool((values.max("sentence") > values.min("sentence")).any()) == bool(rounding)
    with pytest.warns(UserWarning, match="^activations: all sentences .* explain in model="):
        result = decoding_baseline(activations.isel(WHERE), zscore=zscore)
    assert (result["auc"] == 0.5).all()
    assert (result["std_error"] == 0).all()
    assert (result["p_value"] == 1).all()


@pytest.mark.parametrize("chunks", [{"layer": 1}, {"seed": 1, "unit": 2}, {"sentence": 7}])
def test_lazy_results_are_those_of_numpy(activations, chunks):
    part = activations.isel(seed=[0], pooling=[1], layer=[0, 2])
    chosen = ["gender", "number"]
    result = decoding_baseline(lazy(part, **chunks), features=chosen)
    xr.testing.assert_identical(result.compute(), decoding_baseline(part, features=chosen))


def test_threads_and_processes_agree(activations, processes):
    result = decoding_baseline(lazy(activations.isel(seed=[0])), features=["number", "animate"])
    threads = result.compute(scheduler="threads", num_workers=3)
    xr.testing.assert_identical(threads, result.compute(**processes))


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_blas_has_one_thread_while_it_lasts(activations, monkeypatch, scheduler):
    def blas_threads():
        return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}

    def remember(*arguments):
        seen.append(blas_threads())
        return train(*arguments)

    seen, train = [], kernel.train_classifier
    monkeypatch.setattr(kernel, "train_classifier", remember)
    part = activations.isel(seed=[0], pooling=[0])
    result = decoding_baseline(lazy(part), features=["number", "animate"])
    # Whatever the machine, there is a limit to lift; a thread that ends leaves it to others.
    for n_threads in (3, 2):
        with ThreadPoolExecutor(1) as executor:
            executor.submit(threadpool_limits, n_threads, user_api="blas").result()
        result.compute(scheduler=scheduler, num_workers=3)
        assert blas_threads() == {n_threads}
    assert len(seen) == 2 * 3 * 6
    assert all(threads == {1} for threads in seen)


def test_nothing_is_computed_before_it_is_asked_for(activations):
    def refuse(*args, **kwargs):
        raise AssertionError("computed too early")

    with dask.config.set(scheduler=refuse):
        result = decoding_baseline(lazy(activations))
        with pytest.raises(AssertionError, match="computed too early"):
            result.compute()


def test_every_feature_of_every_representation_is_a_task(activations):
    auc = decoding_baseline(lazy(activations))["auc"]
    assert auc.data.blocks.shape == auc.shape == (1, 2, 1, 2, 3, 4)


def test_dims_labels_and_attributes(activations):
    data = activations.assign_coords(source=("seed", ["a", "b"]))
    result = decoding_baseline(lazy(data), features=["number", "gender"], random_state=4)
    assert set(result.data_vars) == {"auc", "std", "std_error", "p_value"}
    for variable in result.data_vars.values():
        assert variable.dims == ("model", "seed", "step", "pooling", "layer", "feature")
        assert variable.dtype == np.float64
    chosen = result.attrs["settings"]["features"]
    assert result["feature"].values.tolist() == chosen == ["number", "gender"]
    # Those of the data, in its order.
    assert set(result.attrs["features"]) > {"number", "gender"}
    assert result["source"].values.tolist() == ["a", "b"]
    assert result.attrs["analysis"] == "decoding_baseline"
    assert result.attrs["stimuli_hash"] == activations.attrs["stimuli_hash"]
    settings = {"zscore": False, "random_state": 4, "features": ["number", "gender"]}
    assert result.attrs["settings"] == settings


def test_what_was_not_recorded_stays_nan(activations):
    activations["activation"][:, 1] = np.nan
    activations["activation"][..., 0, :, 3:] = np.nan
    activations["activation"][..., 2, :, :] = np.nan
    result = decoding_baseline(activations)
    for variable in result.data_vars.values():
        assert np.isnan(variable.isel(seed=1)).all()
        assert np.isnan(variable.isel(layer=2)).all()
        assert np.isfinite(variable.isel(seed=0, layer=[0, 1])).all()
    smaller = activations.isel(unit=slice(0, 3), layer=[0], seed=[0])
    xr.testing.assert_equal(result.isel(layer=[0], seed=[0]), decoding_baseline(smaller))


def test_one_warning_names_the_features_with_too_few_sentences(activations):
    few = ["sg"] * 36 + ["pl"] * 4
    undefined = np.array([1.0] * 18 + [2.0] * 18 + [np.nan] * 4)
    data = activations.assign_coords(
        number=("sentence", few),
        frequency=("sentence", undefined),
        animate=("sentence", [True] * 40),
    )
    with pytest.warns(UserWarning) as caught:
        result = decoding_baseline(lazy(data))
    assert [str(warning.message) for warning in caught] == [
        "features: number, animate, frequency cannot be decoded, which takes two classes or more "
        "of at least 5 sentences each (undefined values are a class); NaN"
    ]
    assert caught[0].filename == __file__
    result = result.isel(seed=0, layer=0).compute()
    for variable in result.data_vars.values():
        assert np.isnan(variable.sel(feature=["number", "frequency", "animate"])).all()
        assert np.isfinite(variable.sel(feature="gender")).all()


def test_five_sentences_of_a_class_suffice(activations, recwarn):
    rare = activations.assign_coords(number=("sentence", ["sg"] * 35 + ["pl"] * 5))
    for random_state in range(5):
        result = decoding_baseline(rare.isel(WHERE), features=["number"], random_state=random_state)
        assert np.isfinite(result["auc"]).all()
    assert not recwarn.list


def test_bad_input_is_named(activations):
    with pytest.raises(InputError, match="^features: unknown value 'tense'"):
        decoding_baseline(activations, features=["tense"])
    with pytest.raises(InputError, match="^random_state: found -1"):
        decoding_baseline(activations, random_state=-1)
    with pytest.raises(InputError, match="^random_state: found None"):
        decoding_baseline(activations, random_state=None)
    with pytest.raises(InputError, match="no variable 'activation'"):
        decoding_baseline(activations.rename(activation="values"))
    activations["activation"][0, 1, 0, 1, 2, 3, 4] = np.inf
    message = "NaN or infinite values in model=toy, seed=1, step=-1, pooling=mean, layer=3"
    with pytest.raises(InputError, match=message):
        decoding_baseline(lazy(activations)).compute()


def test_numbers_are_told_apart_as_small_and_large() -> None:
    codes = np.array([[0, 0], [1, 1], [2, -1], [1, 0], [3, 2], [0, 1]])
    number = np.array([9.0, 2.0, 7.0, 2.0, np.nan, 2.0])
    measure = np.stack([np.full(6, np.nan), number], axis=1)
    found = classes(codes, measure)
    np.testing.assert_array_equal(found[:, 0], codes[:, 0])
    assert found[:, 1].tolist() == [1, 0, 1, 0, -1, 0]
    constant = np.array([[1.0], [1.0], [np.nan]])
    assert classes(np.array([[0], [0], [-1]]), constant).ravel().tolist() == [0, 0, -1]


def test_a_numeric_feature_is_decoded_from_a_unit_that_follows_it() -> None:
    rng = np.random.default_rng(0)
    length = rng.normal(size=60)
    data = xr.Dataset(
        {"activation": (("sentence", "unit"), length[:, np.newaxis] + rng.normal(0, 0.1, (60, 2)))},
        coords={"length": ("sentence", length, {"kind": "numeric"})},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decoding_baseline(data)["auc"].item() > 0.95
