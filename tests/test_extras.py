"""Without an extra, what needs it says so in one line, and the rest works."""

import subprocess
import sys

import pytest

BLOCKED = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
import pandas as pd
import mlem_xr as mx
from mlem_xr.running.cluster import cluster_client
table = pd.DataFrame({"sentence": list("abcd"), "odd": [1, 0, 1, 0]})
for call in sys.argv[3:]:
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
    ("missing", "calls"),
    [
        ("panel", {"mx.plot": PLOT}),
        (
            "holoviews,dask_jobqueue,nltk,pyarrow,fastparquet,obstore",
            {
                "mx.plot": PLOT,
                "cluster_client('slurm', 1).__enter__()": CLUSTER,
                "mx.read_stimuli('short_sentence')": GRAMMARS,
                "mx.write_stimuli(mx.read_stimuli(table), sys.argv[2])": PARQUET,
                "mx.create_store(mx.read_stimuli(table), 's3://bucket/s.zarr')": CLOUD,
                "mx.write_table(table, sys.argv[2])": PARQUET,
            },
        ),
    ],
)
def test_a_missing_extra_is_named_in_one_line(tmp_path, missing, calls):
    arguments = [sys.executable, "-c", BLOCKED, missing, str(tmp_path / "t.parquet"), *calls]
    lines = subprocess.run(
        arguments, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for line, (start, end) in zip(lines, calls.values(), strict=True):
        assert line.startswith(start)
        assert line.endswith(end)
    assert list(tmp_path.iterdir()) == []
