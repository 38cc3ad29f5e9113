"""The notebooks as they are committed: run, small, and without a trace of where they ran."""

import getpass
import re
import socket
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import nbformat
import pytest

from test_readme import calls, check_arguments

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in FOLDER.glob("*.ipynb")}

# Its name is also that of the file at the root.
spec = spec_from_file_location("notebooks_run", FOLDER / "run.py")
run = module_from_spec(spec)
spec.loader.exec_module(run)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook):
    """Yield what a notebook shows and says, but for pictures."""
    for cell in notebook.cells:
        yield cell.source
        for output in cell.get("outputs", []):
            yield output.get("text", "")
            yield from (str(v) for kind, v in output.get("data", {}).items() if "image" not in kind)


every = pytest.mark.parametrize("notebook", NOTEBOOKS.values(), ids=NOTEBOOKS)


def test_the_notebooks_are_there():
    assert set(NOTEBOOKS) == {"walkthrough", "own_sentences", "unit_scan", "training", "cluster"}


@every
def test_a_notebook_opens_with_what_one_will_learn(notebook):
    nbformat.validate(notebook)
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    title, about = first.source.split("\n\n")[:2]
    assert title.startswith("# ") and about.startswith("You will learn")


@every
def test_a_notebook_was_run_once_from_top_to_bottom(notebook):
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell.outputs for cell in cells)
    assert run.faults(notebook) == []
    said = " ".join(texts(notebook))
    assert "Warning" not in said and "Traceback" not in said


@every
def test_a_notebook_shows_a_first_run(notebook):
    recorded = [cell for cell in code(notebook) if "mx.record(" in cell.source]
    assert recorded
    assert "skipped" not in "".join(str(cell.outputs) for cell in recorded)
    said = [o.text for cell in code(notebook) for o in cell.outputs if o.output_type == "stream"]
    assert any("computed" in text for text in said)


@every
def test_a_notebook_is_clean(notebook):
    before = nbformat.writes(notebook)
    run.clean(notebook)
    assert all(re.match("[a-z]", cell.id) for cell in notebook.cells)
    assert nbformat.writes(notebook).split('"image/png"')[0] == before.split('"image/png"')[0]
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widget-view" not in before


@every
def test_a_notebook_does_not_say_where_it_ran(notebook):
    said = "\n".join(texts(notebook))
    found = re.search(r"(?<![\w.+/])/(tmp|home|work|root|Users|opt|usr/local)/|[A-Z]:\\\\", said)
    assert found is None, said[max(0, found.start() - 80) : found.end() + 80]
    assert not re.search(r"artifactory|nexus|files\.pythonhosted|pypi\.org|index-url", said)
    for name in (socket.gethostname(), getpass.getuser()):
        assert len(name) < 6 or name not in said


def test_notebooks_are_small():
    sizes = {name: (FOLDER / f"{name}.ipynb").stat().st_size for name in NOTEBOOKS}
    assert max(sizes.values()) < 600_000
    assert sum(sizes.values()) < 2_000_000


@every
def test_every_call_of_a_notebook_exists_with_its_arguments(notebook):
    found = [call for cell in code(notebook) for call in calls(cell.source)]
    assert len(found) > 5
    for name, arguments in found:
        check_arguments(name, arguments)


@every
def test_every_link_of_a_notebook_leads_somewhere(notebook):
    links = re.findall(r"\]\(([^)]+)\)", "\n".join(cell.source for cell in notebook.cells))
    assert links
    for link in links:
        assert link.startswith("https://") or (FOLDER / link).exists(), link


@every
def test_a_notebook_writes_into_the_folder_of_stores(notebook):
    source = "\n".join(cell.source for cell in code(notebook))
    paths = re.findall(r'"([^"\n]*/[^"\n]*|[^"\n/]+\.(?:csv|png|pdf|zarr))"', source)
    assert any(path.startswith("../stores/") for path in paths)
    assert all(path.startswith(("../stores/", "runs/")) for path in paths)


def test_what_fails_or_warns_is_said(tmp_path, monkeypatch, capsys):
    cells = {
        "fails": "1 / 0",
        "warns": "import warnings; warnings.warn('careful')",
        "works": "print(sorted(p.name for p in __import__('pathlib').Path('..').iterdir()))",
    }
    for name, source in cells.items():
        cell = nbformat.v4.new_code_cell(source, id=name)
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / f"{name}.ipynb")
    monkeypatch.setattr(run, "FOLDER", tmp_path)
    before = (tmp_path / "works.ipynb").read_text()
    monkeypatch.setattr(sys, "argv", ["run.py", "--check"])
    with pytest.raises(SystemExit) as end:
        run.main()
    assert "fails.ipynb: ZeroDivisionError" in str(end.value)
    assert "warns.ipynb: cell warns: on standard error" in str(end.value)
    assert "works.ipynb: " not in str(end.value)
    assert (tmp_path / "works.ipynb").read_text() == before
    monkeypatch.setattr(sys, "argv", ["run.py", "works"])
    with pytest.raises(SystemExit) as end:
        run.main()
    assert not end.value.code
    assert "['notebooks', 'stores']" in (tmp_path / "works.ipynb").read_text()
    monkeypatch.setattr(sys, "argv", ["run.py", "nonsense"])
    with pytest.raises(SystemExit):
        run.main()
    assert "no notebook nonsense; there are fails, warns, works" in capsys.readouterr().err
