"""What the README says exists."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlem_xr as mx

README = Path(__file__).parents[1].joinpath("README.md").read_text()

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


def migration_table():
    section = README.split("## Coming from the original program")[1].split("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("|")]
    return [(row[1], row[2]) for row in rows[2:]]


def find(name):
    found = mx
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", ORIGINAL)
def test_every_name_of_the_original_program_has_a_row(name):
    assert any(
        re.search(rf"\b{re.escape(name)}|{re.escape(name)}", row[0]) for row in migration_table()
    )


@pytest.mark.parametrize("row", migration_table(), ids=lambda row: row[0].strip())
def test_every_name_of_the_migration_table_exists(row):
    calls = re.findall(r"mx\.([\w.]+)\(([^)]*)\)", row[1])
    named = re.findall(r"mx\.([\w.]+)", row[1])
    assert len(calls) == len(named)
    assert named or "`acts." in row[1] or "Client" in row[1]
    for name, arguments in calls:
        parameters = inspect.signature(find(name)).parameters
        for argument in re.findall(r"(\w+)=", arguments):
            assert argument in parameters, f"{name} has no {argument}"


def test_every_public_call_in_the_readme_exists():
    for name in re.findall(r"mx\.([a-z_.]+)\(", README):
        assert callable(find(name))


def test_every_command_in_the_readme_exists():
    command = Path(sys.executable).with_name("mlem-xr")
    for line in re.findall(r"^(?:\.venv/bin/)?mlem-xr (.+)$", README, flags=re.MULTILINE):
        words = line.split()
        if words[0].startswith("-"):
            continue
        n = 2 if words[0] == "plot" else 1
        shown = subprocess.run(
            [command, *words[:n], "--help"], capture_output=True, text=True, check=True
        ).stdout
        for flag in re.findall(r"(?<= )(--?\w[\w-]*)", line.split("#")[0]):
            assert re.search(rf"(?<![\w-]){flag}\b", shown), f"{words[:n]} has no {flag}"
