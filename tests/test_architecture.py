"""The way through the code: rooms by subject, imports that run downwards, and what waits."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import mlem_xr as mx

PACKAGE = Path(mx.__file__).parent

ROOMS = {
    "schema": set(),
    "kernels": set(),
    "running": {"schema"},
    "stimuli": {"schema", "kernels", "running"},
    "analyses": {"schema", "kernels", "running", "stimuli"},
    "store": {"schema", "running", "stimuli", "analyses"},
    "networks": {"schema", "kernels", "running", "stimuli", "store"},
    "plot": {"schema", "running"},
}
"""What each folder may import besides itself. The command line and the package's own list of
public names import anything."""

TORCH = {"torch", "transformers", "safetensors", "tokenizers"}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """Dotted names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path):
    parts = (name.split(".") for name in imported(path))
    return {part[1] for part in parts if part[0] == "mlem_xr"}


def test_every_folder_has_its_rule():
    rooms = {room(path) for path in modules()}
    assert rooms == {*ROOMS, "cli", "__init__"}


@pytest.mark.parametrize("name", ROOMS)
def test_imports_run_downwards(name):
    files = [path for path in modules() if room(path) == name]
    assert files
    for path in files:
        assert rooms_imported(path) <= {name, *ROOMS[name]}, path


@pytest.mark.parametrize("name", ["kernels", "schema"])
def test_the_ground_imports_nothing_of_ours(name):
    assert ROOMS[name] == set()
    assert any(room(path) == name for path in modules())


def test_kernels_know_arrays_only():
    files = list((PACKAGE / "kernels").glob("*.py"))
    assert len(files) > 5
    for path in files:
        found = {name.split(".")[0] for name in imported(path)}
        assert not {"xarray", "dask", "zarr", "pandas", "distributed"} & found, path


def compilations(path):
    """Settings of every function that a file has compiled."""
    for node in ast.walk(ast.parse(path.read_text())):
        for one in getattr(node, "decorator_list", ()):
            if "njit" in ast.unparse(one):
                yield {keyword.arg: ast.literal_eval(keyword.value) for keyword in one.keywords[:2]}


def test_what_is_compiled_is_kept_and_lets_other_threads_run():
    found = [one for path in modules() for one in compilations(path)]
    assert len(found) > 30
    assert all(one == {"nogil": True, "cache": True} for one in found)


def test_torch_is_imported_where_networks_run_alone():
    for path in modules():
        if room(path) != "networks":
            assert not TORCH & {name.split(".")[0] for name in imported(path)}, path


def packages():
    found = [mx]
    for info in pkgutil.walk_packages(mx.__path__, "mlem_xr."):
        if info.ispkg:
            found.append(importlib.import_module(info.name))
    return found


@pytest.mark.parametrize("package", packages(), ids=lambda package: package.__name__)
def test_no_module_is_shadowed_by_a_function_of_its_name(package):
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        assert getattr(package, info.name) is module


def test_what_is_slow_to_import_waits():
    code = "import sys, mlem_xr; print([m for m in sys.argv[1:] if m in sys.modules])"
    slow = ["torch", "transformers", "sklearn", "nltk", "distributed"]
    slow += ["holoviews", "bokeh", "panel", "matplotlib"]
    found = subprocess.run(
        [sys.executable, "-c", code, *slow], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_public_names_exist_and_nothing_else_does():
    for name in mx.__all__:
        assert getattr(mx, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = mx.nonsense
    assert not hasattr(mx, "nonsense")
    assert dir(mx) == sorted(mx.__all__)


def test_public_functions_are_documented_with_an_example():
    for name in mx.__all__:
        function = getattr(mx, name)
        if inspect.isfunction(function):
            text = inspect.getdoc(function)
            assert "Examples\n" in text, name
            assert "Parameters\n" in text or not inspect.signature(function).parameters, name
            assert "Returns\n" in text or name.startswith("write"), name
