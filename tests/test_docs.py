"""The pages of the documentation: complete, reachable, and true."""

import contextlib
import doctest
import importlib
import io
import json
import re
import sys
from pathlib import Path

import click
import numpy as np
import pages
import pandas as pd
import pytest
from PIL import Image

import mlem_xr as mx
from mlem_xr.cli import app
from networks import save_bert, stimuli

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {path.stem: path.read_text() for path in [*DOCS.glob("*.md"), *DOCS.glob("*.rst")]}
LLMS = (DOCS / "llms.txt").read_text()


def entries(directive):
    """Return the lines below all directives of a kind, of all pages."""
    fenced = rf"```\{{{directive}\}}\n(.*?)```"
    indented = rf"\.\. {directive}::\n((?: .*\n|\n)*)"
    text = "\n".join(PAGES.values()) + "\n"
    found = re.findall(fenced, text, flags=re.DOTALL) + re.findall(indented, text)
    lines = [line.strip() for block in found for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(":")]


def blocks(text, language, marker=""):
    return re.findall(rf"{marker}```{language}\n(.*?)```", text, flags=re.DOTALL)


def run(code):
    """Run blocks of code as one program, and return what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec("\n".join(code), {})
    return printed.getvalue()


def test_every_public_name_is_in_the_reference():
    listed = entries("autosummary")
    functions = [name for name in mx.__all__ if name not in ("plot", "schema")]
    figures = [f"plot.{name}" for name in mx.plot.__all__ if name != "FORMATS"]
    assert sorted(listed) == sorted(functions + figures)
    assert ".. py:data:: mlem_xr.plot.FORMATS" in PAGES["reference"]
    assert ".. automodule:: mlem_xr.schema" in PAGES["schema"]


def test_the_names_of_the_schema_exist():
    named = re.search(r":members: ((?:.|\n)*?)\n +:member", PAGES["schema"])[1]
    for name in re.findall(r"\w+", named):
        assert hasattr(mx.schema, name), name


def test_every_page_is_in_one_table_of_contents():
    listed = entries("toctree")
    assert sorted(listed) == sorted(set(PAGES) - {"index"})


def test_every_command_and_option_is_in_the_command_reference():
    text = pages.commands()

    def leaves(group, before):
        for name, command in group.commands.items():
            if isinstance(command, click.Group):
                yield from leaves(command, f"{before} {name}")
            else:
                yield f"{before} {name}", command

    commands = dict(leaves(app(), "mlem-xr"))
    assert len(commands) > 15
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == list(commands)
    sections = re.split(r"^## .+$", text, flags=re.MULTILINE)[1:]
    for command, section in zip(commands.values(), sections, strict=True):
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert all(option in section for option in parameter.opts)
    assert "```{commands}" in PAGES["command-line"]


def test_what_is_printed_in_what_a_column_may_be_is_so():
    failed, tried = doctest.testfile(
        str(DOCS / "columns.md"), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert tried > 8 and failed == 0


def test_the_code_of_the_first_page_prints_what_stands_below_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = PAGES["start"]
    found = run(blocks(page, "python", "<!-- start -->\n")).split()
    shown = " ".join(blocks(page, "text")).split()
    assert [word for word in found if "0." not in word] == [w for w in shown if "0." not in w]
    numbers = [np.array([w for w in words if "0." in w], float) for words in (found, shown)]
    # Processors round differently in the last digit.
    np.testing.assert_allclose(*numbers, atol=1.01e-4)
    assert Path("importance.pdf").stat().st_size > 5000
    assert len(pd.read_csv("importance.csv")) == 3 * 6 * 9


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_code_for_programs_that_read_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mx.write_stimuli(stimuli(), "sentences.csv")
    save_bert(tmp_path / "my-network")
    code = blocks(LLMS, "python")
    assert len(code) == 4
    assert "plural" in run(code)
    assert Path("profile.csv").stat().st_size > 100


def test_the_page_for_programs_names_only_what_exists():
    names = re.findall(r"\bmx\.([a-z_]+(?:\.\w+)?)", LLMS)
    assert len(set(names)) > 15
    for name in names:
        found = mx
        for part in name.split("."):
            found = getattr(found, part)
    links = re.findall(r"\]\(([\w-]+)\.html\)", LLMS)
    assert len(links) > 10 and set(links) <= set(PAGES)
    for line in "\n".join(blocks(LLMS, "bash")).splitlines():
        command, words = app(), line.split()[1:]
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        assert command.make_context(line, words)


def test_a_notebook_has_a_card_with_a_picture_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    monkeypatch.setattr(pages, "COPIES", tmp_path / "copies")
    assert "none yet" in pages.gallery()
    opening = {
        "cell_type": "markdown",
        "source": ["# Training\n", "\n", "What one learns. [More](../docs/method.md)"],
    }
    drawing = {"cell_type": "code", "source": [], "outputs": [{"data": {"image/png": "aGk="}}]}
    for name in ("own", "walkthrough"):
        (tmp_path / f"{name}.ipynb").write_text(json.dumps({"cells": [opening, drawing]}))
    text = pages.gallery()
    assert text.index("notebooks/walkthrough") < text.index("notebooks/own")
    assert text.count("Training") == 2 and text.count("What one learns.") == 2
    assert (tmp_path / "generated" / "own.png").read_bytes() == b"hi"
    pages.prepare()
    assert "[More](../method.md)" in (tmp_path / "copies" / "own.ipynb").read_text()
    (tmp_path / "own.ipynb").unlink()
    pages.prepare()
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["walkthrough.ipynb"]


def test_every_notebook_has_a_picture():
    text = pages.gallery()
    assert text.count(":img-top: generated/") + len(pages.PICTURES) == len(pages.ORDER)
    for name in pages.PICTURES.values():
        assert f":img-top: images/{name}.png" in text
        assert (DOCS / "images" / f"{name}.png").exists()


def test_the_figures_of_sizes_and_powers_are_drawn(tmp_path, monkeypatch):
    """With two sets of sentences instead of hundreds; the numbers are those of benchmarks."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(DOCS / "examples")])
    validity = importlib.import_module("validity")
    paths = validity.main(tmp_path, n_sets=2)
    assert [path.name for path in paths] == ["validity_size.png", "validity_power.png"]
    for path in paths:
        assert Image.open(path).size == (1080, 576)
        assert (DOCS / "images" / path.name).is_file()
