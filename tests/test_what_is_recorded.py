"""What is recorded of a network: words, modules, long sentences, numbers of other sizes."""

import json
import os

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

import mlem_xr as mx
import networks
from hub import COMMIT, hub
from mlem_xr.networks import recording
from mlem_xr.networks.checkpoints import resolve_all
from mlem_xr.networks.modules import watched
from mlem_xr.schema import InputError
from mlem_xr.stimuli.targets import target_spans

torch.set_num_threads(1)

WORDS = ["Mary", "garden", "Dogs", "know", "sings", "old", "man", "behind", "plays", "The", "Mary"]

ATTENTION = "encoder.layer.{layer}.attention.output.dense"


def table(words=WORDS, sentences=None) -> pd.DataFrame:
    sentences = networks.SENTENCES if sentences is None else sentences
    return pd.DataFrame(
        {
            "sentence": sentences[: len(words)],
            "target": words,
            "number": ["sg" if i % 2 else "pl" for i in range(len(words))],
        }
    )


TABLE = table(["Mary", "boy", "Dogs", "river", "He", "old man", "Which", "garden", "Girls", "man"])
"""Words of one piece and of many, first ones, last ones, and two words together."""


@pytest.fixture
def record(tmp_path):
    def quietly(stimuli, folder, *, store=tmp_path / "store.zarr", **options):
        mx.record(stimuli, store, model="net", source=folder, progress=False, **options)
        return mx.open_store(store).squeeze(["model", "seed", "step"])

    return quietly


def word_by_word(folder, stimuli) -> np.ndarray:
    """(layer, sentence, unit): the mean over the pieces that share characters with the target.

    A piece that is a space alone shares none.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).float().eval()
    model = getattr(model, "encoder", model) if model.config.is_encoder_decoder else model
    found = []
    for sentence, word in zip(stimuli["sentence"], stimuli["target"], strict=True):
        start = sentence.index(word)
        inside = set(range(start, start + len(word)))
        tokens = tokenizer(sentence, return_offsets_mapping=True)
        names = tokenizer.convert_ids_to_tokens(tokens["input_ids"])
        places = [set(range(*ends)) for ends in tokens["offset_mapping"]]
        own = [i for i, at in enumerate(places) if inside & at and names[i] not in ("▁", "Ġ")]
        with torch.no_grad():
            ids = torch.tensor([tokens["input_ids"]])
            states = model(input_ids=ids, output_hidden_states=True).hidden_states
        found.append(torch.stack([layer[0, own].mean(0) for layer in states[1:]]))
    return torch.stack(found, dim=1).numpy()


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
def test_the_tokens_of_a_word_are_averaged(tmp_path, record, name):
    folder = networks.NETWORKS[name](tmp_path / name)
    found = record(TABLE, folder, pooling=["target", "mean"], batch_size=3)
    expected = word_by_word(folder, TABLE)
    target = found["activation"].sel(pooling="target")
    np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(found["activation"].sel(pooling="mean") - expected).max() > 0.01
    assert json.loads(found["provenance"].item())["pooling"] == ["target", "mean"]


def test_characters_say_the_same_as_the_word(tmp_path, record):
    folder = networks.save_bert(tmp_path / "net")
    start = [s.index(word) for s, word in zip(TABLE["sentence"], TABLE["target"], strict=True)]
    ends = np.add(start, TABLE["target"].str.len())
    places = TABLE.drop(columns="target").assign(target_start=start, target_end=ends)
    words = record(TABLE, folder, pooling="target")
    found = record(places, folder, pooling="target", store=tmp_path / "other.zarr")
    np.testing.assert_array_equal(found["activation"], words["activation"])
    assert found.attrs["stimuli_hash"] != words.attrs["stimuli_hash"]


def test_modules_are_watched_no_longer_than_asked():
    module, value = torch.nn.Linear(2, 2), torch.ones(1, 2)
    with watched({5: module}) as found:
        expected = module(value)
    module(value)
    assert list(found) == [5]
    [given] = found[5]
    assert torch.equal(given, expected)


def test_what_is_added_to_an_output_later_is_not_recorded(tmp_path, record):
    """Falcon adds the attention to the output of the other part, in place."""
    config = transformers.FalconConfig(
        vocab_size=120,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.3,
    )
    folder = networks.save(tmp_path / "net", config, networks.byte_pairs(bos_token="<s>"))
    options = {"module": "h.{layer}.mlp", "pooling": "last-token", "batch_size": 1}
    found = record(networks.stimuli(), folder, **options)["activation"].squeeze("pooling")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    for layer, block in enumerate(model.h):
        given = []
        block.mlp.register_forward_hook(lambda _, __, out, given=given: given.append(out.clone()))
        with torch.no_grad():
            for sentence in networks.SENTENCES:
                model(**tokenizer(sentence, return_tensors="pt"))
        expected = torch.stack([states[0, -1] for states in given])
        np.testing.assert_allclose(found[layer], expected, rtol=1e-5, atol=1e-5)


def test_a_text_with_several_targets_is_run_once(tmp_path, record, monkeypatch):
    folder = networks.save_bert(tmp_path / "net")
    text = networks.SENTENCES[1]
    words = ["boy", "sings", "garden", "old", "house"]
    sentences = [networks.SENTENCES[0], *[text] * 5, networks.SENTENCES[4]]
    stimuli = table(["Mary", *words, "He"], sentences)
    run = []
    forward = transformers.BertModel.forward

    def counted(self, input_ids, **options):
        run.append(len(input_ids))
        return forward(self, input_ids=input_ids, **options)

    monkeypatch.setattr(transformers.BertModel, "forward", counted)
    found = record(stimuli, folder, pooling=["target", "mean", "last-token"], batch_size=2)
    # Three texts, and those of the first batch alone to compare.
    assert sum(run) == 4
    target = found["activation"].sel(pooling="target")
    np.testing.assert_allclose(target, word_by_word(folder, stimuli), rtol=1e-5, atol=1e-5)
    shared = found["activation"].sel(pooling="mean").isel(sentence=slice(1, 6))
    assert (shared == shared.isel(sentence=0)).all()
    assert len(np.unique(target.values[0], axis=0)) == 7


def test_targets_are_kept_and_no_features(tmp_path, record):
    stimuli = mx.read_stimuli(TABLE)
    assert stimuli.attrs["features"] == ["number"]
    assert stimuli.attrs["items"] == ["target"]
    other = mx.read_stimuli(TABLE.assign(target=["plays", *TABLE["target"][1:]]))
    assert other.attrs["stimuli_hash"] != stimuli.attrs["stimuli_hash"]
    mx.write_stimuli(stimuli, tmp_path / "words.csv")
    again = mx.read_stimuli(tmp_path / "words.csv")
    assert again.attrs["stimuli_hash"] == stimuli.attrs["stimuli_hash"]
    found = record(again, networks.save_bert(tmp_path / "net"), pooling="target")
    assert found["target"].values.tolist() == TABLE["target"].tolist()
    assert found.attrs["features"] == ["number"]
    assert mx.multivariate_importance(found)["r2"].notnull().all()


def test_texts_that_repeat_with_other_targets_are_no_oddity(recwarn):
    mx.read_stimuli(table(["boy", "garden", "old", "house"], [networks.SENTENCES[1]] * 4))
    assert not recwarn
    with pytest.warns(UserWarning, match="1 sentences repeat an earlier one"):
        mx.read_stimuli(table(["boy", "boy", "old", "house"], [networks.SENTENCES[1]] * 4))


def test_a_word_inside_another_is_not_meant():
    stimuli = mx.read_stimuli(
        table(["he", "a", "it's", "!"], ["the he.", "a cat", "so it's", "oh!"])
    )
    assert target_spans(stimuli) == [(4, 6), (0, 1), (3, 7), (2, 3)]


def test_marks_are_parts_of_words():
    """Vowels of Devanagari, and accents that stand alone."""
    raama, raam = "\u0930\u093e\u092e\u093e", "\u0930\u093e\u092e"
    kii, kiimat = "\u0915\u0940", "\u0915\u0940\u092e\u0924"
    sentences = [f"{raam} {raama}", f"{raam} {kii} {kiimat}", "cafe cafe\u0301s", "\u0301a a"]
    stimuli = mx.read_stimuli(table([raam, kii, "cafe", "a"], sentences))
    assert target_spans(stimuli) == [(0, 3), (4, 6), (0, 4), (3, 4)]
    with pytest.raises(InputError, match="in row 1 is .*, which is 0 times in"):
        mx.read_stimuli(table([raam, *["a"] * 3], [f"{raama} a", *["a b"] * 3]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "girl"}, "target in row 3 is 'girl', which is 0 times in 'Dogs bark.'"),
        ({"target": "og"}, "target in row 3 is 'og', which is 0 times"),
        ({"target": None}, "target in row 3 is (None|nan); expected a word"),
        ({"target": True}, "target in row 3 is True; expected a word .*'target' is no feature"),
        ({"target_start": 0}, "column 'target_start' without 'target_end'; expected both"),
        ({"target_start": 0, "target_end": 11}, "in row 3 are 0 and 11; .*<= 10"),
        ({"target_start": 4, "target_end": 4}, "in row 3 are 4 and 4"),
        ({"target_start": 0.5, "target_end": 4}, "in row 3 are 0.5 and 4"),
        ({"target_start": -1, "target_end": 4}, "in row 3 are -1 and 4"),
        ({"target_start": 5, "target_end": 9}, "row 3 is 'Dogs', but characters 5 to 9 are 'bark'"),
    ],
)
def test_targets_that_are_not_there_are_named(change, message):
    words = TABLE["target"].tolist()
    columns = {"target": words}
    if "target_start" in change:
        spans = target_spans(mx.read_stimuli(TABLE))
        ends = dict(zip(("target_start", "target_end"), zip(*spans, strict=True), strict=True))
        columns |= {name: list(ends[name]) for name in change}
    for name, value in change.items():
        columns[name] = pd.Series([*columns[name][:2], value, *columns[name][3:]], dtype=object)
    with pytest.raises(InputError, match=message):
        mx.read_stimuli(TABLE.assign(**columns))


def test_a_word_that_is_there_twice_is_refused():
    with pytest.raises(InputError, match="row 1 is 'the', which is 2 times in"):
        mx.read_stimuli(table(["the", *["a"] * 3], ["the dog and the cat", *["a"] * 3]))


def test_pooling_over_words_needs_words(tmp_path, record):
    with pytest.raises(InputError, match="^pooling: 'target' needs a column 'target'"):
        record(networks.stimuli(), tmp_path / "no-such-network", pooling="target")


def test_pooling_over_words_needs_a_fast_tokenizer(tmp_path, record, monkeypatch):
    folder = networks.save_bert(tmp_path / "net")
    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "is_fast", False)
    with pytest.raises(InputError, match="^pooling: 'target' needs a tokenizer that says which"):
        record(TABLE, folder, pooling="target")


def outputs(folder, pattern, numbers, pooling=0) -> np.ndarray:
    """(number, sentence, unit) of the first token, through a hook for each module and sentence."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).float().eval()
    found = np.empty((len(numbers), len(networks.SENTENCES)), object)
    for i, number in enumerate(numbers):
        module = model.get_submodule(pattern.format(layer=number))
        for j, sentence in enumerate(networks.SENTENCES):
            taken = []
            hook = module.register_forward_hook(lambda _, __, out, taken=taken: taken.append(out))
            with torch.no_grad():
                model(**tokenizer(sentence, return_tensors="pt"))
            hook.remove()
            [out] = taken
            out = out[0] if isinstance(out, tuple) else out
            found[i, j] = out[0, 0].numpy()
    return np.array([[unit for unit in row] for row in found])


@pytest.mark.parametrize(
    ("name", "pattern", "numbers"),
    [
        ("bert", ATTENTION, [0, 1]),
        ("bert", "encoder.layer.{layer}.intermediate", [0, 1]),
        ("bert", "encoder.layer.{layer}.attention.self", [0, 1]),
        ("gpt2", "h.{layer}.mlp.c_fc", [0, 1]),
        ("llama", "layers.{layer}.self_attn.o_proj", [0, 1, 2]),
        ("llama", "layers.{layer}.mlp.act_fn", [0, 1, 2]),
    ],
)
def test_the_output_of_any_module_is_recorded(tmp_path, record, name, pattern, numbers):
    folder = networks.NETWORKS[name](tmp_path / name)
    found = record(networks.stimuli(), folder, module=pattern, pooling="first-token", batch_size=4)
    assert found["layer"].values.tolist() == numbers
    expected = outputs(folder, pattern, numbers)
    found_values = found["activation"].sel(pooling="first-token")
    np.testing.assert_allclose(found_values, expected, rtol=1e-5, atol=1e-5)
    assert json.loads(found["provenance"].item())["module"] == pattern
    assert found.attrs["module"] == pattern
    assert found["layer"].attrs["long_name"] == f"number of the layer in {pattern}"


def test_layers_of_a_module_are_chosen_by_their_number(tmp_path, record):
    folder = networks.save_bert(tmp_path / "net", layers=3)
    found = record(networks.stimuli(), folder, module=ATTENTION, layer=[2, 0])
    assert found["layer"].values.tolist() == [0, 2]
    expected = outputs(folder, ATTENTION, [0, 2])
    np.testing.assert_allclose(found["activation"].sel(pooling="first-token"), expected, atol=1e-5)
    with pytest.raises(InputError, match="^layer: unknown value 3; known: 0, 1, 2"):
        record(networks.stimuli(), folder, module=ATTENTION, layer=3, overwrite=True)


def test_a_name_that_fits_nothing_gets_similar_ones(tmp_path, record):
    folder = networks.save_bert(tmp_path / "net")
    pattern = "bert.encoder.layer.{layer}.attention.output.dens"
    with pytest.raises(
        InputError, match="^module: .* is no module of BertModel; similar: "
    ) as error:
        record(networks.stimuli(), folder, module=pattern)
    assert f"'{ATTENTION}'" in str(error.value)
    for wrong in ("encoder", "{layer}.{layer}", "", 5):
        with pytest.raises(InputError, match="^module: found .*; expected the name of a module"):
            record(networks.stimuli(), folder, module=wrong)
    assert not (tmp_path / "store.zarr").exists()


def test_a_module_without_a_vector_per_token_is_refused(tmp_path, record):
    folder = networks.save_bert(tmp_path / "net")
    state = "encoder.layer.{layer}.attention.self.dropout"
    with pytest.raises(InputError, match="^module: .* is run 0 times|has outputs of its module of"):
        record(networks.stimuli(), folder, module=state)


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_weights_are_no_units(tmp_path, record, heads):
    """Of 4 heads, or of one, in sentences of 4 tokens, they have the shape of vectors."""
    config = transformers.BloomConfig(vocab_size=120, hidden_size=20, n_layer=2, n_head=heads)
    folder = networks.save(tmp_path / "net", config, networks.byte_pairs(bos_token="<s>"))
    sentences = ["Mary plays.", "He sings.", "Girls play.", "Dogs bark."]
    pattern = "h.{layer}.self_attention.attention_dropout"
    with pytest.raises(InputError, match="^mod(ule|el): .*; expected (one vector|as many in)"):
        record(networks.stimuli(sentences), folder, module=pattern)
    assert not (tmp_path / "store.zarr").exists()


def test_a_module_that_is_run_several_times_is_refused(tmp_path, record):
    config = transformers.AlbertConfig(
        **networks.bert_config().to_dict() | {"embedding_size": 8, "num_hidden_groups": 1}
    )
    folder = networks.save(tmp_path / "albert", config, networks.word_pieces())
    pattern = "encoder.albert_layer_groups.{layer}"
    with pytest.raises(InputError, match="^module: .* with 0 is run 2 times for a sentence"):
        record(networks.stimuli(), folder, module=pattern)


def test_a_store_holds_one_kind_of_module(tmp_path, record):
    folder = networks.save_bert(tmp_path / "net")
    record(networks.stimuli(), folder, module=ATTENTION)
    for module in (None, "encoder.layer.{layer}.output.dense"):
        for options in ({}, {"seed": 1}, {"overwrite": True}):
            with pytest.raises(
                InputError, match="^module: found .*; expected 'encoder.layer.{layer}.att"
            ):
                record(networks.stimuli(), folder, module=module, **options)
    other = tmp_path / "other.zarr"
    record(networks.stimuli(), folder, store=other)
    with pytest.raises(InputError, match="^module: found 'encoder.*; expected None, as"):
        record(networks.stimuli(), folder, store=other, module=ATTENTION, seed=1)
    assert "module" not in mx.open_store(other).attrs
    states, own = (mx.open_store(p)["fingerprint"].item() for p in (other, tmp_path / "store.zarr"))
    assert states != own
    # A store that was made ahead holds neither yet.
    ahead = mx.create_store(networks.stimuli(), tmp_path / "ahead.zarr")
    assert record(networks.stimuli(), folder, store=ahead, module=ATTENTION).attrs["module"]


def test_long_sentences_are_counted_and_cut_where_asked(tmp_path, record):
    folder = networks.save_bert(tmp_path / "net")
    longer = networks.stimuli([*networks.SENTENCES, "." * 70, "Mary " + "." * 90])
    with pytest.raises(
        InputError,
        match=r"2 of 13 sentences are too long .*in row 13, has 93 tokens; .*64, or truncate=True",
    ):
        record(longer, folder)
    found = record(longer, folder, truncate=True)
    short = networks.stimuli([*networks.SENTENCES, "." * 62, "Mary " + "." * 61])
    expected = record(short, folder, store=tmp_path / "short.zarr")
    np.testing.assert_array_equal(found["activation"], expected["activation"])
    tokens = json.loads(found["provenance"].item())["tokenizer"]
    assert tokens["truncate"] and tokens["n_truncated"] == 2
    # What was not cut is what it would be.
    record(short, folder, store=tmp_path / "short.zarr", truncate=True)
    record(longer, folder, truncate=True)
    with pytest.raises(InputError, match="with other options .*truncate True"):
        record(longer, folder)


def test_errors_count_rows_of_the_table_and_not_texts(tmp_path, record):
    folder = networks.save_bert(tmp_path / "net")
    stimuli = table(
        ["man", "dogs", "The", "Mary"], [*["The man sees dogs."] * 3, "Mary" + "." * 70]
    )
    with pytest.raises(InputError, match="1 of 2 sentences are too long .* in row 4, has"):
        record(stimuli, folder)


def test_a_target_that_was_cut_off_is_named(tmp_path, record):
    folder = networks.save_bert(tmp_path / "net")
    stimuli = table([*WORDS[:4], "Mary"], [*networks.SENTENCES[:4], "." * 90 + " Mary"])
    with pytest.raises(InputError, match="target in row 5, 'Mary', has no tokens"):
        record(stimuli, folder, pooling="target", truncate=True)


def test_a_target_that_was_cut_in_two_is_named(tmp_path, record):
    folder = networks.save_bert(tmp_path / "net")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    n_tokens = len(tokenizer.tokenize("sings"))
    assert n_tokens > 2
    for n_dots, found in ((62 - n_tokens, None), (61, 1), (62 - n_tokens + 1, n_tokens - 1)):
        stimuli = table([*WORDS[:4], "sings"], [*networks.SENTENCES[:4], "." * n_dots + " sings"])
        if found is None:
            record(stimuli, folder, pooling="target", truncate=True)
            continue
        message = f"target in row 5, 'sings', has {found} tokens, of {n_tokens} before it was cut"
        with pytest.raises(InputError, match=message):
            record(stimuli, folder, pooling="target", truncate=True, store=tmp_path / "other.zarr")


@pytest.mark.parametrize("name", ["t5", "led"])
def test_networks_that_say_otherwise_how_much_they_take_may_be_cut(tmp_path, record, name):
    """T5 takes as much as there is; LED says it in a word of its own."""
    if name == "t5":
        folder = networks.save_t5(tmp_path / "net")
    else:
        sizes = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 120}
        sizes |= {f"{part}_attention_heads": 2 for part in ("encoder", "decoder")}
        sizes |= {"attention_window": 8, "max_encoder_position_embeddings": 32}
        tokenizer = networks.word_pieces()
        tokenizer.model_max_length = int(1e30)
        folder = networks.save(tmp_path / "net", transformers.LEDConfig(**sizes), tokenizer)
    longer = networks.stimuli([*networks.SENTENCES, "Mary " + "." * 40])
    found = record(longer, folder, truncate=True)
    tokens = json.loads(found["provenance"].item())["tokenizer"]
    assert tokens["n_truncated"] == {"t5": 0, "led": 3}[name]
    if name == "led":
        with pytest.raises(InputError, match="3 of 12 sentences are too long .*at most 32, or tru"):
            record(longer, folder, store=tmp_path / "other.zarr")


def test_revisions_may_be_named_for_each_step():
    names = {0: "step0-tokens0B", 1000: "step1000-tokens4B", None: "main"}
    found = resolve_all("olmo", [0], [None], source="x/y", revision=names)
    assert [(one.step, one.revision) for one in found] == [
        (0, "step0-tokens0B"),
        (1000, "step1000-tokens4B"),
        (-1, "main"),
    ]
    [one] = resolve_all("olmo", [0], [1000], source="x/y", revision=names)
    assert one.revision == "step1000-tokens4B"
    with pytest.raises(
        InputError, match="^step: of revision: unknown value 500; known: 0, 1000, -1"
    ):
        resolve_all("olmo", [0], [500], source="x/y", revision=names)
    for wrong, message in (
        ({}, "revision: an empty mapping"),
        ({"a": "x"}, "revision: found 'a'"),
        ({1: 5}, "revision: found 5"),
    ):
        with pytest.raises(InputError, match=message):
            resolve_all("olmo", [0], [None], source="x/y", revision=wrong)
    both = {1: "seed{seed}-a", 2: "seed{seed}-b"}
    found = resolve_all("olmo", [3, 4], [None], source="x/y", revision=both)
    assert [one.revision for one in found] == ["seed3-a", "seed3-b", "seed4-a", "seed4-b"]


@pytest.mark.parametrize("kind", ["Bart", "Marian"])
def test_a_decoder_without_its_encoder_is_refused(tmp_path, record, kind):
    sizes = {"d_model": 16, "decoder_layers": 2, "encoder_layers": 2, "vocab_size": 120}
    sizes |= {f"{part}_attention_heads": 2 for part in ("encoder", "decoder")}
    sizes |= {f"{part}_ffn_dim": 32 for part in ("encoder", "decoder")}
    config = getattr(transformers, f"{kind}Config")(**sizes, pad_token_id=0)
    make = getattr(transformers, f"{kind}ForCausalLM")
    folder = networks.save(tmp_path / "decoder", config, networks.word_pieces(), kind=make)
    with pytest.raises(InputError, match="no weights of its encoder, .*not its decoder alone"):
        record(networks.stimuli(), folder)
    assert not (tmp_path / "store.zarr").exists()


def test_the_encoder_of_a_network_with_a_decoder_is_recorded_and_named(tmp_path, record):
    folder = networks.save_t5(tmp_path / "t5")
    kind = transformers.T5ForConditionalGeneration
    kind.from_pretrained(folder).save_pretrained(folder)
    found = record(networks.stimuli(), folder)
    assert json.loads(found["provenance"].item())["network"] == {
        "class": "T5Model",
        "part": "encoder",
    }
    expected = networks.activations_one_by_one(folder)[:, 1:]
    np.testing.assert_allclose(found["activation"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_computed_and_stored_in_single_precision(tmp_path, record, dtype):
    folder = networks.save_bert(tmp_path / "net")
    found = record(networks.stimuli(), folder, dtype=dtype)
    assert found["activation"].dtype == np.float32
    expected = networks.activations_one_by_one(folder)[:, 1:]
    error = np.abs(found["activation"].values - expected).max()
    assert 1e-4 < error < (0.2 if dtype == "bfloat16" else 0.02)
    first = found["activation"].sel(pooling="first-token").values
    assert (torch.tensor(first).to(getattr(torch, dtype)).float().numpy() == first).all()
    assert json.loads(found["provenance"].item())["dtype"] == dtype
    with pytest.raises(InputError, match=f"with other options .*tokenizer its own, dtype {dtype}"):
        record(networks.stimuli(), folder)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_half_precision_is_that_of_transformers(tmp_path, record, name, dtype):
    """Frequencies of positions, and a part of T5, stay in single precision."""
    folder = networks.NETWORKS[name](tmp_path / name)
    sentences = [" ".join(networks.SENTENCES * n) for n in (1, 2, 4, 8)]
    found = record(networks.stimuli(sentences), folder, dtype=dtype, pooling="last-token")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    model = getattr(model, "encoder", model)
    for row, sentence in enumerate(sentences):
        with torch.no_grad():
            ids = tokenizer(sentence, return_tensors="pt")["input_ids"]
            states = model(input_ids=ids, output_hidden_states=True).hidden_states[1:]
        expected = torch.stack([one[0, -1].float() for one in states])
        np.testing.assert_array_equal(found["activation"].squeeze("pooling")[:, row], expected)


def test_large_activations_wait_in_a_file_without_a_name(tmp_path, record, monkeypatch):
    folder = networks.save_bert(tmp_path / "net")
    expected = record(networks.stimuli(), folder, store=tmp_path / "small.zarr")
    monkeypatch.setattr(recording, "_MOST_IN_MEMORY", 100)
    made = []
    memmap = np.memmap
    monkeypatch.setattr(np, "memmap", lambda *a, **o: made.append(o["shape"]) or memmap(*a, **o))
    found = record(networks.stimuli(), folder)
    assert made == [(3, 2, 11, 16)]
    assert found["fingerprint"] == expected["fingerprint"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "small.zarr.lock",
        "store.zarr.lock",
    ]


def test_a_full_disk_is_an_error_before_anything_is_run(tmp_path, record, monkeypatch):
    folder = networks.save_bert(tmp_path / "net")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording, "_MOST_IN_MEMORY", 100)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        record(networks.stimuli(), folder)
    assert not (tmp_path / "store.zarr").exists()


def test_downloaded_weights_go_where_they_are_not_to_be_kept(tmp_path, record, monkeypatch):
    folder = networks.save_bert(tmp_path / "net")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with hub("some/net", folder) as address:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        # Both remember the address of when they were first asked, which another test may have done.
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", address)
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        for keep, kept in ((False, False), (True, True), (False, True)):
            record(networks.stimuli(), "some/net", keep_weights=keep, overwrite=True)
            # What was there before the call stays in any case.
            assert any((tmp_path / "hub").rglob("model.safetensors")) == kept
    found = mx.open_store(tmp_path / "store.zarr")["provenance"].item()
    assert json.loads(found)["commit"] == COMMIT


def test_the_tokenizer_s_folder_is_stored_in_full_and_a_name_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "words").mkdir()
    monkeypatch.chdir(tmp_path)
    assert recording._text("words") == str(tmp_path / "words")
    assert recording._text("somebody/words") == "somebody/words"
    assert recording._text(None) is None
