import warnings

import dask
import numpy as np
import pytest
import xarray as xr
from scipy.spatial.distance import pdist
from sklearn.manifold import MDS
from sklearn.metrics import pairwise_distances

from helpers import lazy
from mlem_xr.analyses import distances, mds
from mlem_xr.analyses.scaling import ScalingOptions
from mlem_xr.kernels.scaling import place_sentences
from mlem_xr.schema import InputError

WHERE = {"model": 0, "seed": 1, "step": 0, "pooling": 1, "layer": 2}


def scikit_learn(distance, *, init, **options):
    defaults = {"n_components": 2, "n_init": 1, "max_iter": 200, "eps": 1e-4, "random_state": 0}
    model = MDS(metric="precomputed", init=init, normalized_stress=False, **defaults | options)
    return model.fit_transform(distance), model.stress_


def raw_stress(position, distance):
    return np.sum((pdist(position) - distance[np.triu_indices(len(distance), 1)]) ** 2)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_components": 3},
        {"n_init": 4, "random_state": 2},
        {"max_iter": 3},
        {"eps": 1e-2},
        {"distance": "manhattan"},
        {"distance": "cosine"},
    ],
    ids=str,
)
def test_random_starts_are_those_of_scikit_learn(activations, options):
    result = mds(activations, **options).isel(WHERE)
    own = {name: value for name, value in options.items() if name != "distance"}
    values = activations["activation"].isel(WHERE).values.astype(np.float64)
    distance = pairwise_distances(values, metric=options.get("distance", "euclidean"))
    position, stress = scikit_learn(distance, init="random", **own)
    np.testing.assert_allclose(result["position"], position, atol=1e-9)
    assert result["stress"].item() == pytest.approx(stress, rel=1e-9)


@pytest.mark.parametrize("init", ["random", "classical"])
@pytest.mark.parametrize("distance", ["euclidean", "manhattan", "correlation"])
def test_stress_is_what_it_says_and_not_above_scikit_learns(activations, init, distance):
    part = activations.isel(model=0, step=0, pooling=0, seed=0)
    result = mds(part, init=init, distance=distance)
    for layer in range(3):
        neural = distances(part, distance=distance).isel(layer=layer).values
        one = result.isel(layer=layer)
        stress = one["stress"].item()
        assert stress == pytest.approx(raw_stress(one["position"], neural), rel=1e-9)
        same = {"random": "random", "classical": "classical_mds"}[init]
        assert stress <= scikit_learn(neural, init=same)[1] * (1 + 1e-9)


def test_a_classical_start_is_not_above_a_random_one(activations):
    random, classical = mds(activations)["stress"], mds(activations, init="classical")["stress"]
    assert (classical <= random).all()


def test_sentences_in_a_plane_keep_their_distances():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(30, 2))
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0][:2]
    data = xr.Dataset(
        {"activation": (("sentence", "unit"), plane @ rotation)},
        coords={"odd": ("sentence", np.arange(30) % 2)},
    )
    for options in ({"init": "classical"}, {"n_init": 5, "eps": 0.0, "max_iter": 2000}):
        result = mds(data, **options)
        np.testing.assert_allclose(pdist(result["position"]), pdist(plane), atol=1e-3)
        assert result["stress"] < 1e-3


def test_zscore_standardises_every_unit(activations):
    part = activations.isel(WHERE)
    values = part["activation"].values.astype(np.float64)
    scaled = part.assign(
        activation=(("sentence", "unit"), (values - values.mean(0)) / values.std(0))
    )
    result = mds(part, zscore=True)
    np.testing.assert_allclose(result["position"], mds(scaled)["position"], atol=1e-9)
    assert not np.allclose(result["stress"], mds(part)["stress"])


def test_mds_is_the_kernel_in_each_representation(activations):
    options = {"distance": "l1", "n_components": 3, "init": "classical"}
    result = mds(activations, **options).isel(WHERE)
    activation = activations["activation"].isel(WHERE).values
    expected = place_sentences(activation, ScalingOptions(**options))
    np.testing.assert_array_equal(result["position"], expected["position"])
    assert result["stress"] == expected["stress"]


@pytest.mark.parametrize("init", ["random", "classical"])
def test_coinciding_sentences_have_a_map(activations, init):
    activations["activation"][..., 2, :, :] = 1.5
    activations["activation"][..., 1, :20, :] = 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "activations: all sentences have the same")
        result = mds(activations, init=init)
    assert (result["stress"].isel(layer=2) == 0).all()
    assert (result["position"].isel(layer=2) == 0).all()
    assert np.isfinite(result["position"]).all()


@pytest.mark.parametrize("chunks", [{"layer": 1}, {"seed": 1, "unit": 2}, {"sentence": 7}])
def test_lazy_results_are_those_of_numpy(activations, chunks):
    result = mds(lazy(activations, **chunks))
    xr.testing.assert_allclose(result.compute(), mds(activations), rtol=1e-9)
    assert result["position"].chunks is not None


def test_nothing_is_computed_before_it_is_asked_for(activations):
    def refuse(*args, **kwargs):
        raise AssertionError("computed too early")

    with dask.config.set(scheduler=refuse):
        result = mds(lazy(activations))
        with pytest.raises(AssertionError, match="computed too early"):
            result.compute()


def test_dims_labels_and_attributes(activations):
    result = mds(lazy(activations), n_components=3, random_state=7)
    cell = ("model", "seed", "step", "pooling", "layer")
    assert result["position"].dims == (*cell, "sentence", "axis")
    assert result["stress"].dims == cell
    assert {variable.dtype for variable in result.data_vars.values()} == {np.dtype(np.float64)}
    assert result["axis"].values.tolist() == [0, 1, 2]
    for name in ("sentence", "text", *activations.attrs["features"]):
        xr.testing.assert_identical(result[name].variable, activations[name].variable)
    assert result["layer"].values.tolist() == [1, 2, 3]
    assert result.attrs["analysis"] == "mds"
    assert result.attrs["stimuli_hash"] == activations.attrs["stimuli_hash"]
    assert result.attrs["settings"] == {
        "distance": "euclidean",
        "zscore": False,
        "n_components": 3,
        "n_init": 1,
        "init": "random",
        "max_iter": 200,
        "eps": 1e-4,
        "random_state": 7,
    }


def test_what_was_not_recorded_stays_nan(activations):
    activations["activation"][:, 1] = np.nan
    activations["activation"][..., 0, :, 3:] = np.nan
    activations["activation"][..., 2, :, :] = np.nan
    result = mds(activations)
    for variable in result.data_vars.values():
        assert np.isnan(variable.isel(seed=1)).all()
        assert np.isnan(variable.isel(layer=2)).all()
        assert np.isfinite(variable.isel(seed=0, layer=[0, 1])).all()
    smaller = mds(activations.isel(unit=slice(0, 3), layer=[0], seed=[0]))
    xr.testing.assert_allclose(result.isel(layer=[0], seed=[0]), smaller)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": "euclid"}, "distance: unknown value 'euclid'; known: 'euclidean'"),
        ({"init": "pca"}, "init: unknown value 'pca'; known: 'random', 'classical'"),
        ({"n_components": 0}, "n_components: found 0; expected an integer of at least 1"),
        ({"n_components": 41}, "n_components: found 41; expected at most 40"),
        ({"n_init": 1.5}, "n_init: found 1.5; expected an integer"),
        ({"n_init": 2, "init": "classical"}, "n_init: found 2; expected 1"),
        ({"max_iter": 0}, "max_iter: found 0"),
        ({"eps": -1.0}, "eps: found -1.0"),
        ({"random_state": -1}, "random_state: found -1"),
    ],
    ids=str,
)
def test_bad_options_are_named(activations, options, message):
    with pytest.raises(InputError, match=message):
        mds(activations, **options)


def test_bad_activations_are_named(activations):
    with pytest.raises(InputError, match="no variable 'activation'"):
        mds(activations.rename(activation="values"))
    activations["activation"][0, 1, 0, 1, 2, 3, 4] = np.inf
    message = "NaN or infinite values in model=toy, seed=1, step=-1, pooling=mean, layer=3"
    with pytest.raises(InputError, match=message):
        mds(lazy(activations)).compute()
