"""Small real networks with their tokenizers, saved to disk, and a plain loop over sentences."""

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers
import xarray as xr
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from forks import start_fork
from mlem_xr.networks.recording import record
from mlem_xr.stimuli.table import from_dataframe


def silence() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


silence()

SENTENCES = [
    "Mary plays.",
    "The boy sings in the garden behind the old house.",
    "Dogs bark.",
    "The girls who know the boy play with the dogs near the river.",
    "He sings.",
    "The old man and the girls see Mary.",
    "Which dogs does the man see?",
    "Mary and the boy who sings in the garden near the river see the old dogs behind the house.",
    "Girls play.",
    "The man knows Mary.",
    "The dogs bark in the garden.",
]


def stimuli(sentences=SENTENCES) -> xr.Dataset:
    table = pd.DataFrame({"sentence": sentences})
    table["number"] = ["sg" if i % 2 else "pl" for i in range(len(table))]
    return from_dataframe(table, name="test")


def word_pieces() -> transformers.BertTokenizer:
    words = sorted({word for s in SENTENCES for word in s.lower().strip(".?").split()})
    letters = sorted(set("".join(words)))
    # Every other word is cut into letters.
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *words[::2], *letters]
    pieces += [f"##{letter}" for letter in letters]
    return transformers.BertTokenizer(
        vocab={piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, model_max_length=64
    )


def byte_pairs(**tokens: str) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer without a padding token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = [*tokens.values()]
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if "bos_token" in tokens:
        bos = tokens["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)


def unigrams() -> transformers.PreTrainedTokenizerFast:
    letters = sorted({"▁", *"".join(SENTENCES)} - {" "})
    words = sorted({f"▁{word.strip('.?')}" for s in SENTENCES for word in s.split()})[::2]
    special = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>")]
    pieces = [(word, -3.0) for word in words] + [(letter, -5.0) for letter in letters]
    tokenizer = Tokenizer(models.Unigram(special + pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def save(folder, config, tokenizer, *, seed=0, kind=transformers.AutoModel.from_config) -> Path:
    torch.manual_seed(seed)
    kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def bert_config(*, layers=2, units=16, **options) -> transformers.BertConfig:
    return transformers.BertConfig(
        vocab_size=120,
        hidden_size=units,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.3,
        **options,
    )


def save_bert(folder, *, seed=0, layers=2, units=16) -> Path:
    return save(folder, bert_config(layers=layers, units=units), word_pieces(), seed=seed)


def save_roberta(folder) -> Path:
    config = transformers.RobertaConfig(**bert_config().to_dict() | {"pad_token_id": 0})
    return save(folder, config, word_pieces())


def save_gpt2(folder, *, tokenizer=None) -> Path:
    config = transformers.GPT2Config(
        vocab_size=120, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3
    )
    config.bos_token_id = config.eos_token_id = 0
    return save(folder, config, tokenizer or byte_pairs(eos_token="<|endoftext|>"))


def save_llama(folder) -> Path:
    config = transformers.LlamaConfig(
        vocab_size=120,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        initializer_range=0.3,
    )
    return save(folder, config, byte_pairs(bos_token="<s>", eos_token="</s>"))


def save_fnet(folder) -> Path:
    """A network that mixes over positions without a mask."""
    config = transformers.FNetConfig(
        vocab_size=120,
        hidden_size=16,
        num_hidden_layers=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return save(folder, config, word_pieces())


def save_opt(folder) -> Path:
    """A network whose layers are of different widths."""
    config = transformers.OPTConfig(
        vocab_size=120,
        hidden_size=16,
        word_embed_proj_dim=8,
        num_hidden_layers=2,
        ffn_dim=32,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    return save(folder, config, byte_pairs(bos_token="</s>"))


def save_t5(folder) -> Path:
    config = transformers.T5Config(
        vocab_size=120, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=3, num_heads=2
    )
    return save(folder, config, unigrams())


NETWORKS = {
    "bert": save_bert,
    "roberta": save_roberta,
    "gpt2": save_gpt2,
    "llama": save_llama,
    "t5": save_t5,
    "fnet": save_fnet,
}


def activations_one_by_one(folder, sentences=SENTENCES, *, add_special_tokens=True) -> np.ndarray:
    """(pooling, layer, sentence, unit), embeddings included, without batches or padding."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).float().eval()
    model = getattr(model, "encoder", model) if model.config.is_encoder_decoder else model
    recorded = []
    for sentence in sentences:
        tokens = tokenizer(
            sentence, add_special_tokens=add_special_tokens, truncation=False, return_tensors="pt"
        )
        with torch.no_grad():
            layers = model(input_ids=tokens["input_ids"], output_hidden_states=True).hidden_states
        layers = torch.stack(layers)[:, 0]
        recorded.append(torch.stack([layers[:, 0], layers.mean(1), layers[:, -1]]))
    return torch.stack(recorded, dim=2).numpy()


def start(source, *arguments, **variables: str) -> subprocess.Popen:
    """Start a Python process that can import this file."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path} | variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _record_or_die(template, store, seeds, dies_at) -> None:
    forward, calls = transformers.BertModel.forward, itertools.count(1)

    def forward_or_die(*arguments, **options):
        if next(calls) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(*arguments, **options)

    transformers.BertModel.forward = forward_or_die
    options = {"source": template, "seed": seeds, "batch_size": 1, "progress": False}
    record(stimuli(), store, model="runs", **options)


def start_recording(template, store, *seeds, dies_at=0) -> BaseProcess:
    """Start a process that records some BERTs, sentence by sentence.

    It kills itself before it runs a network the time number `dies_at`.
    """
    return start_fork(_record_or_die, template, store, seeds, dies_at)


OWN_CODE = """
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel


class OwnConfig(BertConfig):
    model_type = "own"


class OwnModel(BertModel):
    config_class = OwnConfig

    def forward(self, input_ids, attention_mask=None, output_hidden_states=False):
        found = super().forward(
            input_ids, attention_mask=attention_mask, output_hidden_states=output_hidden_states
        )
        found["hidden_states"] = tuple(CHANGE for states in found.hidden_states)
        return found


class OwnMaskedLM(BertForMaskedLM):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.bert = OwnModel(config)
        self.post_init()
"""
"""A network that comes with code of its own; CHANGE is what it makes of the states of BERT."""


def save_own_code(folder, *, change="states", model_type="own", kind="Model") -> Path:
    """Save a small BERT that its own code is to run, which makes a change to its states.

    `kind` says what the code is for, as in `AutoModel` or `AutoModelForMaskedLM`.
    """
    save_bert(folder)
    (folder / "modeling_own.py").write_text(OWN_CODE.replace("CHANGE", change))
    config = json.loads((folder / "config.json").read_text())
    own = "OwnModel" if kind == "Model" else "OwnMaskedLM"
    auto_map = {"AutoConfig": "modeling_own.OwnConfig", f"Auto{kind}": f"modeling_own.{own}"}
    config |= {"model_type": model_type, "auto_map": auto_map}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
