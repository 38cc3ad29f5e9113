"""The way through the code: imports run downwards only, and what is slow to import waits."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mlem_xr as mx

PACKAGE = Path(mx.__file__).parent

LAYERS = [
    {"schema", "progress", "tasks", "cluster"},
    {"kernels", "stimuli"},
    {"checkpoints", "grids"},
    {"features", "pooling"},
    {"stores", "layers"},
    {"recording", "pairs"},
    {"cells"},
    {"distances", "decoding", "statistics"},
    {"explain", "mds", "clusters", "describe"},
    {"importance"},
    {"top_units"},
    {"analyses", "tables", "pieces"},
    {"results"},
    {"plot"},
    {"demo"},
    {"cli", "__init__"},
]
"""From the bottom to the top; a module imports those below it."""


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py"))


def imported(path):
    """Names of our modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlem_xr"):
            below = node.module.split(".")[1:]
            names |= {below[0]} if below else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {
                part[1] if len(part := alias.name.split(".")) > 1 else "__init__"
                for alias in node.names
                if alias.name.startswith("mlem_xr")
            }
    return names


def stage(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    level = {name: height for height, names in enumerate(LAYERS) for name in names}
    own = stage(path)
    for name in imported(path) - {own}:
        if own == "kernels":
            assert name == "schema"
        elif own != "cli":
            assert level[name] < level[own], f"{own} imports {name}"


def test_nothing_imports_plot_and_the_command_line_but_those_who_draw():
    for path in modules():
        if stage(path) not in ("plot", "cli", "demo", "__init__"):
            assert not imported(path) & {"plot", "cli", "demo"}, path


def test_kernels_know_arrays_only():
    for path in (PACKAGE / "kernels").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"xarray", "dask", "zarr", "pandas"} & {n.split(".")[0] for n in names}, path


def test_no_file_is_long():
    for path in modules():
        assert len(path.read_text().splitlines()) <= 420, path


def test_what_is_slow_to_import_waits():
    code = "import sys, mlem_xr; print([m for m in sys.argv[1:] if m in sys.modules])"
    slow = ["torch", "transformers", "holoviews", "sklearn", "matplotlib", "nltk", "distributed"]
    found = subprocess.run(
        [sys.executable, "-c", code, *slow], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_public_names_exist():
    for name in mx.__all__:
        assert getattr(mx, name) is not None
