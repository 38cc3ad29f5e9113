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
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from mlem_xr.kernels.distances import is_constant
from mlem_xr.networks.checkpoints import Checkpoint, resolve_all
from mlem_xr.networks.pooling import pool
from mlem_xr.networks.tokens import Tokens, encode, load_tokenizer
from mlem_xr.running.progress import progress_bar
from mlem_xr.schema import POOLINGS, InputError, check_integer, choose, several, warn
from mlem_xr.stimuli import read_stimuli
from mlem_xr.store import activations as stored
from mlem_xr.store.address import store_path

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
    tokenizer: str | Path | None = None,
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
    tokenizer : str or Path, optional
        Hub name or folder of the tokenizer; by default the tokenizer beside the weights.
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
        If an argument is not as above, the network or its tokenizer cannot be loaded, a sentence
        does not fit it, most tokens are unknown, the store holds other stimuli, or activations are
        not finite.
    ImportError
        If torch or transformers are not installed.

    Warns
    -----
    UserWarning
        If some tokens are unknown, different sentences have the same tokens, or all sentences have
        the same activations in a layer, as those of the first token of a causal network.

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
    store = store_path(store)
    poolings = [choose("pooling", name, POOLINGS) for name in several("pooling", pooling)]
    layers = None if layer is None else [check_integer("layer", v) for v in several("layer", layer)]
    seeds, steps = several("seed", seed), several("step", step)
    check_integer("batch_size", batch_size, at_least=1)
    sentences = stimuli["text"].values.tolist()
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
            asked = {"source": _text(tokenizer), "add_special_tokens": add_special_tokens}
            _check_skipped(store, checkpoint, asked, poolings, layers)
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
            network, tokens = _prepare(checkpoint, sentences, device, tokenizer, add_special_tokens)
            activation = _run(network, tokens.inputs, poolings, layers, batch_size, bar.update)
            stored.create_store(stimuli, store, pooling=poolings)
            stored.write_checkpoint(
                store,
                activation,
                **checkpoint.labels,
                provenance={
                    **network.provenance,
                    "tokenizer": tokens.provenance | {"source": _text(tokenizer)},
                    **{"pooling": poolings, "layer": layers},
                },
                overwrite=overwrite,
            )
            logger.info("recorded %s in %s", checkpoint, store)
    return pd.DataFrame(checkpoints, columns=Checkpoint._fields).assign(status=statuses)


def _check_skipped(
    store: Path,
    checkpoint: Checkpoint,
    tokenizer: dict[str, Any],
    poolings: list[str],
    layers: list[int] | None,
) -> None:
    """Refuse to skip a checkpoint that was recorded otherwise than it is asked for now."""
    found = stored.read_provenance(store, **checkpoint.labels)
    held = found.get("layer")
    tokens = found.get("tokenizer", {})
    same = (
        found.get("source") == checkpoint.source
        and found.get("revision") == checkpoint.revision
        and {name: tokens.get(name) for name in tokenizer} == tokenizer
        and set(poolings) <= set(found.get("pooling", poolings))
        and (held is None or (layers is not None and set(layers) <= set(held)))
    )
    if not same:
        raise InputError(
            f"model: {checkpoint} is recorded from {found.get('source')!r} with other options "
            f"(poolings {found.get('pooling')}, layers {held or 'all'}, special tokens "
            f"{tokens.get('add_special_tokens')}, tokenizer {tokens.get('source') or 'its own'}); "
            "expected the same, another `model` label with `source=`, or overwrite=True"
        )


_Inputs = dict[str, list[list[int]]]
"""Name of an input to the tokens of each sentence, neither padded nor truncated."""


class _Network(NamedTuple):
    checkpoint: Checkpoint
    model: Any
    missing: list[str]
    provenance: dict[str, Any]


def _prepare(
    checkpoint: Checkpoint,
    sentences: list[str],
    device: str | None,
    tokenizer: str | Path | None,
    add_special_tokens: bool,
) -> tuple[_Network, Tokens]:
    """Load a tokenizer, then the network, and encode the sentences for it."""
    _, transformers = _import_models()
    source = _text(tokenizer) or checkpoint.source
    revision = None if tokenizer else checkpoint.revision
    with _loading(source, revision, "a tokenizer"), _quiet(transformers):
        found = load_tokenizer(source, revision, sentences)
    network = _load(checkpoint, device)
    with _loading(source, revision, "a tokenizer"), _quiet(transformers):
        tokens = encode(
            *(found, network.model, sentences),
            add_special_tokens=add_special_tokens,
            source=source,
        )
    return network, tokens


def _load(checkpoint: Checkpoint, device: str | None) -> _Network:
    torch, transformers = _import_models()
    place = _place(torch, device)
    where = {"revision": checkpoint.revision} if checkpoint.revision else {}
    with _loading(checkpoint.source, checkpoint.revision, "a network"), _quiet(transformers):
        config = transformers.AutoConfig.from_pretrained(
            checkpoint.source, trust_remote_code=False, **where
        )
        settings, _ = type(config).get_config_dict(checkpoint.source, **where)
        model, report = transformers.AutoModel.from_pretrained(
            checkpoint.source,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
            **where,
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
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "device": str(place),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # Decoders would keep the keys and values of all tokens, to go on from there.
    model.config.use_cache = False
    if config.is_encoder_decoder or (hasattr(model, "encoder") and hasattr(model, "decoder")):
        model = model.get_encoder()
    # Of a network of texts and images, what reads the texts.
    model = getattr(model, "text_model", model)
    return _Network(checkpoint, model.to(place).eval(), missing, provenance)


def _run(
    network: _Network,
    inputs: _Inputs,
    pooling: Sequence[str],
    layers: Sequence[int] | None,
    batch_size: int,
    advance: Callable[[int], None],
) -> xr.DataArray:
    """Compute the activations (pooling, layer, sentence, unit) of all sentences, in float32.

    Layers may be of different widths: units beyond that of a layer are NaN.
    """
    import torch

    n_sentences = len(inputs["input_ids"])
    values = np.empty(0)
    for rows in _batches(inputs, batch_size):
        batch = {name: torch.tensor([tokens[i] for i in rows]) for name, tokens in inputs.items()}
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        batch = {name: tensor.to(network.model.device) for name, tensor in batch.items()}
        hidden = _forward(network, batch)
        layers = range(1, len(hidden)) if layers is None else layers
        chosen = [hidden[choose("layer", layer, range(len(hidden)))] for layer in layers]
        if not values.size:
            widest = max(states.shape[-1] for states in chosen)
            shape = (len(pooling), len(chosen), n_sentences, widest)
            values = np.full(shape, np.nan, np.float32)
        for i, states in enumerate(chosen):
            for p, name in enumerate(pooling):
                values[p, i, rows, : states.shape[-1]] = pool(states, name).cpu().numpy()
        advance(len(rows))
    width = [states.shape[-1] for states in chosen]
    found = [(p, i) for p in range(len(pooling)) for i in range(len(chosen))]
    parts = {(p, i): values[p, i, :, : width[i]] for p, i in found}
    named = {(p, i): f"pooling={pooling[p]}, layer={list(layers or [])[i]}" for p, i in found}
    _check_finite(network, {named[k]: part for k, part in parts.items()})
    _warn_of_constant(network, {named[k]: part for k, part in parts.items()})
    return xr.DataArray(
        values,
        dims=("pooling", "layer", "sentence", "unit"),
        coords={"pooling": list(pooling), "layer": list(layers or [])},
    )


def _check_finite(network: _Network, parts: dict[str, np.ndarray]) -> None:
    broken = next((name for name, part in parts.items() if not np.isfinite(part).all()), None)
    if broken is None:
        return
    if network.missing:
        raise InputError(
            f"model: {network.provenance['source']!r} lacks weights that its layers need: "
            + textwrap.shorten(", ".join(network.missing), 200)
        )
    labels = ", ".join(f"{dim}={label}" for dim, label in network.checkpoint.labels.items())
    raise InputError(
        f"activation: NaN or infinite values in {labels}, {broken}; nothing was written"
    )


def _warn_of_constant(network: _Network, parts: dict[str, np.ndarray]) -> None:
    constant = [name for name, part in parts.items() if is_constant(part)]
    if constant:
        warn(
            f"model: all sentences have the same activations of {network.checkpoint} in "
            f"{'; '.join(constant)} (the first token of a causal network sees nothing of the "
            "sentence)"
        )


def _forward(network: _Network, batch: dict[str, Any]) -> Sequence[Any]:
    """Return the hidden states (sentence, token, unit) of all layers."""
    import torch

    try:
        with torch.inference_mode():
            states = network.model(**batch, output_hidden_states=True).hidden_states
    except Exception as error:
        kind = type(network.model).__name__
        raise InputError(
            f"model: {network.provenance['source']!r}, a {kind}, cannot take "
            f"{' and '.join(batch)} of shape {tuple(batch['input_ids'].shape)}; expected an "
            f"encoder or decoder of sentences ({type(error).__name__}: {_first_line(error)})"
        ) from error
    shape = tuple(batch["input_ids"].shape)
    if not states or any(tuple(layer.shape[:2]) != shape for layer in states):
        found = [tuple(layer.shape) for layer in states or ()]
        raise InputError(
            f"model: {network.provenance['source']!r}, a {type(network.model).__name__}, has "
            f"hidden states of shapes {found}; expected one vector per token in every layer"
        )
    return states


def _batches(inputs: _Inputs, batch_size: int) -> Iterator[np.ndarray]:
    """Cut the sentences into batches of equally long ones, the longest first.

    Without padding a sentence has the activations that it has alone, in every network: some mix
    over positions in spite of a mask. The longest come first, so that a lack of memory shows at
    once.
    """
    length = np.array([len(tokens) for tokens in inputs["input_ids"]])
    for n_tokens in np.unique(length)[::-1]:
        rows = np.flatnonzero(length == n_tokens)
        yield from (rows[i : i + batch_size] for i in range(0, len(rows), batch_size))


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
def _loading(source: str, revision: str | None, expected: str) -> Iterator[None]:
    """Turn whatever transformers raises about a network into one error that names it."""
    try:
        yield
    except (InputError, ImportError):
        raise
    except Exception as error:
        of = f", revision {revision!r}" if revision else ""
        raise InputError(
            f"model: cannot load {source!r}{of}; expected a name on the Hugging Face hub or a "
            f"folder with {expected} ({type(error).__name__}: {_first_line(error)})"
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


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")


def _text(path: str | Path | None) -> str | None:
    """Name a folder in full, so that the store says which it was; leave a hub name alone."""
    if path is None:
        return None
    folder = Path(path).expanduser()
    return str(folder.absolute()) if folder.is_dir() else str(path)
