"""A layer of 65,536 units, of 2 GB, scanned by a worker that has 2 GiB for everything."""

import numpy as np
import pytest
import xarray as xr
from measuring import GIB, MIB, peak_memory, report, seconds

import mlem_xr as mx
from mlem_xr.store.activations import write_checkpoint

N_UNITS = 65_536
LOOKED_AT = [0, 2_184, 40_000, N_UNITS - 1]


def unit(number, codes, n):
    """A unit that knows one of the features, and noise."""
    rng = np.random.default_rng(number)
    return codes[number % len(codes)] * (number % 3) + rng.normal(size=n)


@pytest.mark.benchmark
def test_a_layer_as_large_as_the_memory_of_a_worker_is_scanned(tmp_path):
    stimuli = mx.read_stimuli("relative_clause")
    names = stimuli.attrs["features"]
    codes = [np.unique(stimuli[name].astype(str), return_inverse=True)[1] for name in names]
    n = stimuli.sizes["sentence"]
    values = np.random.default_rng(0).standard_normal((1, 1, n, N_UNITS), dtype=np.float32)
    for number in LOOKED_AT:
        values[0, 0, :, number] = unit(number, codes, n)
    labels = {"pooling": ["mean"], "layer": [1]}
    activation = xr.DataArray(values, labels, ("pooling", "layer", "sentence", "unit"))
    store = mx.create_store(stimuli, tmp_path / "wide.zarr", pooling=["mean"])
    write_checkpoint(store, activation, model="wide", seed=0, step=0, provenance={})
    assert activation.nbytes > 1.8 * GIB
    opened = mx.open_store(store)
    few = opened.isel(unit=LOOKED_AT).load()
    expected = mx.univariate_importance(few, folds="sentences")
    with mx.local_client(1, memory_limit="2GiB") as client:
        before = max(client.run(peak_memory).values())
        result = mx.univariate_importance(opened, folds="sentences")
        found, time = seconds(lambda: mx.save_results(result, progress=False))
        peak = max(client.run(peak_memory).values())
    found = found.isel(unit=LOOKED_AT).load()
    for name in ("importance", "std_error", "r2"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-12)
    assert peak < 2 * GIB
    report(
        f"{n} sentences x {N_UNITS} units, {activation.nbytes / GIB:.2f} GiB, one worker: "
        f"{time:.0f} s, {activation.nbytes / MIB / time:.0f} MiB/s, {1e3 * time / N_UNITS:.2f} ms "
        f"per unit; peak {peak / GIB:.2f} GiB of 2, {before / GIB:.2f} GiB before"
    )
