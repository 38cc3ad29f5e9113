import re
from pathlib import Path

import numpy as np
import pytest

from mlem_xr.networks.checkpoints import (
    SERIES,
    Checkpoint,
    known_seeds,
    known_steps,
    resolve,
    resolve_all,
)
from mlem_xr.schema import FINAL_STEP, InputError


@pytest.fixture
def network_folder(tmp_path):
    folder = tmp_path / "trained" / "my-bert"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("model", "seed", "step", "source", "revision", "stored"),
    [
        ("multiberts", 0, None, "google/multiberts-seed_0", None, 2_000_000),
        ("multiberts", 24, -1, "google/multiberts-seed_24", None, 2_000_000),
        ("multiberts", 3, 2_000_000, "google/multiberts-seed_3", None, 2_000_000),
        ("multiberts", 4, 0, "google/multiberts-seed_4-step_0k", None, 0),
        ("multiberts", 1, 180_000, "google/multiberts-seed_1-step_180k", None, 180_000),
        ("multiberts", 1, 1_900_000, "google/multiberts-seed_1-step_1900k", None, 1_900_000),
        ("pythia-160m", 0, None, "EleutherAI/pythia-160m", "step143000", 143_000),
        ("pythia-160m", 0, 512, "EleutherAI/pythia-160m", "step512", 512),
        ("EleutherAI/pythia-70m", 0, 0, "EleutherAI/pythia-70m", "step0", 0),
        ("pythia-1.4b-deduped", 0, 1000, "EleutherAI/pythia-1.4b-deduped", "step1000", 1000),
        ("pythia-410m", 9, 3000, "EleutherAI/pythia-410m-seed9", "step3000", 3000),
        ("pythia-14m", 1, None, "EleutherAI/pythia-14m-seed1", "step143000", 143_000),
        ("EleutherAI/pythia-14m-seed1", 0, 1, "EleutherAI/pythia-14m-seed1", "step1", 1),
        ("pythia-160m-data-seed", 2, 64, "EleutherAI/pythia-160m-data-seed2", "step64", 64),
        ("bert-base-uncased", 0, None, "bert-base-uncased", None, FINAL_STEP),
        ("org/name", 7, 1000, "org/name", None, 1000),
        ("google/multiberts-seed_3", 0, None, "google/multiberts-seed_3", None, FINAL_STEP),
    ],
)
def test_names(model, seed, step, source, revision, stored):
    assert resolve(model, seed, step) == Checkpoint(model, seed, stored, source, revision)


def test_known_checkpoints():
    assert known_seeds("multiberts") == list(range(25))
    assert known_steps("multiberts", 24) == [2_000_000]
    steps = known_steps("multiberts", 0)
    # 28 after the start of the training, as the paper counts them
    assert len(steps) == 29
    assert steps == sorted(set(steps))
    assert steps[9:12] == [180_000, 200_000, 300_000]
    assert known_seeds("pythia-160m") == list(range(10))
    assert known_seeds("pythia-12b") == [0]
    assert len(known_steps("pythia-160m", 9)) == 154
    with pytest.raises(InputError, match="'bert' is no published series"):
        known_steps("bert")


@pytest.mark.parametrize(
    ("model", "seed", "step", "message"),
    [
        ("multiberts", 25, None, r"seed of 'multiberts': unknown value 25; known: 0, 1, .* 24$"),
        ("multiberts", 7, 20_000, "no weights of seed 7 were kept at 20000; nearest .*2000000$"),
        ("multiberts", 0, 20, "kept at 20; nearest known: 0 and 20000$"),
        ("multiberts", 0, 250_000, "nearest known: 200000 and 300000$"),
        ("pythia-160m", 0, 1500, "step of 'pythia-160m'.* nearest known: 1000 and 2000$"),
        ("pythia-12b", 1, None, "seed of 'pythia-12b': unknown value 1; known: 0$"),
        ("any", -1, None, "seed: found -1; expected an integer of at least 0"),
        ("any", 0, -2, "step: found -2; expected an integer of at least -1"),
        ("any", "0", None, "seed: found '0'; expected an integer"),
        ("any", True, None, "seed: found True; expected an integer"),
        ("any", 0, 1.5, "step: found 1.5; expected an integer"),
    ],
)
def test_unknown_seeds_and_steps(model, seed, step, message):
    with pytest.raises(InputError, match=message):
        resolve(model, seed, step)


def test_numpy_integers_become_plain():
    checkpoint = resolve("multiberts", np.int64(1), np.int32(20_000))
    assert type(checkpoint.seed) is int
    assert type(checkpoint.step) is int


def test_local_folder_is_stored_under_its_name(network_folder, monkeypatch):
    expected = Checkpoint("my-bert", 0, FINAL_STEP, str(network_folder))
    assert resolve(network_folder) == expected
    assert resolve(f"{network_folder}/") == expected
    monkeypatch.chdir(network_folder.parent)
    assert resolve("my-bert") == expected
    monkeypatch.chdir(network_folder)
    assert resolve(".").model == "my-bert"
    monkeypatch.setenv("HOME", str(network_folder.parent))
    assert resolve("~/my-bert") == expected


@pytest.mark.parametrize(
    ("folder", "model", "step"),
    [
        ("bert/model", "bert/model", FINAL_STEP),
        ("gpt/model", "gpt/model", FINAL_STEP),
        ("bert/checkpoint-100", "bert", 100),
        ("bert/step2000", "bert", 2000),
        ("bert/output/checkpoint-100", "bert/output", 100),
        ("bert/checkpoint", "bert/checkpoint", FINAL_STEP),
        ("bert/checkpoint-best", "bert/checkpoint-best", FINAL_STEP),
        ("hub/models--google--bert-base/snapshots/0a1b2c", "google/bert-base", FINAL_STEP),
    ],
)
def test_folders_of_the_same_name_have_labels_that_tell_them_apart(
    tmp_path, monkeypatch, folder, model, step
):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "config.json").write_text("{}")
    source = str(tmp_path / folder)
    assert resolve(tmp_path / folder, 3) == Checkpoint(model, 3, step, source)
    if step == FINAL_STEP:
        assert resolve(tmp_path / folder, 3, 7).step == 7
    else:
        assert resolve(tmp_path / folder, 3, step).step == step
        with pytest.raises(InputError, match=f"^step: found 7 for .*; expected {step} as its name"):
            resolve(tmp_path / folder, 3, 7)
    assert resolve("any", 3, 7, source=source).step == 7
    assert resolve("any", 3, source=source) == Checkpoint("any", 3, FINAL_STEP, source)
    monkeypatch.chdir(tmp_path / folder)
    assert resolve(".", 3) == Checkpoint(model, 3, step, source)


def test_local_network_comes_before_a_published_series(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("multiberts").mkdir()
    assert resolve("multiberts").source == "google/multiberts-seed_0"
    Path("multiberts/config.json").write_text("{}")
    assert resolve("multiberts").source == str(tmp_path / "multiberts")


def test_source_template_wins(network_folder):
    template = "{model}/seed-{seed}/step-{step:07d}"
    found = resolve("multiberts", 3, 40, source=template, revision="v{seed}")
    assert found == Checkpoint("multiberts", 3, 40, "multiberts/seed-3/step-0000040", "v3")
    assert resolve("multiberts", 99, source="mine-{seed}").step == FINAL_STEP
    found = resolve("label", source=network_folder)
    assert (found.model, found.source) == ("label", str(network_folder))


def test_revision_template():
    found = resolve("org/name", 1, 500, revision="seed{seed}-step{step}")
    assert (found.source, found.revision) == ("org/name", "seed1-step500")
    found = resolve("pythia-160m", 2, revision="main")
    assert (found.source, found.revision, found.step) == (
        "EleutherAI/pythia-160m-seed2",
        "main",
        143_000,
    )


@pytest.mark.parametrize("option", ["source", "revision"])
@pytest.mark.parametrize("template", ["run-{sed}", "run-{}", "run-{seed", "{seed:q}", "{seed.x}"])
def test_template_that_cannot_be_filled_in(option, template):
    with pytest.raises(InputError, match=re.escape(f"{option}: cannot fill in {template!r}")):
        resolve("m", 0, 1, **{option: template})


@pytest.mark.parametrize("option", ["source", "revision"])
@pytest.mark.parametrize("step", [None, -1])
def test_template_with_a_step_needs_one(option, step):
    with pytest.raises(InputError, match=f"^step: none given, but {option}"):
        resolve("m", 0, step, **{option: "at-{step}"})


def test_resolve_all_is_the_product_without_repetitions():
    found = resolve_all("pythia-14m", [0, 1], [None, 143_000, 1])
    assert [checkpoint.labels for checkpoint in found] == [
        {"model": "pythia-14m", "seed": seed, "step": step}
        for seed in (0, 1)
        for step in (143_000, 1)
    ]


@pytest.mark.parametrize(("seeds", "steps"), [([0, 1], [None]), ([0], [10, 20])])
def test_resolve_all_refuses_one_set_of_weights_under_two_labels(seeds, steps):
    with pytest.raises(InputError, match=r"have the same weights, 'gpt2'; .*\{seed\} or \{step\}"):
        resolve_all("gpt2", seeds, steps)


def test_every_published_checkpoint_has_its_own_place():
    names = ["multiberts", "pythia-14m", "pythia-12b-deduped", "pythia-160m-weight-seed"]
    found = [
        resolve(name, seed, step)
        for name in names
        for seed in known_seeds(name)
        for step in known_steps(name, seed)
    ]
    assert len(found) == 5 * 29 + 20 + 10 * 154 + 154 + 3 * 154
    assert len({(checkpoint.source, checkpoint.revision) for checkpoint in found}) == len(found)
    assert not any("{" in checkpoint.source for checkpoint in found)
    assert len(SERIES) == 5
