"""Every family of text networks that transformers knows, as a small network with random weights.

`python tests/families.py` records them all and writes the table of docs/networks.md.
"""

import contextlib
import inspect
import json
import re
import shutil
import sys
import tempfile
import textwrap
import warnings
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
import xarray as xr
from safetensors.torch import load_file, save_file
from transformers.models.auto import modeling_auto

import mlem_xr as mx
import networks
from mlem_xr.schema import InputError

# Several are equally long, and so go into one batch.
SENTENCES = [
    *networks.SENTENCES,
    *(" ".join(reversed(s.strip(".?").split())) + s[-1] for s in networks.SENTENCES),
]

HIDDEN, HEADS, HEAD_DIM, VOCABULARY, LAYERS = 48, 2, 24, 128, 2
"""Hidden sizes that 2, 3, 6 and 8 divide, as heads, rotations and boxes want it."""

MOST_WEIGHTS = 30_000_000

# Of a configuration's whole numbers, those whose names match get at most this value.
SMALL = {
    r"type_vocab_size|task_type_vocab_size|modality_type_vocab_size": None,
    r".*vocab_size(_per_layer_input)?|entity_vocab_size": VOCABULARY,
    r".*(key_value|kv)_heads": 1,
    r".*(attention_heads|num_heads|n_heads?|mamba_heads|value_heads|key_heads)": HEADS,
    r"(.*_)?(num_|n_)?(hidden_|encoder_|decoder_)?layers?|depth|num_blocks": LAYERS,
    r"num_residual_layers|num_lstm_layers|num_(mtp|nextn_predict)_layers": 1,
    r"qk_nope_head_dim": 16,
    r"qk_rope_head_dim|rotary_dim": 8,
    r"qk_head_dim": HEAD_DIM,
    r"mamba_(d_head|head_dim|headdim)": 2 * HIDDEN // HEADS,
    r"n_groups|.*_n_groups|mamba_ngroups|upsample_groups": 1,
    r".*head_dim|.*headdim|d_kv|dim_head|attention_head_size|d_head|.*_d_head": HEAD_DIM,
    r".*hidden_size(_\w+)?|d_model|n_embd|dim|.*embed(ding)?_(dim|size)|hidden_dim|emb_dim": HIDDEN,
    r"word_embed_proj_dim|.*projection_dim|.*project_dim|lru_width|d_latents|output_dim": HIDDEN,
    r".*(projection|projector)_size|intra_bottleneck_size|.*feature_size|entity_emb_size": HIDDEN,
    r".*(intermediate|feed_forward|ffn_hidden)_size(_mlp)?|.*ffn_dim|d_ff|d_inner|mlp_dim": 96,
    r"dff|dim_ff|expert_ffn_hidden_size|.*linear_units": 96,
    r".*experts_per_tok(en)?|moe_(top_?)?k": 2,
    r".*(routed|local)_experts|num_experts|moe_num_experts": 4,
    r"n_group|topk_group|num_expert_group": 1,
    r".*lora_rank|.*_lowrank|laurel_rank|.*_dt_rank|time_step_rank": 8,
    r".*d_state|.*state_size": 8,
    r"(.*_)?(max_position_embeddings|n_positions|n_ctx|max_seq_len|(source|target)_positions)": 128,
    r".*sliding_window(_size)?": 8,
    r"image_size": 16,
    r"patch_size": 8,
    r"num_mel_bins": 16,
    r".*_hash_byte_group_vocab": 32,
}

_OF_IMAGES = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 4, 4]}

# What configurations need besides, as keywords.
NEEDS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "canine": {"max_position_embeddings": 1024},
    "chameleon": {"vocabulary_map": {"<image>": 101}},
    "clvp_encoder": {"hidden_size": 64, "projection_dim": 64},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "deepseek_v4": {"head_dim": HEAD_DIM},
    "dory": {"num_hidden_layers": 8, "n_recurrent_layers": 4}
    | {"n_input_layers": 2, "n_output_layers": 2},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "esm": {"pad_token_id": 0, "mask_token_id": 4},
    "gemma3n_text": {"num_hidden_layers": 5, "num_kv_shared_layers": 0}
    | {"intermediate_size": [96] * 5, "activation_sparsity_pattern": [0.5] * 2 + [0.0] * 3},
    "glm4v_moe_text": {
        "rope_parameters": _OF_IMAGES | {"mrope_section": [2] * 3, "partial_rotary_factor": 0.5}
    },
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "hunyuan_vl_text": {"rope_parameters": _OF_IMAGES},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "layoutlmv3": {"coordinate_size": 8, "shape_size": 8, "input_size": 16, "visual_embed": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"head_dim": 8},
    "mamba2": {"num_heads": 4},
    "mistral4": {"head_dim": 16},
    "owlvit_text_model": {"max_position_embeddings": 64},
    "owlv2_text_model": {"max_position_embeddings": 64},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_shape": (8, 16), "axial_pos_embds_dim": (16, 32)},
    "step3p5": {"sliding_window": 8},
    "vilt": {"max_position_embeddings": 64},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 4, "layer_types": ["linear_attention", "hybrid"] * 2}
    | {"attention_hidden_size": 96, "attention_head_dim": 48},
    "zamba2": {"num_hidden_layers": 8, "attention_hidden_size": 96, "attention_head_dim": 48},
}
for _name in (
    "glm4v",
    "glm_image",
    "glm_ocr",
    "qwen2_vl",
    "qwen2_5_vl",
    "paddleocr_vl",
    "qwen2_5_omni",
):
    NEEDS[f"{_name}_text"] = {"rope_parameters": _OF_IMAGES}

# What is said here where a default says nothing.
UNSAID = {"vocab_size": VOCABULARY, "head_dim": HEAD_DIM, "num_key_value_heads": HEADS}

TASKS = ("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "TEXT_ENCODING", "MULTIPLE_CHOICE")
TASKS += ("SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION", "QUESTION_ANSWERING")
TABLES = ("MODEL_MAPPING", "MODEL_FOR_CAUSAL_LM_MAPPING", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING")


def families() -> list[str]:
    """List the types of networks that take tokens, or that transformers has a text task for."""
    tables = [getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES") for task in TASKS]
    of_text = {name for table in tables for name in table}
    return sorted(
        name
        for name in modeling_auto.CONFIG_MAPPING_NAMES
        if name.islower() and (name in of_text or _takes_tokens(name))
    )


def _takes_tokens(name: str) -> bool:
    try:
        config = transformers.CONFIG_MAPPING[name]
        model = transformers.MODEL_MAPPING[config]
        model = model[0] if isinstance(model, tuple) else model
        return "input_ids" in inspect.signature(model.forward).parameters
    except (KeyError, ImportError, ValueError, AttributeError):
        return False


def small_configuration(name: str) -> Any:
    """Make a configuration of a family whose network has few weights."""
    return _small(transformers.CONFIG_MAPPING[name], NEEDS.get(name, {}))


def _small(kind: Any, needs: dict[str, Any]) -> Any:
    default = kind()
    values = default.to_dict()
    keywords = {}
    free = VOCABULARY - 28
    heads = [values.get(key) for key in ("num_attention_heads", "n_head", "num_heads")]
    for name, value in values.items():
        nested = getattr(default, name, None) if isinstance(value, dict) else None
        if isinstance(nested, transformers.PreTrainedConfig):
            keywords[name] = _small(type(nested), NEEDS.get(nested.model_type, {})).to_dict()
        elif name == "rope_parameters" and value:
            keywords[name] = _small_rotation(value, values)
        elif isinstance(value, bool) or not isinstance(value, int | None):
            pass
        elif value is None:
            keywords |= {name: UNSAID[name]} if name in UNSAID else {}
        elif re.search(r"token_(id|index)$", name):
            if value >= free:
                # No token of a sentence stands for an image.
                keywords[name] = free = free + 1
        elif name.endswith("key_value_heads") and value in heads:
            keywords[name] = HEADS
        elif name == "head_dim" and "qk_rope_head_dim" in values:
            pass
        elif (most := _most(name)) is not None and value > most:
            keywords[name] = most
    if "num_hidden_layers" in keywords and values.get("layer_types"):
        keywords["num_hidden_layers"] = _layers(values["layer_types"])
    keywords |= needs
    # Lists of one entry per layer.
    lists = {name: value for name, value in values.items() if isinstance(value, list)}
    for name, value in lists.items():
        if len(value) == values.get("num_hidden_layers") and name not in keywords:
            keywords[name] = value[: keywords.get("num_hidden_layers")]
    return kind(**keywords)


def _most(name: str) -> int | None:
    return next((most for names, most in SMALL.items() if re.fullmatch(names, name)), None)


def _layers(types: list[str]) -> int:
    """Count the layers until there is one of each type, and at least two."""
    seen = [set(types[:n]) == set(types) for n in range(len(types) + 1)]
    return max(LAYERS, seen.index(True))


def _small_rotation(values: dict[str, Any], configuration: dict[str, Any]) -> dict[str, Any]:
    """Cut the sections of a rotation over time, height and width to the size of a small head."""
    rotated = HEAD_DIM * values.get("partial_rotary_factor", 1)
    half = 4 if "qk_rope_head_dim" in configuration else int(rotated) // 2
    found = dict(values)
    for key, value in values.items():
        if isinstance(value, dict):
            found[key] = _small_rotation(value, configuration)
        elif key == "mrope_section":
            found[key] = [half - 2 * (half // 3), half // 3, half // 3]
    return found


def build(name: str) -> Any:
    """Make a small network of a family, with weights under which everything depends on everything.

    Its activations are of the size of 1, so that differences of 1e-5 are rounding and no more.
    """
    config = small_configuration(name)
    kind = _class(config)
    with torch.device("meta"):
        count = sum(weights.numel() for weights in kind(config).parameters())
    if count > MOST_WEIGHTS:
        raise ValueError(f"{count:,} weights")
    torch.manual_seed(0)
    model = kind(config)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            weights = module.weight.data
            random = torch.randn(weights.shape, generator=generator) / weights.shape[-1] ** 0.5
            if weights.is_floating_point():
                weights.copy_(random)
    return model.eval()


def _class(config: Any) -> Any:
    """Return the class of a network; where there are several, the first."""
    for table in (getattr(transformers, name) for name in TABLES):
        if type(config) in table:
            found = table[type(config)]
            return found[0] if isinstance(found, tuple) else found
    raise ValueError("no class of transformers reads its tokens")


class Outcome(NamedTuple):
    """What became of a family."""

    status: str
    """recorded, refused, not built; anything else is a fault."""
    network: str = ""
    detail: str = ""
    """Which part was recorded, or why it was not."""


def outcome(name: str, folder: Path) -> Outcome:
    """Save a network of a family, record it, and compare it with each sentence alone."""
    try:
        model = build(name)
    except Exception as error:
        return Outcome("not built", detail=_line(error))
    model.save_pretrained(folder)
    networks.word_pieces().save_pretrained(folder)
    kind = type(model).__name__
    expected = alone(type(model).from_pretrained(folder, dtype=torch.float32).eval())
    try:
        found = [_record(folder, batch_size) for batch_size in (1, 64)]
    except InputError as error:
        if expected is not None:
            return Outcome("refused without need", kind, str(error))
        return Outcome("refused", kind, _why(error, folder))
    if expected is None:
        return Outcome("recorded without comparison", kind)
    if not all(_are_equal(store, expected) for store in found):
        return Outcome("recorded otherwise than alone", kind)
    if not _notices_missing_weights(folder, expected):
        return Outcome("recorded without all weights", kind)
    part = json.loads(found[0]["provenance"].item())["network"]["part"]
    return Outcome("recorded", kind, part or "")


STATUSES = ("recorded", "refused", "not built")

TABLE = Path(__file__).parents[1] / "docs" / "networks.md"

INTRODUCTION = """\
# Networks

`mx.record` records every encoder or decoder of sentences that transformers loads and that has one
vector per token in every layer; of an encoder and a decoder the encoder, of a network of texts and
images the part that reads the texts. Any other network is refused with an error that says what it
is. The tables say what became of all {count} families of networks of transformers {version} that
take tokens or have a text task, as small networks with random weights, on {date}. {recorded} are
recorded: with batches of 1 and of 64 sentences, every sentence has the activations, within 1e-5,
that it has alone in transformers, and no weights can be missing unnoticed. {refused} are refused.
{others} cannot be built from a small configuration, or need packages that are not installed.
`python tests/families.py` writes this page, and `pytest -m slow tests/test_families.py` checks it.
"""


def row(name: str, found: Outcome) -> str:
    """Return the line of a table for a family."""
    cells = {
        "recorded": (found.network, found.detail or "whole"),
        "refused": (found.network, found.detail),
        "not built": (found.detail,),
    }[found.status]
    return " | ".join([f"| {name}", *(cell.replace("|", "\\|") for cell in cells)]) + " |"


def page(outcomes: dict[str, Outcome]) -> str:
    """Return the page of the documentation that says what became of each family."""
    tables = {
        "recorded": ("Recorded", "family | network | part"),
        "refused": ("Refused", "family | network | why"),
        "not built": ("Not tried", "family | why"),
    }
    count = {status: sum(o.status == status for o in outcomes.values()) for status in tables}
    text = INTRODUCTION.format(
        count=len(outcomes),
        version=transformers.__version__,
        date=f"{date.today():%d %B %Y}".lstrip("0"),
        recorded=count["recorded"],
        refused=count["refused"],
        others=count["not built"],
    )
    for status, (title, header) in tables.items():
        lines = [row(name, o) for name, o in outcomes.items() if o.status == status]
        rule = "|".join("---" for _ in header.split("|"))
        text += "\n".join(["", f"## {title}", "", f"| {header} |", f"|{rule}|", *lines, ""])
    return text


def _record(folder: Path, batch_size: int) -> xr.Dataset:
    store = folder / f"{batch_size}.zarr"
    with warnings.catch_warnings():
        # That the first tokens of causal networks see nothing of the sentence.
        warnings.simplefilter("ignore", UserWarning)
        stimuli = networks.stimuli(SENTENCES)
        mx.record(stimuli, store, model="net", source=folder, batch_size=batch_size, progress=False)
    return mx.open_store(store).squeeze(["model", "seed", "step"]).load()


def _notices_missing_weights(folder: Path, expected: list[list[np.ndarray]]) -> bool:
    """Whether without some weights there is an error, or they did not matter."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    for name in sorted(weights)[len(weights) // 2 :: len(weights) // 3 + 1]:
        others = {other: weights[other] for other in weights if other != name}
        save_file(others, file, metadata={"format": "pt"})
        shutil.rmtree(folder / "64.zarr", ignore_errors=True)
        with contextlib.suppress(InputError):
            if not _are_equal(_record(folder, 64), expected):
                return False
    return True


def alone(model: Any) -> list[list[np.ndarray]] | None:
    """Return the states (token, unit) of each block of each sentence, as transformers gives them.

    Of an encoder and a decoder, those of the encoder; of a network that needs images, those of the
    part that reads the texts; None if there is not one vector per token.
    """
    if model.config.is_encoder_decoder:
        parts = [model.get_encoder()]
    else:
        names = ("language_model", "text_model", "text_encoder", "text_encoder_model")
        parts = [model, *(getattr(model, name) for name in names if hasattr(model, name))]
    tokenizer = networks.word_pieces()
    for part in parts:
        # Some cannot keep the keys and values of tokens, and say so unless told not to.
        for further in ({}, {"use_cache": False}):
            with contextlib.suppress(Exception):
                tokens = (tokenizer(sentence, return_tensors="pt") for sentence in SENTENCES)
                return [_states(part, one, further) for one in tokens]
    return None


def _states(part: Any, tokens: Any, further: dict[str, bool]) -> list[np.ndarray]:
    given = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        states = part(**given, **further, output_hidden_states=True).hidden_states[1:]
    assert states and all(one.shape[:2] == given["input_ids"].shape for one in states)
    return [one[0].flatten(1).numpy() for one in states]


def _are_equal(store: xr.Dataset, expected: list[list[np.ndarray]]) -> bool:
    for row, states in enumerate(expected):
        if store.sizes["layer"] != len(states):
            return False
        for layer, tokens in enumerate(states):
            pooled = {"first-token": tokens[0], "mean": tokens.mean(0), "last-token": tokens[-1]}
            for pooling, units in pooled.items():
                found = store.activation.sel(pooling=pooling)[layer, row].values
                size = max(1, np.abs(units).max())
                if not np.allclose(found[: len(units)], units, rtol=1e-5, atol=1e-5 * size):
                    return False
                if not np.isnan(found[len(units) :]).all():
                    return False
    return True


def _why(error: InputError, folder: Path) -> str:
    """Return what an error says, without what stands beside it or is the same for all."""
    text = str(error).replace(repr(str(folder)), "").removeprefix("model: ").strip()
    text = text.replace("; expected an encoder or decoder of sentences", "")
    text = re.sub(r"^\(\w+\) ", "", text)
    return re.sub(r"^\(\w+, which (reads \w+)\) ", r"\1; ", text)


def _line(error: Exception) -> str:
    """Return what a failure says, which is in the last line, or the first of a missing package."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    line = lines[0 if isinstance(error, ImportError) else -1]
    return textwrap.shorten(line.removeprefix("ValueError: "), 120)


def main() -> None:
    """Try all families, and write the page unless there is a fault."""
    torch.set_num_threads(1)
    outcomes = {}
    for name in families():
        with tempfile.TemporaryDirectory() as folder:
            outcomes[name] = outcome(name, Path(folder) / "network")
        print(name, *outcomes[name], flush=True)
    faults = {name: o for name, o in outcomes.items() if o.status not in STATUSES}
    if faults:
        sys.exit(f"faults: {faults}")
    TABLE.write_text(page(outcomes))


if __name__ == "__main__":
    main()
