"""Analyses as records: what follows from one, and a toy that gets it all."""

import inspect
import math
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner

import mlem_xr as mx
from helpers import layers, lazy, refuse, save, write
from mlem_xr.analyses import ANALYSES, Analysis, lifting
from mlem_xr.analyses.base import Output
from mlem_xr.analyses.options import Options, integer, option
from mlem_xr.cli import app
from mlem_xr.schema import REPRESENTATION, InputError
from mlem_xr.store.identity import VERSION
from mlem_xr.store.settings import find


def level_means(activation, codes, options):
    """A toy kernel: the mean of every unit over the sentences of a level, and how many count."""
    level = codes == options.level
    mean = np.stack([activation[own].mean(axis=0) for own in level.T], axis=1)
    return {
        "mean": options.factor * mean,
        "above": mean > 0,
        "share": level.mean(axis=0),
        **({"spread": np.asarray(activation.std())} if options.spread else {}),
    }


OUTPUTS = {
    "mean": Output(("unit", "feature"), "mean activation", "activation"),
    "above": Output(("unit", "feature"), "whether it is above 0", dtype="bool"),
    "share": Output(("feature",), "share of the sentences"),
}
SPREAD = {"spread": Output((), "standard deviation", "activation")}


@dataclass(frozen=True, kw_only=True)
class ToyOptions(Options):
    level: int = option(0, "Which level.", check=integer(at_least=0))
    factor: float = option(1.0, "What the mean is multiplied with.", check=lambda _, v: float(v))
    spread: bool = option(False, "Compute the spread too.")


TOY = Analysis(
    name="level_means",
    help="Average every unit over a level of each feature.",
    command="level-means",
    function=level_means,
    inputs={"activation": ("sentence", "unit"), "codes": ("sentence", "feature")},
    outputs=lambda options: OUTPUTS | (SPREAD if options.spread else {}),
    options=ToyOptions,
    leading="share",
)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(ANALYSES, TOY.name, TOY)
    return TOY


def test_a_record_makes_a_labeled_result(activations):
    result = TOY(activations, TOY.options(factor=2.0, spread=True), features=["number", "animate"])
    assert result["mean"].dims == (*REPRESENTATION, "unit", "feature")
    assert result["above"].dtype == bool
    assert result["spread"].dims == REPRESENTATION
    assert result["mean"].attrs == {"long_name": "mean activation", "units": "activation"}
    for feature in ("number", "animate"):
        values = activations[feature].values
        own = activations["activation"].isel(sentence=values == values[0]).mean("sentence")
        found = result["mean"].sel(feature=feature, drop=True)
        xr.testing.assert_allclose(found, 2 * own.astype(float), rtol=1e-5)
        above = result["above"].sel(feature=feature, drop=True)
        np.testing.assert_array_equal(above, own > 0)
    assert result.attrs["settings"] == {
        **{"level": 0, "factor": 2.0, "spread": True},
        "features": ["number", "animate"],
    }
    assert "spread" not in TOY(activations, TOY.options())


@pytest.mark.parametrize("chunks", [{"layer": 1}, {"seed": 1, "unit": 2}, {"sentence": 7}])
def test_a_record_is_lazy(activations, chunks):
    data = lazy(activations, **chunks)
    with dask.config.set(scheduler=refuse):
        result = TOY(data, TOY.options())
        with pytest.raises(AssertionError, match="computed too early"):
            result.compute()
    xr.testing.assert_identical(result.compute(), TOY(activations, TOY.options()))


def test_the_graph_of_a_training_history_is_small(activations):
    """25 seeds and 29 steps of 12 layers: what travels to a scheduler stays under a megabyte."""
    shape = (1, 25, 29, 1, 12, activations.sizes["sentence"], 4)
    values = da.zeros(shape, chunks=(1, 1, 1, 1, 1, *shape[-2:]), dtype=np.float32)
    labels = {dim: range(n) for dim, n in zip(REPRESENTATION, shape, strict=False)}
    kept = {name: c for name, c in activations.coords.items() if c.dims == ("sentence",)}
    data = xr.Dataset({"activation": ((*REPRESENTATION, "sentence", "unit"), values)}, labels)
    result = TOY(data.assign_coords(kept), TOY.options(spread=True), features=["number"])
    assert result["mean"].data.npartitions == 25 * 29 * 12
    assert len(cloudpickle.dumps(result)) < 1e6


def test_a_representation_is_visited_once_for_all_variables(activations, monkeypatch):
    visits = []
    monkeypatch.setattr(lifting, "_explain", lambda *args: visits.append(args[1]))
    data = lazy(activations, layer=1)
    TOY(data, TOY.options(spread=True)).compute(scheduler="sync")
    assert len(visits) == len(set(visits)) == math.prod(data.sizes[d] for d in REPRESENTATION)
    # Nor for what was asked twice.
    first, second = (TOY(data, TOY.options()) for _ in range(2))
    assert first["mean"].data.name == second["mean"].data.name


def test_a_record_is_saved_resumed_opened_and_listed(store, toy):
    result = toy(mx.open_store(store), toy.options(level=1))
    assert save(result.sel(seed=[0], layer=[1, 2])) == {"computed": 8}
    assert save(result) == {"computed": 8, "skipped": 8, "not recorded": 6}
    opened = mx.open_results(store, "level_means", level=1)
    assert_same(opened, result)
    assert not opened["above"].sel(model="small", unit=4).any()
    with pytest.raises(InputError, match="none saved for level_means with level 2"):
        mx.open_results(store, "level_means", level=2)
    listed = mx.list_results(store)
    assert listed["settings"].tolist() == ["level 1"]
    assert listed["current"].tolist() == [16]


def test_a_record_has_a_table(activations):
    table = mx.to_dataframe(TOY(activations, TOY.options()))
    assert len(table) == 2 * 2 * 3 * 5 * 4
    assert table.columns.tolist() == [*REPRESENTATION, "unit", "feature", "mean", "share"]


def test_a_record_has_a_command(store, toy, tmp_path):
    shown = CliRunner().invoke(app(), ["level-means", "--help"])
    assert "Average every unit over a level of each feature." in shown.output
    assert re.search(r"--level INTEGER +Which level. \[0\]", shown.output)
    options = ["--level", "1", "--spread", "--feature", "number", "-o", str(tmp_path / "t.csv")]
    ran = CliRunner().invoke(app(), ["level-means", str(store), *options])
    assert ran.exit_code == 0, ran.output
    assert "largest share" in ran.output
    options = {"level": 1, "spread": True, "features": ["number"]}
    assert_same(
        mx.open_results(store, "level_means", **options),
        toy(mx.open_store(store), toy.options(level=1, spread=True), features=["number"]),
    )
    assert set(pd.read_csv(tmp_path / "t.csv")["feature"]) == {"number"}


def test_an_output_that_a_kernel_leaves_out_is_nan(activations):
    silent = Analysis(
        **{"name": "silent", "help": "", "command": "silent", "function": lambda **_: {}},
        inputs=TOY.inputs,
        outputs=TOY.outputs,
        options=ToyOptions,
    )
    result = silent(activations, ToyOptions())
    assert np.isnan(result["mean"]).all()
    assert not result["above"].any()


@pytest.mark.parametrize("name", ANALYSES)
def test_functions_ask_for_the_options_of_their_record(name):
    """Names, order, defaults and types stand in both, so that notebooks complete them."""
    options = ANALYSES[name].options
    parameters = inspect.signature(getattr(mx, name)).parameters
    asked = [
        parameter
        for parameter in parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in ("features", "items")
    ]
    assert {p.name for p in asked} == set(options.names())
    assert ("features" in parameters) == ("codes" in ANALYSES[name].inputs)
    assert ("items" in parameters) == ("items" in ANALYSES[name].inputs)
    for parameter in asked:
        spec = options.spec(parameter.name)
        if parameter.default is parameter.empty:
            with pytest.raises(TypeError, match=parameter.name):
                options()
        else:
            assert parameter.default == spec.default
        if name != "correct_p_values":
            assert parameter.annotation == options.kind(parameter.name)
        assert spec.metadata["help"].endswith(".")


SEEDS = (0, 2**32 - 1)
IMPORTANCE = {"random_state": SEEDS, "alphas": (1e-6, sys.float_info.max)}
RANGES = {
    "cluster_units": {"alpha": (5e-324, 1.0), "max_clusters": (2, None), "random_state": SEEDS},
    "correct_p_values": {},
    "decoding_baseline": {"random_state": SEEDS},
    "decompose": {"n_draws": (2, 1_000_000), **IMPORTANCE},
    "mds": {
        "n_components": (1, None),
        "n_init": (1, 10_000),
        "max_iter": (1, 1_000_000),
        "eps": (0.0, sys.float_info.max),
        "random_state": SEEDS,
    },
    "multivariate_importance": IMPORTANCE,
    "randomization_test": {"n_draws": (1, 1_000_000), "random_state": SEEDS},
    "top_unit_importance": {"k": (1, 2**31 - 1), **IMPORTANCE},
    "univariate_importance": IMPORTANCE,
}
"""The smallest and the largest value of every option that is a number; None: any."""


@pytest.mark.parametrize("name", ANALYSES)
def test_numbers_have_the_ranges_that_they_should(name):
    options = ANALYSES[name].options
    kinds = {each: options.kind(each) for each in options.names()}
    numbers = (int, float, int | Iterable[int], Iterable[float])
    assert set(RANGES[name]) == {each for each, kind in kinds.items() if kind in numbers}
    for each, (least, most) in RANGES[name].items():
        whole = isinstance(least, int)
        below = least - 1 if whole else np.nextafter(least, -1)
        above = most and (most + 1 if whole else np.nextafter(most, np.inf))
        for value in (least, 10**12 if most is None else most):
            assert options.checked(each, value) in (value, (value,))
        for value in (below, *[above] * (most is not None)):
            with pytest.raises(InputError, match=rf"{each}: found .*; expected "):
                options.checked(each, value)


@pytest.mark.parametrize("name", ANALYSES)
def test_outputs_are_documented(name):
    function = inspect.getdoc(getattr(mx, name))
    if name in ("univariate_importance", "top_unit_importance"):
        function += inspect.getdoc(mx.multivariate_importance)
    options = ANALYSES[name].options
    given = {n: True for n in options.names() if options.kind(n) is bool}
    required = {"k": [1]} if name == "top_unit_importance" else {}
    for output in ANALYSES[name].outputs(options(**given, **required)):
        assert f"`{output}`" in function


def test_options_check_themselves():
    with pytest.raises(InputError, match="^level: found -1; expected an integer of at least 0"):
        ToyOptions(level=-1)
    with pytest.raises(InputError, match="^spread: unknown value 'yes'; known: False, True"):
        ToyOptions(spread="yes")
    assert ToyOptions(spread=np.True_).spread is True
    assert ToyOptions().settings() == ToyOptions.defaults()
    with pytest.raises(AttributeError, match="cannot assign to field 'level'"):
        ToyOptions().level = 3


GRIDS = {
    "multivariate_importance": [
        {},
        {"distance": "cosine", "features": ["gender", "number"]},
        {"target": "none", "mae": True, "alphas": [1, 0.1]},
        {"folds": "sentences", "conditional": "exact", "random_state": 3},
    ],
    "univariate_importance": [
        {},
        {"distance": "norm_diff", "zscore": True},
        {"min_max": False, "conditional": True, "mae": True},
    ],
    "decoding_baseline": [{}, {"zscore": True, "features": ["number"], "random_state": 2}],
    "decompose": [
        {},
        {"per": "unit", "features": ["number", "gender"], "folds": "sentences"},
        {"method": "sampled", "n_draws": 4, "distance": "cosine", "alphas": [1, 10]},
    ],
    "randomization_test": [
        {"n_draws": 9},
        {"per": "unit", "n_draws": 9, "features": ["number", "frequency"], "zscore": True},
        {"n_draws": 9, "distance": "cosine", "target": "none", "random_state": 3},
    ],
    "mds": [{"max_iter": 3}, {"n_components": 3, "init": "classical", "distance": "l1"}],
}
NESTED = {
    "top_unit_importance": [
        {"k": 2},
        {"k": [1, 3], "by": "r", "distance": "cosine"},
        {"k": [4], "by": "number", "zscore": True, "features": ["number"]},
    ],
    "cluster_units": [
        {},
        {"random_state": 5},
        {"scale": None, "correction": "holm-sidak", "alpha": 0.2, "max_clusters": 3},
    ],
    "correct_p_values": [{}, {"method": "holm-sidak"}],
}
SCANS = [{}, {"zscore": True, "random_state": 1}, {"distance": "sqeuclidean", "mae": True}]


def assert_same(opened, computed):
    assert set(opened.data_vars) == set(computed.data_vars)
    for name, variable in computed.data_vars.items():
        assert opened[name].dims == variable.dims
        assert opened[name].dtype == variable.dtype
        assert opened[name].attrs == variable.attrs
    extra = {"version", "saved"}
    assert {k: v for k, v in opened.attrs.items() if k not in extra} == computed.attrs
    assert set(opened.coords) == {*computed.coords, "computed_from"}
    marks = [name for name in ("computed_from",) if name in computed.coords]
    xr.testing.assert_equal(opened.drop_vars("computed_from").compute(), computed.drop_vars(marks))


@pytest.mark.filterwarnings("ignore:.*differ between")
def test_whatever_is_saved_can_be_opened_and_listed_and_tabled(store):
    """Every analysis over a grid of settings, nested ones too, all in one store.

    What is nested has all its settings in one scan, and the first ones in every other.
    """
    data = mx.open_store(store).sel(model=["toy"], seed=[0], pooling=["mean"], layer=[2])
    saved = []
    for name, grid in GRIDS.items():
        for settings in grid:
            saved.append((name, settings, getattr(mx, name)(data, **settings)))
    for scanned in SCANS:
        scan = mx.univariate_importance(data, **scanned)
        for name, grid in NESTED.items():
            argument = ANALYSES[name].source.argument
            for settings in grid if scanned is SCANS[0] else grid[:1]:
                function = getattr(mx, name)
                takes = [data] if name == "top_unit_importance" else []
                result = function(*takes, scan, **settings)
                saved.append((name, {**settings, argument: scanned}, result))
        corrected = mx.correct_p_values(scan)
        nested = {"analysis": "correct_p_values", "result": scanned}
        groups = mx.cluster_units(corrected, correction=None)
        saved.append(("cluster_units", {"correction": None, "univariate": nested}, groups))
    computed = []
    for _, _, result in saved:
        computed.append(result.compute())
        mx.save_results(result, progress=False)
    for (name, settings, _), result in zip(saved, computed, strict=True):
        opened = mx.open_results(store, name, **settings).compute()
        assert opened.attrs["settings"] == result.attrs["settings"]
        assert_same(opened, result)
        pd.testing.assert_frame_equal(mx.to_dataframe(opened), mx.to_dataframe(result))
    listed = mx.list_results(store)
    assert len(listed) == len(saved)
    assert listed["settings"].nunique() > len(saved) / 2
    assert (listed["current"] == 1).all()


def test_opening_runs_no_analysis(store, monkeypatch):
    save(mx.univariate_importance(mx.open_store(store)))
    for name, analysis in ANALYSES.items():
        monkeypatch.setitem(
            ANALYSES, name, Analysis(**{**vars(analysis), "function": refuse, "check": refuse})
        )
    with dask.config.set(scheduler=refuse):
        opened = mx.open_results(store, "univariate_importance")
        assert mx.list_results(store)["current"].tolist() == [16]
    assert np.isfinite(opened["r2"].sel(model="toy")).all()


def test_settings_that_were_not_named_are_told_apart(store):
    data = mx.open_store(store)
    for settings in ({"zscore": True}, {"random_state": 3}):
        scan = mx.univariate_importance(data, **settings)
        save(mx.cluster_units(scan))
        if "zscore" in settings:
            # The only one there is.
            opened = mx.open_results(store, "cluster_units")
            assert opened.attrs["settings"]["univariate"]["zscore"]
    message = (
        r"several saved for cluster_units with default settings: "
        r".*univariate \(random_state 3\).*; name what sets them apart"
    )
    with pytest.raises(InputError, match=message):
        mx.open_results(store, "cluster_units")
    save(mx.cluster_units(mx.univariate_importance(data)))
    opened = mx.open_results(store, "cluster_units")
    assert not opened.attrs["settings"]["univariate"]["zscore"]


def test_saving_says_in_one_line_what_was_done(store, capfd):
    result = mx.multivariate_importance(mx.open_store(store))
    mx.save_results(result.sel(layer=[1, 2]))
    opened = mx.save_results(result)
    line = capfd.readouterr().err.splitlines()[-1]
    assert line == (
        "multivariate_importance: 4 representations computed, 12 skipped, 6 not recorded"
    )
    assert_same(opened, result)
    part = mx.save_results(result.sel(layer=2, model="toy", seed=[1]), progress=False)
    assert dict(part.sizes) == dict(result.sel(layer=2, model="toy", seed=[1]).sizes)
    assert capfd.readouterr().err == ""
    mx.save_results(result.sel(layer=[2], model=["toy"], seed=[1], pooling=["mean"]))
    line = capfd.readouterr().err.splitlines()[-1]
    assert line == "multivariate_importance: 1 representation skipped"
    detail = mx.list_results(store, detail=True)
    assert detail["status"].value_counts().to_dict() == {"current": 16, "not recorded": 6}
    write(store, layers(9), seed=1, overwrite=True)
    stale = mx.list_results(store, detail=True)
    stale = stale[stale["status"] == "stale"]
    assert set(stale["seed"]) == {1} and set(stale["model"]) == {"toy"} and len(stale) == 6


def test_activations_in_memory_have_no_store(activations):
    with pytest.raises(InputError, match=r"as open_store returns them; .*to_zarr\(path\)"):
        mx.save_results(mx.multivariate_importance(activations), progress=False)


def test_a_result_of_stale_results_is_not_saved_as_one_of_the_new_activations(store):
    save(mx.univariate_importance(mx.open_store(store)))
    write(store, layers(9), seed=1, overwrite=True)
    scan = mx.open_results(store, "univariate_importance")
    best = mx.top_unit_importance(mx.open_store(store), scan, k=2)
    assert save(best) == {"computed": 10, "not available": 6, "not recorded": 6}
    part = best.sel(model="toy", seed=1)
    assert save(part) == {"not available": 6}
    # A label that a selection turned into a scalar is one that the marks lack.
    fresh = best.sel(model="toy", seed=0, layer=2)
    assert save(fresh) == {"skipped": 2}
    assert save(best.sel(layer=2)) == {"skipped": 4, "not available": 2, "not recorded": 2}


@pytest.mark.parametrize("versions", [("0.0.1", VERSION), (VERSION, "0.0.1")])
def test_what_this_version_saved_is_meant(versions):
    analysis = ANALYSES["mds"]
    settings = {**analysis.options.defaults(), "n_units": 5}
    saved = [{"settings": settings, "version": version} for version in versions]
    now = {"features": [], "items": {}, "layers": None, "n_units": 5}
    assert find(analysis, saved, {}, now=now) == versions.index(VERSION)


def test_results_are_plain_zarr(store):
    """They describe themselves to whoever opens them without this library."""
    mx.save_results(mx.multivariate_importance(mx.open_store(store)), progress=False)
    code = """
import sys, xarray as xr
from pathlib import Path
assert "mlem_xr" not in sys.modules
[folder] = Path(sys.argv[1]).glob("results/multivariate_importance/*/")
data = xr.open_zarr(folder, consolidated=False)
print(data["importance"].attrs["long_name"], data["feature"].values.tolist(), sep="|")
print(data.attrs["settings"]["distance"], data["importance"].dims[-1], sep="|")
"""
    found = subprocess.run(
        [sys.executable, "-c", code, store], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    [folder] = (store / "results/multivariate_importance").glob("*/")
    assert re.fullmatch("[0-9a-f]{16}", folder.name)
    assert found == [
        "mean increase of the squared error when the feature is permuted"
        "|['number', 'animate', 'frequency', 'gender']",
        "euclidean|feature",
    ]


RAW = {
    "multivariate_importance": {"min_max": False, "mae": True},
    "univariate_importance": {"min_max": False, "mae": True},
    "decoding_baseline": {"zscore": True},
    "mds": {"max_iter": 3},
    "randomization_test": {"n_draws": 9},
}


@pytest.mark.parametrize("name", RAW)
def test_units_say_how_an_output_grows_with_the_activations(activations, name):
    """Twice the activations are twice all distances; the target is their square."""
    data = activations.isel(seed=[0], pooling=[0], layer=[0])
    result = getattr(mx, name)(data, **RAW[name])
    larger = getattr(mx, name)(data.assign(activation=2 * data["activation"]), **RAW[name])
    growth = {"1": 1, "distance": 2, "distance^2": 4, "target": 4, "target^2": 16}
    for output, values in result.data_vars.items():
        expected = growth[values.attrs["units"]] * values
        np.testing.assert_allclose(larger[output], expected, rtol=1e-6, err_msg=output)


def test_activations_along_more_dimensions_than_a_store_has_are_not_of_one(store):
    more = mx.open_store(store).expand_dims(subject=["a", "b"])
    with pytest.raises(InputError, match="^result: it has the dimension 'subject', so its activ"):
        mx.save_results(mx.multivariate_importance(more), progress=False)
