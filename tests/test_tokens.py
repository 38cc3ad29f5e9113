"""The tokens are those that a network was trained with, or there is an error that says why not."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, processors

import networks
from mlem_xr.networks.recording import record
from mlem_xr.networks.tokens import encode, load_tokenizer
from mlem_xr.schema import InputError
from mlem_xr.store import activations as stores


@pytest.fixture
def recorded(tmp_path):
    """Record a folder: the activations (layer, sentence, unit) of the mean, and the provenance."""

    def record_mean(folder, *, sentences=networks.SENTENCES, **options):
        store = tmp_path / "store.zarr"
        shutil.rmtree(store, ignore_errors=True)
        stimuli = networks.stimuli(sentences)
        record(stimuli, store, model="net", source=folder, progress=False, **options)
        found = stores.open_store(store)
        activation = found.activation.squeeze(["model", "seed", "step"])
        return activation.sel(pooling="mean").values, json.loads(found.provenance.item())

    return record_mean


@pytest.mark.parametrize("kept", [[], ["tokenizer_config.json"]], ids=str)
def test_a_folder_without_a_tokenizer_is_refused(tmp_path, recorded, kept):
    """transformers makes up an empty vocabulary."""
    folder = networks.save_bert(tmp_path / "net")
    for file in folder.glob("*token*"):
        if file.name not in kept:
            file.unlink()
    message = r"the folder .*net' has no tokenizer: none of tokenizer.json, vocab.txt; expected"
    with pytest.raises(InputError, match=message):
        recorded(folder)
    assert not (tmp_path / "store.zarr").exists()


def test_another_folder_may_have_the_tokenizer(tmp_path, recorded):
    folder = networks.save_bert(tmp_path / "net")
    expected, _ = recorded(folder)
    other = tmp_path / "tokenizer"
    other.mkdir()
    for file in folder.glob("*token*"):
        shutil.move(file, other)
    found, provenance = recorded(folder, tokenizer=other)
    np.testing.assert_array_equal(found, expected)
    assert provenance["tokenizer"]["source"] == str(other)
    with pytest.raises(InputError, match="with other options .*tokenizer .*tokenizer"):
        stimuli = networks.stimuli()
        store = tmp_path / "store.zarr"
        record(stimuli, store, model="net", source=folder, progress=False)


def usual_tokenizer_of(monkeypatch, tokenizer):
    """Make transformers load this one, as it does for types of networks with one of their own."""
    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda *args, **kwargs: tokenizer
    )


def test_the_ids_are_those_of_the_tokenizer_file(tmp_path, recorded, monkeypatch):
    folder = networks.save_bert(tmp_path / "net")
    expected, _ = recorded(folder)
    usual_tokenizer_of(monkeypatch, networks.byte_pairs(eos_token="</s>"))
    found, provenance = recorded(folder)
    np.testing.assert_array_equal(found, expected)
    assert provenance["tokenizer"]["class"] == transformers.PreTrainedTokenizerFast.__name__


def test_a_tokenizer_that_cannot_give_the_ids_of_its_file_is_refused(
    tmp_path, recorded, monkeypatch
):
    folder = networks.save_bert(tmp_path / "net")
    other = networks.byte_pairs(eos_token="</s>")
    usual_tokenizer_of(monkeypatch, other)
    monkeypatch.setattr(
        transformers.PreTrainedTokenizerFast, "from_pretrained", lambda *args, **kwargs: other
    )
    with pytest.raises(InputError, match="does not give the tokens of its tokenizer.json"):
        recorded(folder)


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_special_tokens_are_those_of_the_tokenizer_file(tmp_path, recorded, name):
    """A class that adds none where the file has one, and one that adds some where it has none."""
    folder = networks.NETWORKS[name](tmp_path / name)
    cls = {"llama": "GPTNeoXTokenizerFast", "bert": "BertTokenizer"}[name]
    if name == "bert":
        change_json(folder / "tokenizer.json", post_processor=None)
    change_json(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    expected, _ = recorded(folder)
    change_json(folder / "tokenizer_config.json", tokenizer_class=cls)
    both = {
        "llama": r"\['Mary', .* gives \['<s>', 'Mary', ",
        "bert": r"\['\[CLS\]', .* gives \['mary', ",
    }[name]
    with pytest.warns(UserWarning, match=f"which gives {both}.*; those of the file are used"):
        found, provenance = recorded(folder)
    np.testing.assert_array_equal(found, expected)
    assert provenance["tokenizer"]["class"] == transformers.PreTrainedTokenizerFast.__name__


def test_special_tokens_that_the_settings_of_a_tokenizer_ask_for_are_added(
    tmp_path, recorded, monkeypatch, recwarn
):
    """Files of Llamas add what is at their start; that one ends too is said beside them."""
    folder = networks.save_llama(tmp_path / "llama")
    usual = transformers.AutoTokenizer.from_pretrained(folder)
    both = [(name, usual.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
    usual.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=both
    )
    usual_tokenizer_of(monkeypatch, usual)
    settings = folder / "tokenizer_config.json"
    change_json(settings, add_bos_token=True, add_eos_token=True)
    assert load_tokenizer(str(folder), {}, networks.SENTENCES, False) is usual
    assert not recwarn
    change_json(settings, add_eos_token=False)
    with pytest.warns(UserWarning, match=r"'\.', '</s>'\]; .* those of the file are used"):
        found = load_tokenizer(str(folder), {}, networks.SENTENCES, False)
    assert found("Mary")["input_ids"] == usual("Mary")["input_ids"][:-1]


def test_truncation_in_the_file_does_not_matter(tmp_path):
    folder = networks.save_bert(tmp_path / "net")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(folder / "tokenizer.json"))
    found = load_tokenizer(str(folder), {}, networks.SENTENCES, False)
    model = transformers.AutoModel.from_pretrained(folder)
    options = {"add_special_tokens": True, "source": "net", "rows": range(20)}
    tokens = encode(found, model, networks.SENTENCES, **options)
    assert len(tokens.inputs["input_ids"][7]) > 20


def test_token_types_go_to_networks_that_have_a_table_of_them(tmp_path, recorded):
    """GPT-2 takes them for tokens, and adds the embedding of token 0 to every token."""
    bare = networks.save_gpt2(tmp_path / "gpt2", tokenizer=networks.word_pieces())
    found, _ = recorded(bare)
    expected = networks.activations_one_by_one(bare)[1, 1:]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    tokenizer = networks.word_pieces()
    for folder, named in ((bare, False), (networks.save_bert(tmp_path / "bert"), True)):
        model = transformers.AutoModel.from_pretrained(folder)
        options = {"add_special_tokens": True, "source": "net", "rows": range(20)}
        tokens = encode(tokenizer, model, networks.SENTENCES, **options)
        assert ("token_type_ids" in tokens.inputs) == named


def test_a_token_without_an_embedding_is_named(tmp_path, recorded):
    config = networks.bert_config()
    config.vocab_size = 40
    folder = networks.save(tmp_path / "net", config, networks.word_pieces())
    message = "gives token 61, but the network has 40 embeddings; expected its own tokenizer"
    with pytest.raises(InputError, match=message):
        recorded(folder)
    assert not (tmp_path / "store.zarr").exists()


def test_unknown_words_are_named(tmp_path, recorded):
    folder = networks.save_bert(tmp_path / "net")
    strange = [*networks.SENTENCES, "The girl sees \u03a9\u03c9 and \u0416."]
    with pytest.warns(UserWarning, match=r"[12]% of the tokens are unknown .*: '\u03a9\u03c9'"):
        _, provenance = recorded(folder, sentences=strange)
    assert 0 < provenance["tokenizer"]["share_of_unknown"] < 0.05
    greek = [
        "\u03a9 \u03c9",
        "\u03c9 \u03a9",
        "\u03c9 \u03c9 \u03c9",
        "\u03a9 \u03a9 \u03a9 \u03a9",
    ]
    with pytest.raises(InputError, match="100% of the tokens are unknown .*expected the tokenizer"):
        recorded(folder, sentences=greek)


def test_words_that_a_tokenizer_drops_are_unknown(tmp_path, recorded):
    """A tokenizer without a token for what is unknown leaves it out."""
    folder = networks.save_gpt2(tmp_path / "net")
    strange = [*networks.SENTENCES, "Dogs bark 123 @#%", "Mary Zplays."]
    with pytest.warns(UserWarning, match="of the tokens are unknown .*: '123', '@#%', 'Zplays.'$"):
        _, provenance = recorded(folder, sentences=strange)
    assert 0 < provenance["tokenizer"]["share_of_unknown"] < 0.1
    strange = [f"{i}{j}" for i in range(3) for j in range(3)]
    with pytest.raises(InputError, match="stimuli: the sentence in row 1, '00', has no tokens"):
        recorded(folder, sentences=strange)


def test_marks_that_a_tokenizer_drops_are_no_words(tmp_path, recorded, recwarn):
    """Accents, soft hyphens and spaces without width say nothing."""
    folder = networks.save_bert(tmp_path / "net")
    strange = [*networks.SENTENCES, "The ma\u0301n sings\u200b in the gar\u00adden.", "M\u00e1ry."]
    _, provenance = recorded(folder, sentences=strange)
    assert provenance["tokenizer"]["share_of_unknown"] == 0
    assert not [w for w in recwarn if "unknown" in str(w.message)]


def test_special_tokens_in_a_sentence_are_named(tmp_path, recorded, recwarn):
    folder = networks.save_bert(tmp_path / "net")
    recorded(folder, sentences=[*networks.SENTENCES, "Mary [MASK]."])
    assert not [w for w in recwarn if "special" in str(w.message)]
    strange = [*networks.SENTENCES, "Mary [SEP] plays.", "Mary [PAD] plays."]
    recorded(folder, sentences=strange)
    [found] = [str(w.message) for w in recwarn if "special" in str(w.message)]
    assert found.startswith("model: '[SEP]' in 'Mary [SEP] plays.' is a special token of ")


def test_different_sentences_with_the_same_tokens_are_named(tmp_path, recorded):
    folder = networks.save_bert(tmp_path / "net")
    alike = [*networks.SENTENCES, "DOGS bark.", "girls PLAY."]
    with pytest.warns(UserWarning, match="'Dogs bark.' and 'DOGS bark.' have the same tokens"):
        _, provenance = recorded(folder, sentences=alike)
    assert provenance["tokenizer"]["n_distinct"] == len(networks.SENTENCES)


def test_layers_of_different_widths(tmp_path, recorded):
    folder = networks.save_opt(tmp_path / "opt")
    found, _ = recorded(folder, layer=[0, 1, 2])
    assert found.shape == (3, 11, 16)
    wide = [int(np.isfinite(layer).all(axis=0).sum()) for layer in found]
    assert wide == [16, 16, 8]
    assert np.isnan(found[2, :, 8:]).all()


def test_an_encoder_saved_alone(tmp_path, recorded):
    config = transformers.T5Config(
        vocab_size=120, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    torch.manual_seed(0)
    folder = tmp_path / "t5"
    model = transformers.T5EncoderModel(config)
    model.save_pretrained(folder)
    networks.unigrams().save_pretrained(folder)
    found, _ = recorded(folder)
    ids = networks.unigrams()(networks.SENTENCES[1], return_tensors="pt").input_ids
    with torch.no_grad():
        states = model.eval()(ids, output_hidden_states=True).hidden_states[1:]
    for layer, expected in zip(found, states, strict=True):
        np.testing.assert_allclose(layer[1], expected[0].mean(0), rtol=1e-5, atol=1e-5)


def test_the_texts_of_a_network_of_texts_and_images(tmp_path, recorded):
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    size["intermediate_size"] = 32
    text = {"vocab_size": 120, "max_position_embeddings": 64, "eos_token_id": 3}
    config = transformers.CLIPConfig(
        text_config=size | text, vision_config=size | {"image_size": 16, "patch_size": 8}
    )
    folder = networks.save(tmp_path / "clip", config, networks.word_pieces())
    found, _ = recorded(folder)
    assert found.shape == (2, 11, 16)


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
NO_ENCODERS = {
    "Canine": SMALL | {"intermediate_size": 32},
    "ViT": SMALL | {"intermediate_size": 32},
    "Whisper": {"vocab_size": 120, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2}
    | {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "pad_token_id": 0},
}


@pytest.mark.parametrize("kind", NO_ENCODERS)
def test_networks_that_are_no_encoders_of_sentences_are_named(tmp_path, recorded, kind):
    config = getattr(transformers, f"{kind}Config")(**NO_ENCODERS[kind])
    folder = networks.save(tmp_path / "net", config, networks.word_pieces())
    message = rf"net' \({kind}(Model|Encoder)\b.*; expected (one vector|an encoder)"
    with pytest.raises(InputError, match=message):
        recorded(folder)
    assert not (tmp_path / "store.zarr").exists()


def test_no_code_of_a_folder_runs(tmp_path, recorded):
    folder = networks.save_bert(tmp_path / "net")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "custom", "auto_map": {"AutoConfig": "code.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('ran')")
    with pytest.raises(InputError, match="brings code of its own, 'code.py', which is not"):
        recorded(folder)


def test_a_layer_in_which_all_sentences_are_alike_is_named(tmp_path, recorded):
    """The first token of a causal network sees nothing of the sentence."""
    folder = networks.save_llama(tmp_path / "llama")
    with pytest.warns(UserWarning, match=r"pooling=first-token, layer=1; .*sees nothing of the"):
        recorded(folder)
