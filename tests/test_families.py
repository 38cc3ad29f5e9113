"""Every family of text networks is recorded as transformers runs it alone, or refused by name."""

import re

import pytest
import torch
import transformers

import families

PAGE = families.TABLE.read_text()
# Asking transformers would import all its networks, wherever tests are collected.
LISTED = [name for name in re.findall(r"^\| (\S+) \|", PAGE, re.MULTILINE) if name != "family"]

USUAL = {
    "bert": "recorded",
    "fnet": "recorded",
    "xlnet": "recorded",
    "gpt2": "recorded",
    "opt": "recorded",
    "mamba": "recorded",
    "qwen3_next": "recorded",
    "mixtral": "recorded",
    "nllb-moe": "recorded",
    "clip": "recorded",
    "blip-2": "recorded",
    "funnel": "refused",
    "perceiver": "refused",
}
"""Encoders and decoders, without a mask, with states, experts, images, and fewer vectors."""


@pytest.fixture(autouse=True)
def one_thread():
    """Small networks only wait for further threads."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.mark.parametrize("name", USUAL)
def test_characteristic_families(tmp_path, name):
    assert families.outcome(name, tmp_path / "network").status == USUAL[name]


@pytest.mark.slow
def test_the_page_lists_every_family():
    if f"transformers {transformers.__version__} " in PAGE:
        assert sorted(LISTED) == families.families()


@pytest.mark.slow
@pytest.mark.parametrize("name", LISTED)
def test_every_family(tmp_path, name):
    found = families.outcome(name, tmp_path / "network")
    assert found.status in families.STATUSES, found
    if f"transformers {transformers.__version__} " in PAGE:
        assert families.row(name, found) in PAGE


def test_the_page_counts_what_it_lists():
    counted = re.findall(r"(\d+) (?:are recorded|are refused|cannot be)", " ".join(PAGE.split()))
    sections = PAGE.split("\n## ")[1:]
    listed = [len(re.findall(r"^\| ", section, flags=re.MULTILINE)) - 1 for section in sections]
    assert [int(count) for count in counted] == listed
    assert min(listed) > 0
    assert sum(listed) == len(LISTED)
