"""What the README and the pages of the documentation say is there, and is so."""

import ast
import contextlib
import doctest
import inspect
import io
import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest

import mlem_xr as mx
from mlem_xr.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}

ORIGINAL = [
    "dataset",
    "model",
    "layer",
    '"net"',
    "take_activation_from",
    "distance_metric",
    "conditional",
    "top_units_rank",
    "top_units",
    "work_dir",
    "verbose",
    "n_jobs",
    "skip_existing",
    "seed",
    "step",
    "add_special_tokens",
    "only_cpu",
    "zscore",
    "min_max",
    "param_grid",
    "n_estimators",
    "alpha",
    "correction",
    "compute_feature_importance",
    "compute_univariate_feature_importance",
    "compute_decoding_baseline",
    "plot_correlation",
    "plot_feature_importance",
    "plot_mds",
    "barplot_clusters",
    "plot_distrib_univariate",
    "plot_top_k",
    "get_results",
    "get_dataset",
]
"""Parameters and methods of the original program."""


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def block_after(marker):
    return re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", README, flags=re.DOTALL)[1]


def rows():
    """Return the rows of the table of the original program's names."""
    page = PAGES["coming-from-the-original.md"]
    found = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("|")]
    return found[2:]


def public(name):
    found = mx
    for part in name.split("."):
        found = getattr(found, part)
    return found


def check_arguments(name, arguments):
    parameters = inspect.signature(public(name)).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for argument in arguments:
        assert takes_any or argument in parameters, f"mx.{name} has no {argument}"


def calls(code):
    """Return the names and keywords of all calls of the package in a block of Python."""
    code = doctest.script_from_examples(code) if code.startswith(">>>") else code
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and re.fullmatch(r"mx(\.\w+)+", ast.unparse(node.func)):
            name = ast.unparse(node.func).removeprefix("mx.")
            yield name, [keyword.arg for keyword in node.keywords if keyword.arg]


def test_the_python_of_the_readme_prints_what_stands_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block_after("python"), {})
    found, shown = printed.getvalue().split(), block_after("output").split()
    assert [word for word in found if "." not in word] == [w for w in shown if "." not in w]
    numbers = [np.array([w for w in words if "." in w], float) for words in (found, shown)]
    # Processors round differently in the last digit.
    np.testing.assert_allclose(*numbers, atol=1.01e-4)
    assert Path("stores/importance.png").stat().st_size > 10_000


def test_the_python_of_the_readme_is_twelve_lines():
    assert sum(bool(line) for line in block_after("python").splitlines()) == 12


@pytest.mark.parametrize("name", ORIGINAL)
def test_every_name_of_the_original_program_has_a_row(name):
    assert any(name in re.findall(r'\w+|"\w+"', original) for original, _ in rows())


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0].strip())
def test_every_row_says_what_exists_here(row):
    found = re.findall(r"mx\.([\w.]+)\(([^)]*)\)", row[1])
    assert len(found) == len(re.findall(r"mx\.", row[1]))
    assert found or "`acts." in row[1]
    for name, arguments in found:
        check_arguments(name, re.findall(r"(\w+)=", arguments))


def test_every_call_in_the_documentation_exists_with_its_arguments():
    found = [c for page in PAGES.values() for code in blocks(page, "python") for c in calls(code)]
    assert len(found) > 40
    for name, arguments in found:
        check_arguments(name, arguments)
    named = [name for page in PAGES.values() for name in re.findall(r"`mx\.([\w.]+)", page)]
    assert len(named) > 10
    assert all(public(name) is not None for name in named)


def test_every_command_in_the_documentation_is_understood():
    pattern = re.compile(r"^(?:\.venv/bin/)?mlem-xr (.+)$", flags=re.MULTILINE)
    lines = [
        line
        for page in PAGES.values()
        for code in blocks(page, "bash")
        for line in pattern.findall(code)
    ]
    assert len(lines) > 10
    for line in lines:
        command, words = app(), shlex.split(line, comments=True)
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        # Click refuses what it does not know.
        assert command.make_context(line, words)


def test_every_link_in_the_documentation_leads_somewhere():
    found = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)]+)\)", PAGES[page])]
    assert len(found) > 10
    for page, target in found:
        folder = ROOT if page == "README.md" else ROOT / "docs"
        file, _, section = target.partition("#")
        assert target.startswith("https://") or (folder / file).exists(), target
        if section and file:
            headings = re.findall(r"^#+ (.+)$", (folder / file).read_text(), flags=re.MULTILINE)
            assert section in [heading.lower().replace(" ", "-") for heading in headings], target


def test_every_file_that_the_documentation_names_exists():
    pattern = r"\b(?:[a-z_]+/)+[a-z_]+\.py\b"
    found = [file for page in PAGES.values() for file in re.findall(pattern, page)]
    assert len(found) > 10
    for file in found:
        assert (ROOT / file).exists() or (ROOT / "mlem_xr" / file).exists(), file


def test_the_picture_of_the_readme_is_small():
    (picture,) = re.findall(r"!\[.*\]\((.*\.png)\)", README)
    assert (ROOT / picture).stat().st_size < 150_000
