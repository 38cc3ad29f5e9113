"""Networks are loaded whole or not at all: their code, their weights, and the hub."""

import itertools
import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import hub
import mlem_xr as mx
import networks
from mlem_xr.schema import InputError


@pytest.fixture
def recorded(tmp_path):
    """Record a folder: activations (pooling, layer, sentence, unit) and the provenance."""

    def record(folder, *, stimuli=None, **options):
        store = tmp_path / "store.zarr"
        shutil.rmtree(store, ignore_errors=True)
        given = networks.stimuli() if stimuli is None else stimuli
        mx.record(given, store, model="net", source=folder, progress=False, **options)
        found = mx.open_store(store).squeeze(["model", "seed", "step"])
        return found.activation.values, json.loads(found.provenance.item())

    return record


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    """Keep code that runs out of the user's cache, and let nothing be asked on standard input."""
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    monkeypatch.setattr("builtins.input", lambda *prompt: pytest.fail(f"asked {prompt}"))
    return networks.save_own_code


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def of_bert(tmp_path):
    """Blocks of the small BERT that networks with code of their own start from."""
    folder = networks.save_bert(tmp_path / "plain")
    return networks.activations_one_by_one(folder)[:, 1:]


# Code of a network's own


def test_code_of_a_folder_runs_only_where_it_is_trusted(tmp_path, recorded, own_code):
    folder = own_code(tmp_path / "own", change="2 * states")
    with pytest.raises(
        InputError, match=r"brings code of its own, 'modeling_own.py', which is"
    ) as e:
        recorded(folder)
    assert "expected trust_remote_code=True if you trust it" in str(e.value)
    assert not (tmp_path / "modules").exists()
    found, provenance = recorded(folder, trust_remote_code=True)
    assert_close(found, 2 * of_bert(tmp_path))
    assert provenance["trust_remote_code"] is True
    assert provenance["own_code"] == ["modeling_own.py"]
    assert provenance["network"] == {"class": "OwnModel", "part": None}


def test_code_of_a_network_with_a_head_alone(tmp_path, recorded, own_code):
    folder = own_code(tmp_path / "own", change="2 * states", kind="ModelForMaskedLM")
    found, provenance = recorded(folder, trust_remote_code=True)
    assert_close(found, 2 * of_bert(tmp_path))
    assert provenance["network"] == {"class": "OwnMaskedLM", "part": "bert"}


def test_code_that_is_not_run_beside_a_known_type_is_named(tmp_path, recorded, own_code):
    folder = own_code(tmp_path / "own", change="2 * states", model_type="bert")
    message = "^model: .*'modeling_own.py', which is not run: transformers has"
    with pytest.warns(UserWarning, match=message):
        found, provenance = recorded(folder)
    assert_close(found, of_bert(tmp_path))
    assert provenance["trust_remote_code"] is False
    store = tmp_path / "store.zarr"
    options = {"model": "net", "source": folder, "progress": False}
    with pytest.raises(InputError, match=r"with other options .*trust_remote_code False\)"):
        mx.record(networks.stimuli(), store, **options, trust_remote_code=True)
    mx.record(networks.stimuli(), store, **options, trust_remote_code=True, overwrite=True)
    assert_close(mx.open_store(store).activation.squeeze(), 2 * of_bert(tmp_path))


def test_code_of_two_folders_of_one_name_is_not_mixed_up(tmp_path, recorded, own_code):
    for times in (2, 3):
        folder = own_code(tmp_path / f"{times}" / "own", change=f"{times} * states")
        found, _ = recorded(folder, trust_remote_code=True)
        assert_close(found, times * of_bert(tmp_path))


@pytest.mark.parametrize("random", [False, True])
def test_numbers_that_code_makes_are_those_that_it_makes(tmp_path, recorded, own_code, random):
    """transformers gives them room, and leaves there what was in it."""
    folder = own_code(tmp_path / "own", change="states + self.extra")
    path = folder / "modeling_own.py"
    numbers = "torch.rand(16)" if random else "torch.arange(16.0)"
    begin = f"""
    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("extra", {numbers}, persistent=False)

    def forward(self, input_ids"""
    path.write_text(path.read_text().replace("\n    def forward(self, input_ids", begin))
    if random:
        with pytest.raises(InputError, match="^model: .* makes its numbers extra at random"):
            recorded(folder, trust_remote_code=True)
    else:
        found, _ = recorded(folder, trust_remote_code=True)
        assert_close(found, of_bert(tmp_path) + np.arange(16))


@pytest.mark.parametrize("known", [False, True])
def test_code_of_a_tokenizer_is_not_run_either(tmp_path, recorded, own_code, known):
    folder = networks.save_bert(tmp_path / "own")
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["auto_map"] = {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]}
    settings["tokenizer_class"] = "BertTokenizer" if known else "OwnTokenizer"
    path.write_text(json.dumps(settings))
    (folder / "tokenization_own.py").write_text("raise SystemExit('ran')")
    if known:
        with pytest.warns(UserWarning, match="'tokenization_own.py', which is not run"):
            recorded(folder)
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt_neox"}))
        with pytest.raises(InputError, match="tokenization_own.py"):
            recorded(folder)


@pytest.mark.parametrize("value", [1, "yes", None, [True]])
def test_trust_is_true_or_false(tmp_path, recorded, value):
    with pytest.raises(InputError, match="^trust_remote_code: found .*; expected True or False"):
        recorded(tmp_path / "net", trust_remote_code=value)


# Networks that do not treat each sentence alone

IN_BATCHES = [
    f"{words}?" for words in ("old man", "man old", "he old", "old he", "he he", "he man")
]
IN_BATCHES += [f"{words} old man" for words in ("the", "he", "man")]


def test_a_network_that_mixes_over_the_batch_runs_sentence_by_sentence(
    tmp_path, recorded, own_code
):
    folder = own_code(tmp_path / "own", change="states - states.mean(0).tanh()")
    with pytest.warns(UserWarning, match="other activations in a batch than alone; every sentence"):
        found, _ = recorded(folder, trust_remote_code=True)
    tokenizer = networks.word_pieces()
    plain = transformers.AutoModel.from_pretrained(networks.save_bert(tmp_path / "plain")).eval()
    for row, sentence in enumerate(networks.SENTENCES):
        with torch.no_grad():
            given = tokenizer(sentence, return_tensors="pt")
            states = plain(**given, output_hidden_states=True).hidden_states[2]
        assert_close(found[1, 1, row], (states - states.mean(0).tanh())[0].mean(0))


@pytest.mark.parametrize(
    "change",
    [
        # In a batch all but the last sentence, in a batch of three its last one.
        "states + (torch.arange(len(states))[:, None, None] < len(states) - 1)",
        "states + (torch.arange(len(states))[:, None, None] == 2) * (len(states) == 3)",
    ],
)
def test_one_sentence_that_a_batch_leaves_alone_does_not_stand_for_others(
    tmp_path, recorded, own_code, change
):
    """Five of the sentences are of one length, and three of another."""
    folder = own_code(tmp_path / "own", change=change)
    with pytest.warns(UserWarning, match="other activations in a batch than alone; every sentence"):
        found, _ = recorded(folder, stimuli=networks.stimuli(IN_BATCHES), trust_remote_code=True)
    plain = networks.save_bert(tmp_path / "plain")
    assert_close(found, networks.activations_one_by_one(plain, IN_BATCHES)[:, 1:])


def test_a_network_with_randomness_is_refused(tmp_path, recorded, own_code):
    change = "states + 0.1 * torch.rand_like(states)"
    folder = own_code(tmp_path / "own", change=change)
    for batch_size in (1, 64):
        with pytest.raises(InputError, match=r"\(OwnModel\) gives the same sentence other"):
            recorded(folder, trust_remote_code=True, batch_size=batch_size)
    assert not (tmp_path / "store.zarr").exists()


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_experts_that_take_so_many_tokens_of_a_batch(tmp_path, recorded, share):
    config = transformers.NllbMoeConfig(
        vocab_size=120,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_experts=4,
        encoder_sparse_step=1,
        max_position_embeddings=64,
        moe_eval_capacity_token_fraction=share,
        init_std=0.3,
    )
    folder = networks.save(tmp_path / "net", config, networks.unigrams())
    words = (
        ("Mary", "He", "Dogs", "Girls"),
        ("plays", "sings", "bark"),
        ("Mary", "dogs", "garden"),
    )
    sentences = [" ".join(one) + "." for one in itertools.product(*words)]
    with pytest.warns(UserWarning, match="other activations in a batch than alone; every sentence"):
        found, _ = recorded(folder, stimuli=networks.stimuli(sentences))
    assert_close(found, networks.activations_one_by_one(folder, sentences)[:, 1:])


def test_random_hashes_are_refused_unless_they_are_fixed(tmp_path, recorded):
    config = transformers.ReformerConfig(
        vocab_size=120,
        hidden_size=16,
        feed_forward_size=32,
        attention_head_size=8,
        num_attention_heads=2,
        attn_layers=["lsh", "local"],
        lsh_attn_chunk_length=1,
        local_attn_chunk_length=1,
        num_buckets=4,
        axial_pos_shape=(8, 8),
        axial_pos_embds_dim=(8, 8),
        is_decoder=False,
        initializer_range=0.3,
    )
    folder = networks.save(tmp_path / "net", config, networks.word_pieces())
    with pytest.raises(InputError, match="same sentence other activations each time; expected a"):
        recorded(folder)
    change_config(folder, hash_seed=1)
    found, _ = recorded(folder)
    assert_close(found, networks.activations_one_by_one(folder)[:, 1:])


# Weights


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def write_weights(folder, weights):
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_on_disk_is_recorded_in_single_precision(tmp_path, recorded, dtype):
    folder = networks.save_bert(tmp_path / "net")
    transformers.AutoModel.from_pretrained(folder, dtype=dtype).save_pretrained(folder)
    assert weights_of(folder)["pooler.dense.bias"].dtype == dtype
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype)[6:]
    found, _ = recorded(folder)
    assert found.dtype == np.float32
    assert_close(found, networks.activations_one_by_one(folder)[:, 1:])


def save_shards(folder):
    model = transformers.AutoModel.from_pretrained(networks.save_bert(folder))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="8KB")
    return sorted(folder.glob("*.safetensors"))


def save_pickled(folder):
    weights = weights_of(networks.save_bert(folder))
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    return [folder / "pytorch_model.bin"]


@pytest.mark.parametrize("save", [save_shards, save_pickled])
def test_weights_in_other_files(tmp_path, recorded, save):
    expected, _ = recorded(networks.save_bert(tmp_path / "plain"))
    files = save(tmp_path / "net")
    found, _ = recorded(tmp_path / "net")
    np.testing.assert_array_equal(found, expected)
    for content in (b"", b"nonsense", files[-1].read_bytes()[:-100]):
        files[-1].write_bytes(content)
        with pytest.raises(InputError, match="^model: cannot load .*net'") as raised:
            recorded(tmp_path / "net")
        assert "\n" not in str(raised.value)
    files[-1].unlink()
    with pytest.raises(InputError, match="^model: cannot load .*net'"):
        recorded(tmp_path / "net")


class Runs:
    def __reduce__(self):
        return pytest.fail, ("a pickle was run",)


def test_a_pickle_that_runs_code_is_refused(tmp_path, recorded):
    (file,) = save_pickled(tmp_path / "net")
    torch.save({"weights": Runs()}, file)
    with pytest.raises(InputError, match="^model: cannot load"):
        recorded(tmp_path / "net")


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', '{"model_type": 3}'])
def test_a_configuration_that_is_none(tmp_path, recorded, content):
    folder = networks.save_bert(tmp_path / "net")
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match="^model: "):
        recorded(folder)


def test_weights_of_other_shapes_are_named(tmp_path, recorded):
    folder = networks.save_bert(tmp_path / "net")
    weights = weights_of(folder)
    weights["embeddings.position_embeddings.weight"] = torch.zeros(32, 16)
    write_weights(folder, weights)
    message = (
        r"other shapes .*: embeddings.position_embeddings.weight \(32, 16\) instead of \(64, 16"
    )
    with pytest.raises(InputError, match=message):
        recorded(folder)


def test_weights_of_further_layers_are_named(tmp_path, recorded):
    folder = networks.save_bert(tmp_path / "net", layers=3)
    expected, _ = recorded(folder)
    change_config(folder, num_hidden_layers=2)
    with pytest.warns(UserWarning, match="16 weights of .* not used: encoder.layer.2.attention"):
        found, _ = recorded(folder)
    np.testing.assert_array_equal(found, expected[:, :2])
    change_config(folder, num_hidden_layers=4)
    with pytest.raises(InputError, match="lacks weights that its layers need: encoder.layer.3"):
        recorded(folder)


def test_weights_inside_layers_that_the_class_does_not_use_are_named(tmp_path, recorded):
    """Positions of a kind that transformers no longer has; biases that config.json denies."""
    folder = networks.save_bert(tmp_path / "bert")
    name = "attention.self.distance_embedding.weight"
    further = {f"encoder.layer.{i}.{name}": torch.zeros(127, 8) for i in (0, 1)}
    write_weights(folder, weights_of(folder) | further)
    message = f"has 2 weights of layers that BertModel .* not used: encoder.layer.0.{name}, "
    with pytest.warns(UserWarning, match=message):
        recorded(folder)
    kind = transformers.BertForMaskedLM.from_pretrained
    kind(folder).save_pretrained(folder)
    further = {f"bert.{name}": weights for name, weights in further.items()}
    write_weights(folder, weights_of(folder) | further)
    with pytest.warns(UserWarning, match=f"not used: bert.encoder.layer.0.{name}, "):
        recorded(folder)
    folder = networks.save_llama(tmp_path / "llama")
    write_weights(folder, weights_of(folder) | {"layers.1.self_attn.q_proj.bias": torch.ones(16)})
    with pytest.warns(UserWarning, match="has 1 weights of layers .*: layers.1.self_attn.q_proj"):
        recorded(folder)


def test_what_layers_make_themselves_is_no_reason_to_warn(tmp_path, recorded, recwarn):
    """Masks and frequencies that were saved once; layers of a decoder that does not read."""
    folder = networks.save_gpt2(tmp_path / "gpt2")
    masks = {"h.0.attn.bias": torch.ones(1, 1, 64, 64), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    write_weights(folder, weights_of(folder) | masks)
    recorded(folder)
    folder = networks.save_llama(tmp_path / "llama")
    frequencies = {"layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    write_weights(folder, weights_of(folder) | frequencies)
    recorded(folder)
    folder = networks.save_t5(tmp_path / "t5")
    write_weights(folder, weights_of(folder) | {"decoder.block.0.layer.0.more": torch.ones(4)})
    recorded(folder)
    assert [str(w.message) for w in recwarn if "weights" in str(w.message)] == []


def test_a_head_that_no_layer_needs_is_no_reason_to_warn(tmp_path, recorded, recwarn):
    kind = transformers.BertForMaskedLM
    folder = tmp_path / "net"
    networks.save(folder, networks.bert_config(), networks.word_pieces(), kind=kind)
    recorded(folder)
    assert [str(w.message) for w in recwarn if "weights" in str(w.message)] == []


def test_weights_that_only_choose_may_not_be_missing_either(tmp_path, recorded):
    """Experts are chosen by numbers that never get into a sum: without them nothing is NaN."""
    config = transformers.DeepseekV3Config(
        vocab_size=120,
        hidden_size=16,
        intermediate_size=32,
        moe_intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        first_k_dense_replace=0,
        initializer_range=0.3,
    )
    folder = networks.save(tmp_path / "net", config, networks.word_pieces())
    recorded(folder)
    weights = weights_of(folder)
    name = "layers.1.mlp.gate.e_score_correction_bias"
    del weights[name]
    write_weights(folder, weights)
    with pytest.raises(InputError, match=f"lacks weights that its layers need: {name}"):
        recorded(folder)


def test_the_encoder_of_two_is_recorded_and_named(tmp_path, recorded):
    _, provenance = recorded(networks.save_t5(tmp_path / "t5"))
    assert provenance["network"] == {"class": "T5Model", "part": "encoder"}


def test_a_decoder_alone_of_two_is_refused(tmp_path, recorded):
    config = transformers.BartConfig(
        vocab_size=120, d_model=16, encoder_layers=2, decoder_layers=2, max_position_embeddings=64
    )
    config.encoder_attention_heads = config.decoder_attention_heads = 2
    folder = tmp_path / "net"
    kind = transformers.BartForCausalLM
    networks.save(folder, config, networks.word_pieces(), kind=kind)
    message = (
        r"\(BartModel\) has no weights of its encoder, which reads the sentences; expected the"
    )
    with pytest.raises(InputError, match=message):
        recorded(folder)


def test_a_configuration_that_wants_tuples(tmp_path, recorded):
    folder = networks.save_bert(tmp_path / "net")
    expected, _ = recorded(folder)
    change_config(folder, return_dict=False)
    found, _ = recorded(folder)
    np.testing.assert_array_equal(found, expected)


def test_code_that_gives_a_tuple_is_refused(tmp_path, recorded, own_code):
    folder = own_code(tmp_path / "own")
    path = folder / "modeling_own.py"
    path.write_text(path.read_text().replace("return found", "return found.to_tuple()"))
    with pytest.raises(InputError, match=r"\(OwnModel\) has hidden states of no shape for"):
        recorded(folder, trust_remote_code=True)


# Folders of other programs


def test_folders_of_sentence_transformers(tmp_path, recorded):
    inner = networks.save_bert(tmp_path / "old" / "0_Transformer")
    expected, _ = recorded(inner)
    for folder in (tmp_path / "old", inner):
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
        (folder / "modules.json").write_text("[]")
    found, _ = recorded(inner)
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(InputError, match="has no config.json, but there is one in '0_Transformer'"):
        recorded(tmp_path / "old")


def test_an_adapter_is_refused(tmp_path, recorded):
    folder = networks.save_bert(tmp_path / "net")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "nobody/none"}')
    with pytest.raises(
        InputError, match="is an adapter of another network; expected a folder with"
    ):
        recorded(folder)


# The hub


def test_a_name_on_the_hub_and_then_without_it(tmp_path, recorded):
    """A hub that is slow to say that it is there is asked; one that is gone is not asked again."""
    source = """
        import os, sys
        from pathlib import Path

        folder, stores = map(Path, sys.argv[1:])
        import hub
        with hub.hub("me/net", folder, seconds=1) as address:
            os.environ["HF_ENDPOINT"] = address
            import networks, mlem_xr as mx
            from mlem_xr.networks import loading
            from mlem_xr.schema import InputError

            loading._SECONDS_FOR_THE_HUB = 0.5

            def record(store, name):
                try:
                    mx.record(networks.stimuli(), stores / store, model=name, progress=False)
                    print(f"recorded {name}")
                except InputError as error:
                    print(error)

            record("online.zarr", "me/net")
            record("typo.zarr", "me/typo")
        record("offline.zarr", "me/net")
        record("typo.zarr", "me/typo")
    """
    folder = networks.save_bert(tmp_path / "net")
    process = networks.start(source, folder, tmp_path, HF_HOME=str(tmp_path / "home"))
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert "Retrying" not in printed
    said = [line for line in printed.splitlines() if line.startswith(("recorded", "model: cannot"))]
    assert said[0] == said[2] == "recorded me/net"
    assert said[1].startswith("model: cannot load 'me/typo'; expected a name on the Hugging Face")
    unreachable = "it is neither a folder nor on this machine, and the Hugging Face hub cannot be"
    assert said[3].startswith(f"model: cannot load 'me/typo'; {unreachable} reached (")
    expected, _ = recorded(folder)
    for name in ("online", "offline"):
        store = mx.open_store(tmp_path / f"{name}.zarr")
        # Another process may add single-precision numbers in another order.
        assert_close(store.activation.squeeze(), expected)
        assert json.loads(store.provenance.item())["commit"] == hub.COMMIT


@pytest.mark.parametrize("name", ["./not/there", "/not/there", "a/b/c", "a b", "a--b"])
def test_what_is_neither_a_folder_nor_a_name_is_not_asked_for(recorded, name):
    with pytest.raises(InputError, match="there is no such folder, and it is no name on the"):
        recorded(name)


def test_weights_that_a_class_lets_be_missing_are_missed_all_the_same(
    tmp_path, recorded, monkeypatch
):
    folder = networks.save_bert(tmp_path / "net")
    expected, _ = recorded(folder)
    monkeypatch.setattr(
        transformers.BertModel, "_keys_to_ignore_on_load_missing", ["output.dense"], raising=False
    )
    found, _ = recorded(folder)
    np.testing.assert_array_equal(found, expected)
    weights = weights_of(folder)
    del weights["encoder.layer.1.output.dense.weight"]
    write_weights(folder, weights)
    with pytest.raises(InputError, match="layers need: encoder.layer.1.output.dense.weight"):
        recorded(folder)
