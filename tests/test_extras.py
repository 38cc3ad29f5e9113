"""Without an extra, what needs it says so in one line, and the rest works."""

import subprocess
import sys

import pytest

BLOCKED = """
import importlib.abc, sys

missing = {*sys.argv[2].split(",")}

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
import pandas as pd
import mlem_xr as mx
from mlem_xr.running.cluster import cluster_client
table = pd.DataFrame({"sentence": list("abcd"), "odd": [1, 0, 1, 0]})
path = sys.argv[1]
for names, call in zip(sys.argv[2::2], sys.argv[3::2]):
    missing = {*names.split(",")}
    try:
        eval(call)
    except (ImportError, mx.schema.InputError) as error:
        print(f"{type(error).__name__}: {error}")
"""


PLOT = ("ImportError: plotting needs holoviews, bokeh,", 'pip install "mlem_xr[plot]"')
GRAMMARS = ("InputError: stimuli: a grammar needs nltk", 'pip install "mlem_xr[grammars]"')
CLUSTER = ("ImportError: --cluster slurm needs dask-jobqueue", 'pip install "mlem_xr[cluster]"')
CLOUD = ("InputError: store: an address in an object store needs", 'pip install "mlem_xr[cloud]"')
PARQUET = ("InputError: path: a .parquet file needs pyarrow:", 'pip install "mlem_xr[parquet]"')


@pytest.mark.parametrize(
    "cases",
    [
        # pandas imports pyarrow, so that it is missing from the start.
        [
            ("pyarrow,fastparquet", "mx.write_stimuli(mx.read_stimuli(table), path)", PARQUET),
            ("pyarrow,fastparquet", "mx.write_table(table, path)", PARQUET),
        ],
        [
            ("holoviews", "mx.plot", PLOT),
            ("panel", "mx.plot", PLOT),
            ("dask_jobqueue", "cluster_client('slurm', 1).__enter__()", CLUSTER),
            ("nltk", "mx.read_stimuli('short_sentence')", GRAMMARS),
            ("obstore", "mx.create_store(mx.read_stimuli(table), 's3://bucket/s.zarr')", CLOUD),
        ],
    ],
    ids=["parquet", "others"],
)
def test_a_missing_extra_is_named_in_one_line(tmp_path, cases):
    """Each is the only one that is missing, but processes are shared: starting one takes long."""
    calls = [word for missing, call, _ in cases for word in (missing, call)]
    arguments = [sys.executable, "-c", BLOCKED, str(tmp_path / "t.parquet"), *calls]
    found = subprocess.run(arguments, capture_output=True, text=True, check=True)
    lines = found.stdout.splitlines()
    for line, (_, _, (start, end)) in zip(lines, cases, strict=True):
        assert line.startswith(start)
        assert line.endswith(end)
    assert list(tmp_path.iterdir()) == []
