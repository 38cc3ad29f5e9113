"""Run networks over sentences and store the pooled activations of their layers.

torch and transformers are imported only where a network runs.
"""

import hashlib
import importlib.metadata
import json
import logging
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from mlem_xr.networks.checkpoints import Checkpoint, resolve_all
from mlem_xr.networks.pooling import pool
from mlem_xr.running.progress import progress_bar
from mlem_xr.schema import POOLINGS, InputError, check_integer, choose
from mlem_xr.stimuli import read_stimuli
from mlem_xr.store import activations as stored

VERSIONS = ("mlem_xr", "torch", "transformers", "numpy")
"""Packages whose versions are stored with each checkpoint."""

logger = logging.getLogger(__name__)


def record(
    stimuli: Any,
    store: str | Path,
    *,
    model: str | Path,
    seed: int | Iterable[int] = 0,
    step: int | None | Iterable[int | None] = None,
    source: str | Path | None = None,
    revision: str | None = None,
    pooling: str | Iterable[str] = POOLINGS,
    layer: int | Iterable[int] | None = None,
    add_special_tokens: bool = True,
    device: str | None = None,
    batch_size: int = 64,
    overwrite: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Record the activations of networks on sentences, one checkpoint after another.

    Every combination of `seed` and `step` is one checkpoint. Those that the store already holds
    are skipped, so an interrupted run is continued by running it again.

    Parameters
    ----------
    stimuli : xr.Dataset, str, Path or pd.DataFrame
        Sentences and features, or what `read_stimuli` reads them from.
    store : str or Path
        Folder of the store; created with the first checkpoint.
    model : str or Path
        Name on the Hugging Face hub, local folder, or published series; see
        `mlem_xr.networks.checkpoints.resolve`, also for `source` and `revision`.
    seed, step : int or iterable of int
        Checkpoints to record; step None: the final weights.
    source, revision : str, optional
        Where the weights are; `{model}`, `{seed}` and `{step}` are filled in.
    pooling : str or iterable of str
        `"first-token"`, `"mean"` (over all tokens, special ones included), `"last-token"`.
    layer : int or iterable of int, optional
        Layers to record, 1 being the first block and 0 the embeddings; None: all blocks.
    add_special_tokens : bool
        Whether the tokenizer adds the tokens that the network was trained with, such as `[CLS]`.
    device : str, optional
        A torch device such as `"cpu"` or `"cuda:1"`; None: the GPU if there is one.
    batch_size : int
        Sentences per forward pass.
    overwrite : bool
        Record again what the store already holds.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    pd.DataFrame
        One row per checkpoint: `model`, `seed`, `step`, `source`, `revision`, and `status`:
        `"recorded"` or `"skipped"`.

    Raises
    ------
    InputError
        If an argument is not as above, the network cannot be loaded, a sentence does not fit it,
        the store holds other stimuli, or activations are not finite.
    ImportError
        If torch or transformers are not installed.

    Examples
    --------
    `record("sentences.csv", "bert.zarr", model="multiberts", seed=range(25))` fetches 25 networks.
    Mistakes show before anything is fetched:

    >>> record("short_sentence", "bert.zarr", model="bert-base-uncased", batch_size=0)
    Traceback (most recent call last):
        ...
    mlem_xr.schema.InputError: batch_size: found 0; expected an integer of at least 1
    """
    stimuli = read_stimuli(stimuli)
    store = Path(store).expanduser()
    poolings = [choose("pooling", name, POOLINGS) for name in _several("pooling", pooling)]
    layers = None if layer is None else _several("layer", layer)
    seeds, steps = _several("seed", seed), _several("step", step)
    check_integer("batch_size", batch_size, at_least=1)
    checkpoints = resolve_all(model, seeds, steps, source=source, revision=revision)
    if store.exists():
        # Other stimuli are refused before a network is loaded.
        stored.create_store(stimuli, store, pooling=poolings)

    statuses = [
        "recorded" if overwrite or not stored.is_recorded(store, **checkpoint.labels) else "skipped"
        for checkpoint in checkpoints
    ]
    for checkpoint, status in zip(checkpoints, statuses, strict=True):
        if status == "skipped":
            _check_skipped(store, checkpoint, add_special_tokens, poolings, layers)
            logger.info("skipped %s: %s holds it already", checkpoint, store)
    total = statuses.count("recorded") * stimuli.sizes["sentence"]
    with progress_bar("record", total, unit="sentences", shown=progress and total > 0) as bar:
        for i, checkpoint in enumerate(checkpoints):
            if statuses[i] == "skipped":
                continue
            if not overwrite and stored.is_recorded(store, **checkpoint.labels):
                # Another process was quicker.
                statuses[i] = "skipped"
                bar.update(stimuli.sizes["sentence"])
                continue
            bar.set_postfix_str(str(checkpoint))
            network = _load(checkpoint, add_special_tokens, device)
            inputs = _tokenize(network, stimuli["text"].values.tolist(), add_special_tokens)
            activation = _run(network, inputs, poolings, layers, batch_size, bar.update)
            stored.create_store(stimuli, store, pooling=poolings)
            stored.write_checkpoint(
                store,
                activation,
                **checkpoint.labels,
                provenance=network.provenance | {"pooling": poolings, "layer": layers},
                overwrite=overwrite,
            )
            logger.info("recorded %s in %s", checkpoint, store)
    return pd.DataFrame(checkpoints, columns=Checkpoint._fields).assign(status=statuses)


def _check_skipped(
    store: Path,
    checkpoint: Checkpoint,
    add_special_tokens: bool,
    poolings: list[str],
    layers: list[int] | None,
) -> None:
    """Refuse to skip a checkpoint that was recorded otherwise than it is asked for now."""
    found = stored.read_provenance(store, **checkpoint.labels)
    held = found.get("layer")
    same = (
        found.get("source") == checkpoint.source
        and found.get("revision") == checkpoint.revision
        and found.get("tokenizer", {}).get("add_special_tokens") == add_special_tokens
        and set(poolings) <= set(found.get("pooling", poolings))
        and (held is None or (layers is not None and set(layers) <= set(held)))
    )
    if not same:
        raise InputError(
            f"model: {checkpoint} is recorded from {found.get('source')!r} with other options "
            f"(poolings {found.get('pooling')}, layers {held or 'all'}, special tokens "
            f"{found.get('tokenizer', {}).get('add_special_tokens')}); "
            "expected the same, another `model` label with `source=`, or overwrite=True"
        )


_Inputs = dict[str, list[list[int]]]
"""Name of an input to the tokens of each sentence, neither padded nor truncated."""


class _Network(NamedTuple):
    model: Any
    tokenizer: Any
    missing: list[str]
    provenance: dict[str, Any]


def _load(checkpoint: Checkpoint, add_special_tokens: bool, device: str | None) -> _Network:
    torch, transformers = _import_models()
    place = _place(torch, device)
    where = {"revision": checkpoint.revision} if checkpoint.revision else {}
    with _loading(checkpoint), _quiet(transformers):
        config = transformers.AutoConfig.from_pretrained(checkpoint.source, **where)
        settings, _ = type(config).get_config_dict(checkpoint.source, **where)
        tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint.source, **where)
        model, report = transformers.AutoModel.from_pretrained(
            checkpoint.source, config=config, dtype=torch.float32, output_loading_info=True, **where
        )
    missing = sorted(report["missing_keys"])
    for name, weights in model.state_dict().items():
        # They hold random numbers now, which must not pass for trained weights.
        if name in missing and weights.is_floating_point():
            weights.fill_(torch.nan)
    provenance = {
        "source": checkpoint.source,
        "revision": checkpoint.revision,
        "commit": getattr(config, "_commit_hash", None),
        "configuration_hash": _configuration_hash(settings),
        "weights_hash": _weights_hash(model),
        "tokenizer": {
            "class": type(tokenizer).__name__,
            "add_special_tokens": add_special_tokens,
            "padding_side": "right",
            "pad_token": tokenizer.convert_ids_to_tokens(_pad_token_id(tokenizer)),
        },
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "device": str(place),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # Decoders would keep the keys and values of all tokens, to go on from there.
    model.config.use_cache = False
    model = model.get_encoder() if config.is_encoder_decoder else model
    return _Network(model.to(place).eval(), tokenizer, missing, provenance)


def _run(
    network: _Network,
    inputs: _Inputs,
    pooling: Sequence[str],
    layers: Sequence[int] | None,
    batch_size: int,
    advance: Callable[[int], None],
) -> xr.DataArray:
    """Compute the activations (pooling, layer, sentence, unit) of all sentences, in float32."""
    import torch

    # Sentences of similar length share a batch, so that little of it is padding. The longest come
    # first, so that a lack of memory shows at once.
    order = np.argsort([-len(tokens) for tokens in inputs["input_ids"]], kind="stable")
    values = np.empty(0)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = _batch(network, inputs, rows)
        with torch.inference_mode():
            hidden = network.model(**batch, output_hidden_states=True).hidden_states
            layers = range(1, len(hidden)) if layers is None else layers
            chosen = [hidden[choose("layer", layer, range(len(hidden)))] for layer in layers]
            pooled = pool(chosen, batch["attention_mask"].bool(), pooling).cpu().numpy()
        if start == 0:
            values = np.empty((*pooled.shape[:2], len(order), pooled.shape[3]), np.float32)
        values[:, :, rows] = pooled
        advance(len(rows))
    if network.missing and not np.isfinite(values).all():
        raise InputError(
            f"model: {network.provenance['source']!r} lacks weights that its layers need: "
            + textwrap.shorten(", ".join(network.missing), 200)
        )
    return xr.DataArray(
        values,
        dims=("pooling", "layer", "sentence", "unit"),
        coords={"pooling": list(pooling), "layer": list(layers or [])},
    )


def _tokenize(network: _Network, sentences: list[str], add_special_tokens: bool) -> _Inputs:
    options = {"add_special_tokens": add_special_tokens, "padding": False, "truncation": False}
    tokens = network.tokenizer(sentences, **options, verbose=False)
    most = _most_tokens(network)
    for row, (sentence, ids) in enumerate(zip(sentences, tokens["input_ids"], strict=True), 1):
        if not 0 < len(ids) <= most:
            expected = f"at most {most}" if ids else "at least one, or add_special_tokens=True"
            raise InputError(
                f"stimuli: the sentence in row {row}, {textwrap.shorten(sentence, 60)!r}, has "
                f"{len(ids)} tokens for {network.provenance['source']!r}; expected {expected}"
            )
    return {name: tokens[name] for name in ("input_ids", "token_type_ids") if name in tokens}


def _most_tokens(network: _Network) -> int:
    model, tokenizer = network.model, network.tokenizer
    limits = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None)]
    for name, module in model.named_modules():
        # RoBERTa and its kin count positions from beyond that of the padding token.
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            limits.append(module.num_embeddings - padding - 1)
    return min(int(limit) for limit in limits if limit is not None and limit > 0)


def _batch(network: _Network, inputs: _Inputs, rows: np.ndarray) -> dict[str, Any]:
    """Pad on the right: there, absolute positions stay those of the sentence alone."""
    import torch

    fill = {"input_ids": _pad_token_id(network.tokenizer), "token_type_ids": 0, "attention_mask": 0}
    chosen = {name: [torch.tensor(tokens[row]) for row in rows] for name, tokens in inputs.items()}
    chosen["attention_mask"] = [torch.ones_like(tokens) for tokens in chosen["input_ids"]]
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    device = network.model.device
    return {name: pad(ids, padding_value=fill[name]).to(device) for name, ids in chosen.items()}


def _pad_token_id(tokenizer: Any) -> int:
    """Any token will do where there is none for padding: the attention mask hides it."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in known if token is not None)


def _configuration_hash(settings: dict[str, Any]) -> str:
    """Hash what config.json says, but for where it was saved and by which version."""
    kept = {
        name: value
        for name, value in settings.items()
        if not name.startswith("_") and name != "transformers_version"
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _weights_hash(model: Any) -> str:
    digest = hashlib.sha256()
    for name, weights in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(weights.shape)} {weights.dtype}".encode())
        digest.update(weights.contiguous().numpy())
    return digest.hexdigest()


def _import_models() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ImportError(
            f'recording needs torch and transformers ({error}): pip install "mlem_xr[models]"'
        ) from error
    return torch, transformers


def _place(torch: Any, device: str | None) -> Any:
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device: {device!r} cannot be used ({_first_line(error)}); "
            "expected a torch device such as 'cpu' or 'cuda'"
        ) from error
    return place


@contextmanager
def _loading(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn whatever transformers raises about a checkpoint into one error that names it."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        revision = f", revision {checkpoint.revision!r}" if checkpoint.revision else ""
        raise InputError(
            f"model: cannot load {checkpoint.source!r}{revision}; expected a name on the Hugging "
            "Face hub or a folder with a network and its tokenizer "
            f"({type(error).__name__}: {_first_line(error)})"
        ) from error


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Silence the bars and reports of transformers, which would break up the progress bar."""
    settings = transformers.utils.logging
    verbosity, bars = settings.get_verbosity(), settings.is_progress_bar_enabled()
    settings.set_verbosity_error()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        settings.set_verbosity(verbosity)
        if bars:
            settings.enable_progress_bar()


def _several(argument: str, value: Any) -> list[Any]:
    single = isinstance(value, str) or not isinstance(value, Iterable)
    values = [value] if single else list(dict.fromkeys(value))
    if not values:
        raise InputError(f"{argument}: an empty list; expected at least one value")
    return values


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")
