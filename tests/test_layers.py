import dask
import numpy as np
import pytest
import xarray as xr

import mlem_xr as mx
from helpers import lazy
from mlem_xr.analyses.layers import concatenate_layers
from mlem_xr.schema import ACTIVATION, InputError
from mlem_xr.store.activations import create_store, write_checkpoint


def test_every_unit_of_every_layer_is_there(activations):
    whole = concatenate_layers(activations)
    assert whole["activation"].dims == ACTIVATION
    assert whole["activation"].dtype == np.float32
    assert whole["layer"].values.tolist() == ["net"]
    assert whole["unit"].values.tolist() == list(range(15))
    for unit in range(15):
        part = whole.isel(unit=unit)
        origin = {"layer": part["unit_layer"].item(), "unit": part["unit_number"].item()}
        assert origin == {"layer": 1 + unit // 5, "unit": unit % 5}
        expected = activations["activation"].sel(origin)
        np.testing.assert_array_equal(part["activation"].sel(layer="net"), expected)


def test_labels_are_those_of_the_selected_layers_and_units(activations):
    part = activations.sel(layer=[3, 1], unit=[4, 2])
    whole = concatenate_layers(part)
    assert whole["unit_layer"].values.tolist() == [3, 3, 1, 1]
    assert whole["unit_number"].values.tolist() == [4, 2, 4, 2]
    expected = activations["activation"].sel(layer=1, unit=4)
    np.testing.assert_array_equal(whole["activation"].isel(layer=0, unit=2), expected)


def test_any_order_of_dimensions_will_do(activations):
    turned = activations.transpose("unit", "sentence", "layer", "seed", ...)
    xr.testing.assert_identical(concatenate_layers(turned), concatenate_layers(activations))
    bare = activations.drop_vars(["layer", "unit"]).isel(model=0, seed=0, step=0, pooling=0)
    whole = concatenate_layers(bare)
    assert whole["activation"].dims == ("layer", "sentence", "unit")
    assert whole["unit_layer"].values.tolist() == [0] * 5 + [1] * 5 + [2] * 5


def test_squared_distances_are_the_sums_over_layers(activations):
    squared = mx.distances(activations) ** 2
    expected = np.sqrt(squared.sum("layer"))
    whole = mx.distances(concatenate_layers(activations)).sel(layer="net", drop=True)
    xr.testing.assert_allclose(whole, expected.transpose(*whole.dims), rtol=1e-12)


def test_layers_and_units_that_a_network_lacks_do_not_count(activations):
    activations["activation"][:, 0, ..., 2, :, :] = np.nan
    activations["activation"][:, 1, ..., 3:] = np.nan
    whole = concatenate_layers(activations)
    assert np.isnan(whole["activation"].isel(seed=0, unit=slice(10, 15))).all()
    distances = mx.distances(whole).isel(layer=0)
    for seed, kept in enumerate([{"layer": [0, 1]}, {"unit": [0, 1, 2]}]):
        part = activations.isel(seed=seed, **kept)
        expected = np.sqrt((mx.distances(part) ** 2).sum("layer"))
        np.testing.assert_allclose(distances.isel(seed=seed), expected, rtol=1e-12)


def test_analyses_take_the_result(activations):
    whole = concatenate_layers(lazy(activations))
    profile = mx.multivariate_importance(whole)
    assert profile["layer"].values.tolist() == ["net"]
    side_by_side = np.concatenate([activations["activation"].isel(layer=i) for i in range(3)], -1)
    by_hand = activations.isel(layer=[0]).drop_dims("unit").drop_vars("layer")
    dims = tuple(dim for dim in ACTIVATION if dim != "layer")
    expected = mx.multivariate_importance(by_hand.assign(activation=(dims, side_by_side)))
    xr.testing.assert_allclose(
        profile.sel(layer="net").drop_vars("layer").compute(), expected, rtol=1e-12
    )
    scan = mx.univariate_importance(whole)
    last = scan.isel(unit=(scan["unit_layer"] == 3).values, layer=0)
    expected = mx.univariate_importance(activations.sel(layer=[3])).isel(layer=0)
    np.testing.assert_allclose(last["importance"], expected["importance"], rtol=1e-10, atol=1e-15)


def test_errors_name_the_net(activations):
    activations["activation"][0, 1, 0, 0, 2, 3, 4] = np.inf
    whole = concatenate_layers(lazy(activations))
    with pytest.raises(InputError, match="in model=toy, seed=1, .* layer=net"):
        mx.multivariate_importance(whole).compute()


@pytest.mark.parametrize("chunks", [{"layer": 1}, {"layer": 2, "unit": 2}, {"sentence": 7}])
def test_lazy_results_are_those_of_numpy(activations, chunks):
    whole = concatenate_layers(lazy(activations, **chunks))
    assert whole["activation"].chunksizes["unit"] == (15,)
    assert whole["activation"].chunksizes["sentence"] == (40,)
    for dim in ("model", "seed", "step", "pooling", "layer"):
        assert set(whole["activation"].chunksizes[dim]) == {1}
    assert all(coordinate.chunks is None for coordinate in whole.coords.values())
    xr.testing.assert_identical(whole.compute(), concatenate_layers(activations))


def test_nothing_is_computed_before_it_is_asked_for(activations):
    def refuse(*args, **kwargs):
        raise AssertionError("computed too early")

    with dask.config.set(scheduler=refuse):
        whole = concatenate_layers(lazy(activations))
        with pytest.raises(AssertionError, match="computed too early"):
            whole.compute()


def test_a_store_keeps_what_it_knows(tmp_path, stimuli, activations):
    path = create_store(stimuli, tmp_path / "toy.zarr", pooling=["first-token", "mean"])
    for seed in (0, 1):
        values = activations["activation"].sel(model="toy", seed=seed, step=-1, drop=True)
        write_checkpoint(path, values, model="toy", seed=seed, step=-1, provenance={"source": "x"})
    opened = mx.open_store(path)
    whole = concatenate_layers(opened)
    assert whole.attrs == opened.attrs
    changed = {"activation", "layer", "unit", "n_units"}
    xr.testing.assert_identical(
        whole["n_units"].sel(layer="net", drop=True),
        opened["n_units"].sum("layer", keep_attrs=True),
    )
    for name in set(opened.variables) - changed:
        xr.testing.assert_identical(whole[name].drop_vars("layer", errors="ignore"), opened[name])
    assert whole["activation"].attrs == opened["activation"].attrs
    expected = concatenate_layers(activations)["activation"]
    np.testing.assert_array_equal(whole["activation"], expected)
    assert mx.multivariate_importance(whole).attrs["stimuli_hash"] == opened.attrs["stimuli_hash"]


def test_the_input_stays_as_it_is(activations):
    before = activations.copy(deep=True)
    concatenate_layers(activations)
    xr.testing.assert_identical(activations, before)


def test_bad_input_is_named(activations):
    with pytest.raises(InputError, match="'activation' has no dimension 'layer'"):
        concatenate_layers(activations.sel(layer=1))
    with pytest.raises(InputError, match="concatenated already"):
        concatenate_layers(concatenate_layers(activations))
    with pytest.raises(InputError, match="no variable 'activation'"):
        concatenate_layers(activations.rename(activation="values"))
