import itertools
import os
import signal
from collections import Counter
from dataclasses import replace
from functools import partial

import dask
import numpy as np
import pytest
import xarray as xr
from zarr.storage import LocalStore

import mlem_xr as mx
from forks import start_fork
from helpers import layers, save, statuses, write
from mlem_xr.analyses.origin import digests
from mlem_xr.analyses.univariate import UNIVARIATE, UnivariateOptions
from mlem_xr.kernels.digests import odd_numbers
from mlem_xr.kernels.explain import explain_units
from mlem_xr.schema import InputError
from mlem_xr.store import saving, tasks

pytestmark = pytest.mark.usefixtures("forked_workers")

CELL = ["model", "seed", "step", "pooling", "layer"]


@pytest.mark.parametrize("function", [mx.multivariate_importance, mx.univariate_importance])
def test_saved_results_are_those_computed(store, function):
    result = function(mx.open_store(store))
    # Two models, two seeds, two poolings and three layers; (small, 1) is not recorded,
    # and (small, 0) has two layers.
    assert save(result, store) == {"computed": 16, "not recorded": 6}
    opened = mx.open_results(store, function.__name__)
    computed = result.compute()
    assert opened.chunks
    assert opened.attrs | computed.attrs == opened.attrs
    for name, variable in computed.data_vars.items():
        assert opened[name].dims == variable.dims
        np.testing.assert_array_equal(opened[name], variable)
        assert opened[name].attrs == variable.attrs
    assert save(result, store) == {"skipped": 16, "not recorded": 6}


def test_what_is_current_is_not_computed(store, monkeypatch):
    result = mx.multivariate_importance(mx.open_store(store))
    save(result, store)

    def refuse(*args, **kwargs):
        raise AssertionError("computed again")

    monkeypatch.setattr(saving, "compute_and_write", refuse)
    assert save(result, store) == {"skipped": 16, "not recorded": 6}
    with pytest.raises(AssertionError, match="computed again"):
        save(result, store, refresh=["importance"])


def test_a_store_is_asked_for_little(stimuli, tmp_path, monkeypatch):
    """In an object store each request takes some 30 ms."""
    asked = {"get": Counter(), "set": Counter()}

    def counted(name, method):
        def call(self, key, *args, **kwargs):
            asked[name][f"{self.root}/{key}"] += 1
            return method(self, key, *args, **kwargs)

        return call

    for name in asked:
        monkeypatch.setattr(LocalStore, name, counted(name, getattr(LocalStore, name)))
    store = mx.create_store(stimuli, tmp_path / "toy.zarr", pooling=["mean", "last-token"])
    write(store, layers(0))
    # Each is described when it is made, and again: arrays as they grow, the store as it has more.
    assert max(n for file, n in asked["set"].items() if file.endswith("zarr.json")) == 3
    asked["get"].clear()
    result = mx.multivariate_importance(mx.open_store(store))
    # Marks stand in more than one array, and are looked at before and after the labels.
    assert max(asked["get"].values()) == 2
    n_arrays = len(list(store.glob("*/zarr.json")))
    assert asked["get"].total() < 2.5 * n_arrays
    asked["set"].clear()
    asked["get"].clear()
    save(result)
    assert max(n for file, n in asked["set"].items() if file.endswith("zarr.json")) == 2
    # Older formats have other names for it.
    assert not [file for file in asked["get"] if file.rsplit("/", 1)[-1].startswith(".z")]


def test_a_layer_that_a_network_lacks_is_nothing_to_save(store):
    lacking = mx.multivariate_importance(mx.open_store(store)).sel(model=["small"], layer=[3])
    with pytest.raises(InputError, match="as there are 0 representations computed; expected"):
        mx.save_results(lacking.sel(seed=[0]), progress=False)


def test_only_missing_representations_are_computed(store):
    result = mx.multivariate_importance(mx.open_store(store))
    assert save(result.sel(seed=1, layer=[1, 3], model="toy"), store) == {"computed": 4}
    table = saving.write_results(result, store, progress=False)
    assert statuses(table) == {"computed": 12, "skipped": 4, "not recorded": 6}
    skipped = table[table["status"] == "skipped"]
    assert set(skipped["layer"]) == {1, 3}
    assert set(skipped["seed"]) == {1}
    opened = mx.open_results(store, "multivariate_importance")
    np.testing.assert_array_equal(opened["importance"], result["importance"])


def test_layers_saved_in_any_order_stand_in_their_own_places(store):
    """Layer 2 comes last in the files, so that the places of 1, 2 and 3 are 0, 2 and 1."""
    result = mx.univariate_importance(mx.open_store(store)).sel(model="toy")
    save(result.sel(layer=[1, 3]))
    save(result.sel(layer=[2]))
    save(result, refresh=["importance"])
    opened = mx.open_results(store, "univariate_importance").sel(model="toy")
    assert opened["layer"].values.tolist() == [1, 2, 3]
    xr.testing.assert_equal(opened["importance"].drop_vars("computed_from"), result["importance"])


def test_new_checkpoints_extend_the_results(store):
    save(mx.univariate_importance(mx.open_store(store)), store)
    write(store, layers(5, n_layers=4, n_units=7), model="large", seed=4, step=1000)
    result = mx.univariate_importance(mx.open_store(store))
    assert save(result, store)["computed"] == 8
    opened = mx.open_results(store, "univariate_importance")
    np.testing.assert_array_equal(opened["r2"], result["r2"])
    np.testing.assert_array_equal(opened["weight"], result["weight"])


def test_results_of_activations_recorded_again_go_stale(store):
    """Exactly the results of one checkpoint are computed again."""
    result = mx.multivariate_importance(mx.open_store(store))
    save(result, store)
    write(store, layers(9), seed=1, overwrite=True)
    assert mx.list_results(store)[["current", "stale"]].values.tolist() == [[10, 6]]
    with pytest.warns(
        UserWarning,
        match=r"^results: 6 of 16 representations of multivariate_importance are NaN \(6 stale\), "
        "with model=toy; seed=1; save_results of the same analysis computes them$",
    ):
        opened = mx.open_results(store, "multivariate_importance")
    assert np.isnan(opened["r2"].sel(model="toy", seed=1)).all()
    assert np.isfinite(opened["r2"].sel(model="toy", seed=0)).all()
    with pytest.raises(InputError, match="recorded again since it was made"):
        save(result, store)
    fresh = mx.multivariate_importance(mx.open_store(store))
    table = saving.write_results(fresh, store, progress=False)
    computed = table[table["status"] == "computed"]
    assert len(computed) == 6
    assert set(computed["seed"]) == {1}
    np.testing.assert_array_equal(
        mx.open_results(store, "multivariate_importance")["r2"], fresh["r2"]
    )


def test_an_interruption_says_what_is_saved_and_how_to_go_on(store, capsys):
    def interrupted(activation, **arguments):
        calls.append(activation)
        if len(calls) >= 5:
            raise KeyboardInterrupt
        return explain_units(activation=activation, **arguments)

    calls = []
    stopping = replace(UNIVARIATE, function=interrupted)
    result = stopping(mx.open_store(store), UnivariateOptions())
    with dask.config.set(scheduler="sync"), pytest.raises(KeyboardInterrupt):
        mx.save_results(result)
    said = capsys.readouterr().err.splitlines()[-1]
    n_saved = int(mx.list_results(store)["current"].item())
    # The three layers of the first checkpoint are written together.
    assert 3 <= n_saved < 16
    assert said == (
        f"univariate_importance: interrupted; {n_saved} of 16 representations are saved; "
        "the same call goes on"
    )
    with pytest.warns(UserWarning, match=rf"are NaN \({16 - n_saved} not computed\)"):
        mx.open_results(store, "univariate_importance")
    assert save(mx.univariate_importance(mx.open_store(store)))["skipped"] == n_saved


def test_the_only_settings_that_are_saved_need_not_be_repeated(store, capsys):
    data = mx.open_store(store)
    save(mx.multivariate_importance(data, distance="cosine", zscore=True), store)
    capsys.readouterr()
    opened = mx.open_results(store, "multivariate_importance")
    assert opened.attrs["settings"]["distance"] == "cosine"
    said = "multivariate_importance: opened what is saved, with distance cosine; zscore True\n"
    assert capsys.readouterr().err == said
    with pytest.raises(InputError, match="none saved for multivariate_importance with default set"):
        mx.open_results(store, "multivariate_importance", zscore=False)
    # Two choices, none of them the default: neither is meant.
    save(mx.multivariate_importance(data, zscore=True), store)
    with pytest.raises(InputError, match="none saved for multivariate_importance with default set"):
        mx.open_results(store, "multivariate_importance")
    assert mx.open_results(store, "multivariate_importance", distance="cosine").attrs["settings"][
        "zscore"
    ]
    # The default goes before all others.
    save(mx.multivariate_importance(data), store)
    capsys.readouterr()
    opened = mx.open_results(store, "multivariate_importance")
    assert opened.attrs["settings"]["distance"] == "euclidean"
    assert capsys.readouterr().err == ""


def test_settings_are_kept_apart(store):
    data = mx.open_store(store)
    save(mx.multivariate_importance(data), store)
    save(mx.multivariate_importance(data, distance="cosine", features=["number"]), store)
    listed = mx.list_results(store)
    assert len(listed) == 2
    assert listed["current"].tolist() == [16, 16]
    cosine = mx.open_results(
        store, "multivariate_importance", distance="cosine", features=["number"]
    )
    expected = mx.multivariate_importance(data, distance="cosine", features=["number"])
    np.testing.assert_array_equal(cosine["importance"], expected["importance"])
    with pytest.raises(InputError, match="none saved for multivariate_importance"):
        mx.open_results(store, "multivariate_importance", zscore=True)
    with pytest.raises(InputError, match="^analysis: unknown value 'anova'; known: 'multivariate"):
        mx.open_results(store, "anova")


def test_the_concatenated_layers_are_kept_apart(store):
    data = mx.open_store(store).sel(pooling=["mean"])
    save(mx.multivariate_importance(data), store)
    whole = mx.concatenate_layers(data)
    for function in (mx.multivariate_importance, mx.univariate_importance):
        result = function(whole)
        assert save(result, store) == {"computed": 3, "not recorded": 1}
        opened = mx.open_results(store, function.__name__, layer="net")
        assert opened["layer"].values.tolist() == ["net"]
        np.testing.assert_array_equal(opened["importance"], result["importance"])
    save(mx.top_unit_importance(whole, mx.univariate_importance(whole), k=2), store)
    for opened in (
        mx.open_results(store, "univariate_importance", layer="net"),
        mx.open_results(store, "top_unit_importance", layer="net", k=2),
    ):
        assert opened["unit_layer"].values.tolist() == 5 * [1] + 5 * [2] + 5 * [3]
        assert opened["unit_number"].values.tolist() == 3 * list(range(5))
    layers_apart = mx.open_results(store, "multivariate_importance")
    assert layers_apart["layer"].values.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(layers_apart["r2"], mx.multivariate_importance(data)["r2"])


def test_any_choice_of_concatenated_layers_is_saved_and_opened(store):
    data = mx.open_store(store).sel(pooling=["mean"])
    chosen = {some: data.sel(layer=list(some)) for some in [(1, 2), (3, 2, 1), (1, 2, 3)]}
    for function in (mx.multivariate_importance, mx.univariate_importance):
        made = {k: function(mx.concatenate_layers(part)) for k, part in chosen.items()}
        for number, result in enumerate(made.values()):
            assert save(result, store) == {"computed": 3, "not recorded": 1}
            if number == 0:
                # The only one there is need not be named.
                opened = mx.open_results(store, function.__name__, layer="net")
                np.testing.assert_array_equal(opened["r2"], result["r2"])
        for chosen_layers, result in made.items():
            opened = mx.open_results(store, function.__name__, layer="net", layers=chosen_layers)
            np.testing.assert_array_equal(opened["importance"], result["importance"])
            assert opened.attrs["settings"]["layers"] == list(chosen_layers)
            if "unit" in result.dims:
                for name in ("unit_layer", "unit_number"):
                    np.testing.assert_array_equal(opened[name], result[name])
        # All layers in their order are meant where there are several.
        opened = mx.open_results(store, function.__name__, layer="net")
        assert opened.attrs["settings"]["layers"] == [1, 2, 3]


def test_concatenated_layers_of_other_units_are_refused(store):
    data = mx.open_store(store)
    with pytest.raises(InputError, match="12 units; the store has 15"):
        save(mx.univariate_importance(mx.concatenate_layers(data.isel(unit=slice(0, 4)))), store)
    turned = data.isel(unit=slice(None, None, -1))
    with pytest.raises(InputError, match="its units are not those of the store's layers"):
        save(mx.univariate_importance(mx.concatenate_layers(turned)), store)


def test_results_stay_openable_when_a_layer_or_a_wider_network_is_recorded(store):
    scan = mx.univariate_importance(mx.concatenate_layers(mx.open_store(store)))
    profile = mx.multivariate_importance(mx.concatenate_layers(mx.open_store(store)))
    for result in (scan, profile):
        save(result, store)
    expected = scan.compute(), profile.compute()
    write(store, layers(5, n_layers=4, n_units=7), model="large", seed=4)
    for before in expected:
        opened = mx.open_results(store, before.attrs["analysis"], layer="net")
        np.testing.assert_array_equal(opened["importance"], before["importance"])


def test_results_of_concatenated_layers_are_not_mixed_with_those_of_more_units(store):
    """A wider network shifts the numbers of the units."""

    def analyses():
        whole = mx.concatenate_layers(mx.open_store(store).sel(model=["toy"]))
        scan = mx.univariate_importance(whole)
        best = mx.top_unit_importance(whole, scan, k=2)
        return scan, best, mx.cluster_units(scan), mx.multivariate_importance(whole)

    for result in analyses():
        assert save(result, store)["computed"] == 4
    write(store, layers(5, n_units=7), model="wide", seed=0)
    for result, done in zip(analyses(), [*3 * ["computed"], "skipped"], strict=True):
        assert save(result, store)[done] == 4
    opened = mx.open_results(store, "univariate_importance", layer="net").sel(model=["toy"])
    xr.testing.assert_equal(opened.drop_vars("computed_from").compute(), analyses()[0].compute())


def test_top_units_and_clusters_are_saved_too(store):
    data = mx.open_store(store)
    scan = mx.univariate_importance(data)
    best = mx.top_unit_importance(data, scan, by="r", k=[1, 3])
    assert save(best, store)["computed"] == 16
    opened = mx.open_results(store, "top_unit_importance", by="r", k=[1, 3])
    np.testing.assert_array_equal(opened["importance"], best["importance"])
    np.testing.assert_array_equal(opened["chosen"], best["chosen"])
    assert opened["chosen"].dtype == bool
    groups = mx.cluster_units(scan, scale="zscore")
    assert save(groups, store)["computed"] == 16
    opened = mx.open_results(store, "cluster_units", scale="zscore")
    np.testing.assert_array_equal(opened["cluster"], groups["cluster"])


@pytest.mark.parametrize(
    ("analysis", "settings"), [("mds", {}), ("decoding_baseline", {"features": ["number"]})]
)
def test_the_other_analyses_are_saved_too(store, analysis, settings):
    function = partial(getattr(mx, analysis), **settings)
    data = mx.open_store(store).sel(pooling=["mean"])
    result = function(data)
    assert save(result, store)["computed"] == 8
    opened = mx.open_results(store, analysis, **settings)
    for name, variable in result.compute().data_vars.items():
        np.testing.assert_array_equal(opened[name], variable)
    assert save(result, store)["skipped"] == 8
    stage = "mds" if analysis == "mds" else "importance"
    other = "importance" if analysis == "mds" else "mds"
    assert save(result, store, refresh=[other])["skipped"] == 8
    assert save(result, store, refresh=[stage])["computed"] == 8
    whole = function(mx.concatenate_layers(data))
    assert save(whole, store)["computed"] == 3


def test_refresh_follows_the_order_of_dependency(store):
    result = mx.multivariate_importance(mx.open_store(store))
    save(result, store)
    for stage in ("importance", "distances", "activations"):
        assert save(result, store, refresh=[stage])["computed"] == 16
    assert save(result, store, refresh=["mds"])["skipped"] == 16
    with pytest.raises(InputError, match="^refresh: unknown value 'weights'; known: 'activations'"):
        save(result, store, refresh=["weights"])


def test_results_of_other_sentences_or_units_are_refused(store):
    data = mx.open_store(store)
    with pytest.raises(InputError, match="other sentences, features or items than the store's"):
        save(mx.multivariate_importance(data.isel(sentence=slice(0, 30))), store)
    with pytest.raises(InputError, match="4 units; the store has 5"):
        save(mx.univariate_importance(data.isel(unit=slice(0, 4))), store)
    result = mx.multivariate_importance(data)
    del result.attrs["store"]
    with pytest.raises(InputError, match="^store: none given, and the activations were not opened"):
        mx.save_results(result)
    with pytest.raises(InputError, match="no attribute 'analysis'"):
        save(xr.Dataset(), store)
    with pytest.raises(InputError, match="no coordinate 'layer'"):
        save(mx.multivariate_importance(data).isel(layer=0, drop=True), store)


def test_parts_of_a_result_are_refused(store):
    data = mx.open_store(store)
    scan = mx.univariate_importance(data)
    best = mx.top_unit_importance(data, scan, k=[1, 2])
    for part in (
        scan.sel(unit=1),
        scan.sel(feature="number"),
        scan.sel(feature=["number"]),
        scan.isel(fold=[1]),
        scan[["r2"]],
        best.sel(k=2),
        mx.mds(data).isel(sentence=[1, 2, 3]),
    ):
        with pytest.raises(InputError, match="^result: a part of"):
            save(part, store)
    for function in (mx.multivariate_importance, mx.mds, mx.decoding_baseline):
        with pytest.raises(InputError, match="2 units; the store has 5"):
            save(function(data.isel(unit=[1, 2])), store)
    assert len(mx.list_results(store)) == 0


def test_what_is_derived_from_stale_results_is_not_saved(store):
    save(mx.univariate_importance(mx.open_store(store)), store)
    write(store, layers(9), seed=1, overwrite=True)
    groups = mx.cluster_units(mx.open_results(store, "univariate_importance"))
    assert save(groups, store) == {"computed": 10, "not available": 6, "not recorded": 6}
    fresh = mx.cluster_units(mx.univariate_importance(mx.open_store(store)))
    assert save(fresh, store)["computed"] == 6


def test_what_a_killed_process_left_beside_the_arrays_does_not_matter(store, recwarn):
    result = mx.multivariate_importance(mx.open_store(store))
    save(result.sel(seed=[0]), store)
    for metadata in (store / "results").rglob("r2/zarr.json"):
        metadata.parent.with_name("zarr.0123.partial").touch()
    save(result, store)
    opened = mx.open_results(store, "multivariate_importance")
    np.testing.assert_array_equal(opened["r2"], result["r2"])
    assert not recwarn.list


def test_results_stand_in_the_order_of_the_store(store):
    activations = mx.open_store(store)
    scan = mx.univariate_importance(activations)
    for pooling in ("mean", "first-token"):
        save(scan.sel(pooling=[pooling], model=["small", "toy"]), store)
    opened = mx.open_results(store, "univariate_importance")
    for dim in ("model", "pooling", "unit"):
        assert opened[dim].values.tolist() == activations[dim].values.tolist()
    np.testing.assert_array_equal(opened["importance"], scan["importance"])
    mx.top_unit_importance(activations, opened, k=2)


def test_a_store_that_cannot_be_written_gives_what_is_saved(store, monkeypatch):
    result = mx.multivariate_importance(mx.open_store(store))
    save(result, store)

    def refuse(*args, **kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr(saving, "locked", refuse)
    assert save(result, store) == {"skipped": 16, "not recorded": 6}
    saved = mx.open_results(store, "multivariate_importance")["r2"]
    np.testing.assert_array_equal(saved, result["r2"])
    with pytest.raises(PermissionError):
        save(mx.multivariate_importance(mx.open_store(store), zscore=True), store)


def test_unknown_settings_are_named(store):
    save(mx.multivariate_importance(mx.open_store(store)), store)
    with pytest.raises(InputError, match="settings of multivariate_importance: .*'distanse'"):
        mx.open_results(store, "multivariate_importance", distanse="euclidean")
    with pytest.raises(InputError, match="none saved for top_unit_importance .*; saved: nothing"):
        mx.open_results(store, "top_unit_importance")
    with pytest.raises(InputError, match="^zscore: unknown value 'no'; known: False, True"):
        mx.open_results(store, "multivariate_importance", zscore="no")
    with pytest.raises(InputError, match="^univariate: found 3; expected a mapping"):
        mx.open_results(store, "cluster_units", univariate=3)
    with pytest.raises(InputError, match="settings of univariate_importance: .*'zscor'"):
        mx.open_results(store, "cluster_units", univariate={"zscor": True})


def test_a_failing_representation_keeps_what_was_saved(store):
    bad = layers(1)
    bad[:, 2, 5] = 1.0
    write(store, bad, seed=1, overwrite=True)
    result = mx.multivariate_importance(mx.open_store(store), distance="correlation")
    assert save(result.sel(layer=[1]), store)["computed"] == 6
    with pytest.raises(InputError, match="^distance: 'correlation' is undefined for .* sentence 5"):
        save(result, store)
    table = mx.list_results(store, detail=True)
    failing = (table["model"] == "toy") & (table["seed"] == 1) & (table["layer"] == 3)
    assert table[failing]["status"].tolist() == ["not computed"] * 2
    assert (table[table["layer"] == 1]["status"] == "current").sum() == 6


def add_in_place(data):
    data["activation"].loc[{"unit": 0}] += 1
    return data


CHANGES = {
    "values": lambda data: data.assign(activation=data["activation"] ** 2),
    "a unit": lambda data: data.assign(activation=data["activation"].where(data["unit"] != 3, 0)),
    "a layer": lambda data: data.assign(activation=data["activation"].where(data["layer"] != 3, 1)),
    "a seed": lambda data: data.assign(activation=data["activation"] + 1e-5 * (data["seed"] == 1)),
    "sentences": lambda data: data.assign(
        activation=data["activation"].copy(data=data["activation"].data[..., ::-1, :])
    ),
    "labels": lambda data: data.isel(layer=slice(2)).assign_coords(layer=[2, 3]),
    "in place": add_in_place,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("how", ["lazy", "computed", "in memory"])
def test_results_of_activations_that_were_changed_are_not_those_of_the_store(store, change, how):
    """Else they would be taken for those of the store, with default settings."""
    opened = mx.open_store(store)
    changed = CHANGES[change](opened.load() if how == "in memory" else opened)
    result = mx.multivariate_importance(changed)
    with pytest.raises(InputError, match="^result: it is not of the activations .* of model="):
        mx.save_results(result.compute() if how == "computed" else result, progress=False)
    assert mx.list_results(store).empty


def test_digests_are_those_of_the_plain_loop():
    values = np.random.default_rng(0).normal(size=(2, 7, 5)).astype(np.float32)
    values[1, :, 3:] = np.nan
    array = xr.DataArray(values, dims=("layer", "sentence", "unit"))
    of_sentence, of_unit = (odd_numbers(n, seed).tolist() for seed, n in enumerate((7, 5)))
    bits = np.where(np.isnan(values), 0, values.view(np.uint32)).tolist()
    expected = [
        sum(
            layer[i][j] * of_sentence[i] * of_unit[j]
            for i, j in itertools.product(range(7), range(5))
        )
        % 2**64
        for layer in bits
    ]
    assert all(number % 2 for number in of_sentence + of_unit)
    for one in (array, array.chunk(unit=2, sentence=3), array.transpose("unit", ...).chunk()):
        assert digests(one).values.tolist() == expected
    assert digests(array.astype(np.float64)).values.tolist() == expected


SAME = {
    "chunks": lambda data: data.chunk(unit=2, sentence=7),
    "order": lambda data: data.transpose("unit", ...).isel(layer=[2, 0]),
    "in memory": lambda data: data.load(),
    "one of each": lambda data: data.sel(seed=0, pooling="mean"),
    "parts": lambda data: xr.concat([data.sel(seed=[s]) for s in (1, 0)], "seed"),
    "all layers": mx.concatenate_layers,
}


@pytest.mark.parametrize("same", SAME)
def test_results_of_a_selection_in_another_form_are_those_of_the_store(store, same):
    result = mx.multivariate_importance(SAME[same](mx.open_store(store)))
    assert save(result, store)["computed"] > 0
    assert save(result.compute(), store)["skipped"] > 0


def test_results_that_start_from_those_of_changed_activations_are_not_the_store_s(store):
    data = mx.open_store(store)
    scan = mx.univariate_importance(CHANGES["values"](data))
    for result in (mx.top_unit_importance(data, scan, k=2), mx.cluster_units(scan)):
        with pytest.raises(InputError, match="^result: it is not of the activations"):
            mx.save_results(result, progress=False)


def save_or_die(store):
    write, calls = saving._write, itertools.count(1)

    def write_and_die(*arguments):
        write(*arguments)
        if next(calls) == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    tasks._SHARE_OF_THE_WHOLE = 100
    saving._write = write_and_die
    save(mx.univariate_importance(mx.open_store(store)), store)


def test_a_killed_run_is_continued_bit_for_bit(store):
    """It kills itself when its fifth task is written, whatever its other threads are at."""
    for seed in range(2, 12):
        write(store, layers(seed), seed=seed)
    process = start_fork(save_or_die, store)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    result = mx.univariate_importance(mx.open_store(store))
    counts = save(result, store)
    assert counts["skipped"] >= 5
    assert counts["computed"] >= 5
    assert counts["skipped"] + counts["computed"] == 6 * 12 + 4
    opened = mx.open_results(store, "univariate_importance").compute()
    for name, variable in result.compute().data_vars.items():
        np.testing.assert_array_equal(opened[name], variable)


def test_results_on_a_cluster_of_processes_are_the_same(store):
    result = mx.univariate_importance(mx.open_store(store))
    expected = result.compute()
    with mx.local_client(2):
        xr.testing.assert_identical(result.compute(), expected)
        assert save(result, store)["computed"] == 16
    opened = mx.open_results(store, "univariate_importance")
    np.testing.assert_array_equal(opened["importance"], expected["importance"])
