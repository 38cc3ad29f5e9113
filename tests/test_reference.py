"""Agreement with the original program, from the sentences through the recorded network."""

import json
from pathlib import Path

import numpy as np
import pytest

import mlem_xr as mx
from mlem_xr.cli.demo import MODEL, demo_weights

REFERENCE = json.loads(
    Path(__file__).with_name("data").joinpath("original_minilm_short_sentence.json").read_text()
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The sentences of a bundled set, through a real network, in a real store."""
    store = tmp_path_factory.mktemp("reference") / "minilm.zarr"
    stimuli = mx.read_stimuli("short_sentence")
    mx.record(stimuli, store, model=MODEL, source=demo_weights(), progress=False)
    return mx.open_store(store)


def runs(kind):
    return [run for run in REFERENCE["runs"] if run["kind"] == kind]


def describe(run):
    return " ".join(str(run[key]) for key in ("pooling", "layer", "unit") if key in run)


def check(result, run):
    """The bounds of the reference: an exact solution agrees with the original to these."""
    assert result["feature"].values.tolist() == REFERENCE["features"]
    assert result["alpha"].values.tolist() == run["alpha"]
    assert abs(result["r2"] - run["r2"]) < 2e-5
    assert abs(result["r"] - run["r"]) < 2e-5
    assert abs(result["mse"] - run["mse"]) < 1e-6
    assert abs(result["mae"] - run["mae"]) < 5e-5
    importance, std = np.array(run["importance"]), np.array(run["std"])
    assert (np.abs(result["importance"] - importance) <= std).all()
    best = importance.argmax()
    assert abs(result["importance"][best] / importance[best] - 1) < 0.005
    # The original's errors include the noise of its 100 permutations, which matters where the
    # importance is close to zero.
    clear = importance > 50 * std
    ratio = std[clear] / result["std_error"].values[clear]
    assert clear.any()
    assert ((ratio > 0.97) & (ratio < 1.06)).all()


@pytest.mark.parametrize("run", runs("multivariate"), ids=describe)
def test_multivariate_importance_agrees_with_the_original(recorded, run):
    layer = recorded.sel(pooling=run["pooling"], layer=run["layer"]).squeeze()
    result = mx.multivariate_importance(
        layer, distance=run["distance"], random_state=run["seed"], mae=True
    ).compute()
    check(result, run)
    np.testing.assert_allclose(result["weight"], run["coef"], atol=1e-3)


@pytest.mark.parametrize("run", runs("univariate"), ids=describe)
def test_univariate_importance_agrees_with_the_original(recorded, run):
    layer = recorded.sel(pooling=run["pooling"], layer=run["layer"]).squeeze()
    result = mx.univariate_importance(
        layer, distance=run["distance"], random_state=run["seed"], mae=True
    )
    check(result.sel(unit=run["unit"]).compute(), run)
