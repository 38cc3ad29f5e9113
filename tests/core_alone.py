"""What works without any extra, and what is said where one is needed.

A plain script for the Python of an environment in which only the core is installed.
"""

import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

import mlem_xr as mx
from mlem_xr.analyses import ANALYSES
from mlem_xr.store.activations import write_checkpoint

EXTRAS = {
    "models": ("torch", "transformers", "accelerate", "sentencepiece", "google.protobuf"),
    "plot": ("holoviews", "bokeh", "matplotlib", "panel"),
    "grammars": ("nltk", "wordfreq"),
    "parquet": ("pyarrow",),
    "cluster": ("dask_jobqueue",),
    "cloud": ("obstore", "boto3"),
    "test": ("pytest", "hypothesis", "statsmodels"),
}
COMMAND = Path(sys.executable).with_name("mlem-xr")
N = 40


def message(function, *arguments, **options):
    """Return what an error says; complain if there is none."""
    try:
        function(*arguments, **options)
    except (ImportError, mx.schema.InputError) as error:
        return str(error)
    raise AssertionError(f"{function.__name__}{arguments} raised no error")


def run(*arguments):
    """Return what a command prints, or the last line of what it complains about."""
    found = subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True)
    assert "Traceback" not in found.stderr, found.stderr
    return found.stderr.strip().splitlines()[-1] if found.returncode else found.stdout


def table():
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "sentence": [f"sentence number {i}." for i in range(N)],
            "number": rng.choice(["sg", "pl"], N),
            "animate": rng.integers(0, 2, N).astype(bool),
            "gender": rng.choice(np.array(["f", "m", None], dtype=object), N),
        }
    )


def record(stimuli, path):
    """Fill a store with units that carry number."""
    values = np.random.default_rng(2).normal(size=(1, 2, N, 5)).astype(np.float32)
    values[..., 0] += 2 * (stimuli["number"].values == "sg")
    labels = {"pooling": ["mean"], "layer": [1, 2]}
    layers = xr.DataArray(values, labels, ("pooling", "layer", "sentence", "unit"))
    store = mx.create_store(stimuli, path, pooling=["mean"])
    write_checkpoint(store, layers, model="toy", seed=0, step=-1, provenance={})
    return store


def analyze(activations):
    """Return the result of every analysis by name."""
    scan = mx.univariate_importance(activations, conditional=True, mae=True)
    results = [
        scan,
        mx.multivariate_importance(activations),
        mx.top_unit_importance(activations, scan, k=[1, 3]),
        mx.cluster_units(scan),
        mx.correct_p_values(scan),
        mx.randomization_test(activations, n_draws=9),
        mx.decompose(activations),
        mx.decoding_baseline(activations),
        mx.mds(activations),
    ]
    return {result.attrs["analysis"]: result for result in results}


def no_extra_is_there():
    for name in (name for names in EXTRAS.values() for name in names):
        assert "No module named" in message(importlib.import_module, name)


def stimuli_are_read_described_and_written(folder):
    stimuli = mx.read_stimuli(table())
    mx.write_stimuli(stimuli, folder / "sentences.csv")
    assert mx.read_stimuli(folder / "sentences.csv").equals(stimuli)
    assert "number" in mx.describe_stimuli(stimuli)["feature"]
    assert mx.feature_correlation(stimuli).notnull().all()
    assert mx.list_stimuli()


def every_analysis_runs_eagerly_and_lazily(activations):
    lazy, eager = analyze(activations), analyze(activations.compute())
    assert set(lazy) == set(eager) == set(ANALYSES)
    for name, result in lazy.items():
        assert all(variable.chunks for variable in result.values()), name
        xr.testing.assert_allclose(result.compute(), eager[name])
    assert mx.distances(activations).compute().notnull().all()
    whole = mx.multivariate_importance(mx.concatenate_layers(activations))
    assert whole["importance"].notnull().all()


def results_are_saved_opened_listed_and_written(activations, folder):
    store = activations.attrs["store"]
    for name, result in analyze(activations).items():
        saved = mx.save_results(result, progress=False)
        own = {"conditional": True, "mae": True} if name == "univariate_importance" else {}
        own |= {"k": [1, 3]} if name == "top_unit_importance" else {}
        xr.testing.assert_identical(mx.open_results(store, name, **own).compute(), saved.compute())
        mx.write_table(mx.to_dataframe(saved), folder / f"{name}.csv")
        assert len(pd.read_csv(folder / f"{name}.csv"))
    assert set(mx.list_results(store)["analysis"]) == set(ANALYSES)


def workers_compute(activations):
    with mx.local_client(1):
        saved = mx.save_results(mx.mds(activations, init="classical"), progress=False)
    assert saved["position"].notnull().all()


def the_command_line_runs(activations, folder):
    assert "multivariate" in run("--help")
    store, output = activations.attrs["store"], folder / "profile.csv"
    assert "number" in run("multivariate", store, "--layer", 1, "-o", output)
    assert set(pd.read_csv(output)["layer"]) == {1}


def an_extra_that_is_missing_is_named(activations, folder):
    stimuli, store = mx.read_stimuli(table()), activations.attrs["store"]
    new = {"store": folder / "new.zarr", "model": "bert-base-uncased", "progress": False}
    there, path = folder / "there.parquet", folder / "new.parquet"
    there.touch()
    said = [
        ("plot", message(getattr, mx, "plot")),
        ("plot", run("plot", "feature-importance", store, "-o", folder / "p.png")),
        ("models", message(mx.record, stimuli, **new)),
        ("grammars", message(mx.read_stimuli, "short_sentence")),
        ("grammars", run("stimuli", "short_sentence")),
        ("cluster", run("info", store, "--cluster", "slurm", "--workers", 1)),
        ("parquet", message(mx.read_stimuli, there)),
        ("parquet", message(mx.write_stimuli, stimuli, path)),
        ("parquet", message(mx.write_table, table(), path)),
        ("parquet", run("multivariate", store, "-o", path)),
        ("cloud", message(mx.open_store, "s3://bucket/s.zarr")),
        ("cloud", run("info", "s3://bucket/s.zarr")),
    ]
    wrong = [
        f"{extra}: {text}"
        for extra, text in said
        if f'pip install "mlem_xr[{extra}]"' not in text or "\n" in text
    ]
    assert not wrong, "\n".join(["which extra is missing is not said:", *wrong])
    assert not path.exists()


def main():
    no_extra_is_there()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stimuli_are_read_described_and_written(folder)
        activations = mx.open_store(record(mx.read_stimuli(table()), folder / "s.zarr"))
        every_analysis_runs_eagerly_and_lazily(activations)
        results_are_saved_opened_listed_and_written(activations, folder)
        workers_compute(activations)
        the_command_line_runs(activations, folder)
        an_extra_that_is_missing_is_named(activations, folder)
    print("core alone: everything works, and what needs an extra says so")


if __name__ == "__main__":
    main()
