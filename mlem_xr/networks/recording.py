"""Run networks over sentences and store the pooled activations of their layers.

torch and transformers are imported only where a network runs.
"""

import inspect
import logging
import math
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from os import fspath
from pathlib import Path
from socket import gethostname
from tempfile import TemporaryFile
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from mlem_xr.kernels.distances import is_constant
from mlem_xr.networks.checkpoints import Checkpoint, resolve_all
from mlem_xr.networks.downloads import weights_of
from mlem_xr.networks.files import changed
from mlem_xr.networks.loading import Network, check_models, load
from mlem_xr.networks.modules import check_module, watched
from mlem_xr.networks.placing import DeviceMap, check_device_map, check_places, placed
from mlem_xr.networks.pooling import pool
from mlem_xr.networks.tokens import Tokens, tokens_of
from mlem_xr.running.executor import current_client, run_large_tasks
from mlem_xr.running.progress import progress_bar, resumable
from mlem_xr.schema import (
    CHECKPOINT,
    POOLINGS,
    TARGET,
    InputError,
    WorkerError,
    among,
    check_bool,
    check_integer,
    check_layer,
    check_location,
    check_seed,
    check_step,
    check_text,
    choose,
    first_line,
    listed,
    several,
    warn,
)
from mlem_xr.stimuli import read_stimuli
from mlem_xr.stimuli.targets import target_spans
from mlem_xr.store import activations as stored
from mlem_xr.store.address import scratch_folder, store_path

_CHECKED = 8
"""Sentences that show whether activations depend on weights that are not there."""

_ALONE = 16
"""Sentences of the first batch that are run alone too; later, one of so many at most."""

_CLOSE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 0.1}
"""Relative difference up to which activations in a batch are those alone, but for rounding."""

_MOST_IN_MEMORY = 2**28
"""Bytes of the activations of a checkpoint that are kept in memory until they are written."""

Inputs = dict[str, list[list[int]]]
"""Name of an input to the tokens of each sentence, neither padded nor truncated."""

_OF_A_CHECKPOINT = ("model", "tokenizer", "activation", "checkpoint")
"""First words of errors that are about one network, or what came of it."""

_LISTED = 3
"""Checkpoints that an error lists with their causes."""

_BEFORE = {"dtype": "float32", "module": None}
"""What provenance that does not say it means."""


def _ignore(n_sentences: int) -> None:
    """Hear of progress that nobody sees."""


class _Asked(NamedTuple):
    """What is recorded of every network, and where."""

    stimuli: xr.Dataset
    store: Any
    """Its `Address`."""
    texts: list[str]
    """The distinct sentences."""
    which: np.ndarray
    """The position of each sentence's text."""
    spans: list[tuple[int, int]] | None
    """The characters of each sentence's target, if they are needed."""
    poolings: list[str]
    layers: list[int] | None
    module: str | None
    tokenizer: str | None
    batch_size: int
    device: str | None
    device_map: DeviceMap | None
    loading: dict[str, Any]
    """Further options of `load`."""
    keep_weights: bool
    overwrite: bool
    advance: Callable[[int], None] = _ignore
    """Told how many sentences were run."""

    @property
    def rows(self) -> list[int]:
        """Return the first row of the table that has each text."""
        return (np.unique(self.which, return_index=True)[1] + 1).tolist()


class _Outcome(NamedTuple):
    """What became of a checkpoint."""

    status: str
    cause: str = ""
    is_mistake: bool = False
    """Whether it failed for a mistake of the caller's."""


_SKIPPED = _Outcome("skipped")

logger = logging.getLogger(__name__)


def record(
    stimuli: Any,
    store: str | Path,
    *,
    model: str | Path,
    seed: int | Iterable[int] = 0,
    step: int | None | Iterable[int | None] = None,
    source: str | Path | None = None,
    revision: str | Mapping[int, str] | None = None,
    pooling: str | Iterable[str] = POOLINGS,
    layer: int | Iterable[int] | None = None,
    module: str | None = None,
    add_special_tokens: bool = True,
    truncate: bool = False,
    tokenizer: str | Path | None = None,
    trust_remote_code: bool = False,
    device: str | None = None,
    device_map: Literal["auto"] | Mapping[str, str | int] | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    batch_size: int = 64,
    keep_weights: bool = True,
    overwrite: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Record the activations of networks on sentences.

    Every combination of `seed` and `step` is one checkpoint. Those that the store already holds
    are skipped, so an interrupted run is continued by running it again. Checkpoints are recorded
    one after another, or with a Dask client (see `local_client`) one on each worker process at a
    time; where workers declare the resource "GPU", on these.

    Parameters
    ----------
    stimuli : xr.Dataset, str, Path or pd.DataFrame
        Sentences and features, or what `read_stimuli` reads them from.
    store : str or Path
        Folder of the store, or its address such as "s3://bucket/name.zarr"; created with the first
        checkpoint.
    model : str or Path
        Name on the Hugging Face hub; local folder, which is stored under its name
        ("bert/checkpoint-100" as step 100 of "bert", "bert/model" as "bert/model"); published
        series (`"multiberts"`, or a Pythia such as `"pythia-160m"`); or, with a `source`, any name.
    seed, step : int or iterable of int
        Checkpoints to record; step None: the final weights, which are stored under the number of
        their step where it is known, as in a published series, and otherwise under -1.
    source, revision : str, optional
        Where the weights are: a hub name or folder, and a branch, tag or commit on the hub;
        `{model}`, `{seed}` and `{step}` are filled in. `revision` may be a mapping of steps to
        names, as in ``{1000: "step1000-tokens4B"}``; without `step` all of them are recorded.
    pooling : str or iterable of str
        `"first-token"`, `"mean"` (over all tokens, special ones included), `"last-token"`, and
        `"target"`: the mean over the tokens of the word that a sentence is about, which a column of
        the stimuli names (see `read_stimuli`). A text that several sentences have is run once.
    layer : int or iterable of int, optional
        Layers to record, 1 being the first block and 0 the embeddings; None: all blocks.
    module : str, optional
        Record the outputs of these parts of the network instead of its hidden states: a name such
        as `"encoder.layer.{layer}.attention.output.dense"`. Layers are the numbers in the place of
        `{layer}`, as the network counts them: mostly from 0. A store holds outputs of one name.
    add_special_tokens : bool
        Whether the tokenizer adds the tokens that the network was trained with, such as `[CLS]`.
    truncate : bool
        Cut sentences that are longer than the network can take, which are an error otherwise.
    tokenizer : str or Path, optional
        Hub name or folder of the tokenizer; by default the tokenizer beside the weights.
    trust_remote_code : bool
        Run the code that a folder or a repository on the hub brings for its network or tokenizer.
        It can do whatever you can: read it first.
    device : str, optional
        A torch device such as `"cpu"` or `"cuda:1"`; None: the GPU if there is one.
    device_map : "auto" or mapping, optional
        Devices of the parts of a network that none can hold whole: names of parts, as in
        ``{"embeddings": 0, "encoder.layer.0": "cuda:1", ...}``, to torch devices, numbers of GPUs,
        or `"disk"`; `"auto"` spreads it over all GPUs and leaves the rest in memory.
    dtype : {"float32", "bfloat16", "float16"}
        What the network computes in; float32 is stored in any case.
    batch_size : int
        Sentences per forward pass.
    keep_weights : bool
        If False, weights that this call downloads from the hub are removed when it has run them.
    overwrite : bool
        Record again what the store already holds.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    pd.DataFrame
        One row per checkpoint: `model`, `seed`, `step`, `source`, `revision`, `status`:
        `"recorded"`, `"skipped"` or `"failed"`, and `cause`: why it failed.

    Raises
    ------
    InputError
        If an argument is not as above, the network or its tokenizer cannot be loaded or needs code
        that is not trusted, the network does not read sentences, lacks weights that its layers need
        or is random, a sentence does not fit it, most tokens are unknown, the store holds other
        stimuli, or activations are not finite. Of several checkpoints, those that cannot be loaded
        or run are in the table instead, if not all of them are such.
    ImportError
        If torch or transformers are not installed.
    RuntimeError
        If all checkpoints failed, some of them for another reason than above; `SchedulerError` if
        the scheduler of the Dask client was lost.

    Warns
    -----
    UserWarning
        If a checkpoint failed while others go on; if one is skipped whose folder has other files
        now; if some tokens are unknown or special ones, different sentences have the same tokens,
        or all sentences have the same activations in a layer, as those of the first token of a
        causal network; if a network has layers, or weights in them, that are not used, brings code
        that is not run, or mixes the sentences of a batch, which are then run one by one; if its
        tokenizer adds other special tokens than tokenizer.json.

    Examples
    --------
    `record("sentences.csv", "bert.zarr", model="multiberts", seed=range(25))` fetches 25 networks.
    Mistakes show before anything is fetched:

    >>> record("short_sentence", "bert.zarr", model="bert-base-uncased", batch_size=0)
    Traceback (most recent call last):
        ...
    mlem_xr.schema.InputError: batch_size: found 0; expected an integer of at least 1
    """
    store = store_path(store)
    poolings = several("pooling", pooling, among((*POOLINGS, TARGET)))
    layers = None if layer is None else several("layer", layer, check_layer)
    seeds, steps = several("seed", seed, check_seed), several("step", step, _check_step)
    module = None if module is None else check_module("module", module)
    dtype = choose("dtype", dtype, _CLOSE)
    truncate, keep_weights = (
        check_bool("truncate", truncate),
        check_bool("keep_weights", keep_weights),
    )
    add_special_tokens = check_bool("add_special_tokens", add_special_tokens)
    trust_remote_code = check_bool("trust_remote_code", trust_remote_code)
    overwrite, progress = check_bool("overwrite", overwrite), check_bool("progress", progress)
    batch_size = check_integer("batch_size", batch_size, at_least=1)
    if tokenizer is not None:
        check_location("tokenizer", tokenizer, "a name on the hub or a folder")
        tokenizer = fspath(tokenizer)
    if device is not None:
        device = check_text("device", device, "a torch device such as 'cpu' or 'cuda'")
    if device_map is not None:
        device_map = check_device_map(device_map)
    if device is not None and device_map is not None:
        raise InputError(f"device_map: found it beside device={device!r}; expected one of both")
    checkpoints = resolve_all(model, seeds, steps, source=source, revision=revision)
    stimuli = read_stimuli(stimuli)
    which, texts = pd.factorize(stimuli["text"].values)
    spans = target_spans(stimuli) if TARGET in poolings else None
    asked = _Asked(
        *(stimuli, store, texts.tolist(), which, spans, poolings, layers, module),
        *(_text(tokenizer), batch_size, device, device_map),
        loading={
            "add_special_tokens": add_special_tokens,
            "truncate": truncate,
            "trust_remote_code": trust_remote_code,
            "dtype": dtype,
        },
        keep_weights=keep_weights,
        overwrite=overwrite,
    )
    if asked.store.exists():
        # Other stimuli are refused before a network is loaded.
        stored.create_store(stimuli, store, pooling=poolings)
        stored.check_module_of(store, module)

    labels = {dim: [checkpoint.labels[dim] for checkpoint in checkpoints] for dim in CHECKPOINT}
    missing = set(stored.missing_checkpoints(store, **labels))
    todo = [one for one in checkpoints if overwrite or tuple(one.labels.values()) in missing]
    for checkpoint in checkpoints:
        if checkpoint not in todo:
            of_tokens = {"source": _text(tokenizer), "add_special_tokens": add_special_tokens}
            options = {"dtype": dtype, "module": module, "truncate": truncate}
            _check_skipped(store, checkpoint, of_tokens, options, trust_remote_code, asked)
            logger.info("skipped %s: %s holds it already", checkpoint, store)
    found = _record_all(asked, todo, alone=len(checkpoints) == 1, progress=progress)
    outcomes = [found.get(checkpoint, _SKIPPED) for checkpoint in checkpoints]
    _check_any(checkpoints, outcomes)
    return pd.DataFrame(checkpoints, columns=Checkpoint._fields).assign(
        status=[outcome.status for outcome in outcomes],
        cause=[outcome.cause for outcome in outcomes],
    )


def _record_all(
    asked: _Asked, checkpoints: list[Checkpoint], *, alone: bool, progress: bool
) -> dict[Checkpoint, _Outcome]:
    """Record checkpoints, on the workers of a Dask client if there is one.

    A checkpoint that fails is warned of, and the others go on; but it is an error where it was
    asked for `alone`, or where it shows that all others would fail too.
    """
    found: dict[Checkpoint, _Outcome] = {}
    if not checkpoints:
        return found
    n_sentences = asked.stimuli.sizes["sentence"]
    total = len(checkpoints) * n_sentences

    def reached() -> str:
        n_recorded = sum(outcome.status == "recorded" for outcome in found.values())
        return f"{n_recorded} of {len(checkpoints)} checkpoints are recorded"

    with (
        resumable("record", reached, shown=progress),
        progress_bar("record", total, unit="sentences", shown=progress) as bar,
    ):

        def note(i: int, outcome: _Outcome) -> None:
            found[checkpoints[i]] = outcome
            bar.update(len(found) * n_sentences - bar.n)

        def done(i: int, status: str) -> None:
            logger.info("%s %s in %s", status, checkpoints[i], asked.store)
            note(i, _Outcome(status))

        def failed(i: int, error: Exception) -> None:
            if not asked.overwrite and stored.is_recorded(asked.store, **checkpoints[i].labels):
                # Another process was quicker.
                done(i, "skipped")
            elif alone or _concerns_all(error):
                raise error
            else:
                cause = _in_a_line(error)
                warn(f"{checkpoints[i]} is not recorded: {cause}")
                note(i, _Outcome("failed", cause, isinstance(error, InputError)))

        if current_client() is None:
            function, asked = _record_one, asked._replace(advance=bar.update)
        else:
            # Whoever does not see it must not make another one.
            stored.create_store(asked.stimuli, asked.store, pooling=asked.poolings)
            function = _record_on_worker
        run_large_tasks(
            *(function, asked, checkpoints),
            name=lambda i: str(checkpoints[i]),
            begun=lambda i: bar.set_postfix_str(str(checkpoints[i])),
            done=done,
            failed=failed,
        )
    return found


def _record_one(asked: _Asked, checkpoint: Checkpoint) -> str:
    """Run a network and write its activations, unless the store holds them; say which."""
    if not asked.overwrite and stored.is_recorded(asked.store, **checkpoint.labels):
        # Another process was quicker.
        return "skipped"
    check_models()
    check_places(asked.device, asked.device_map)
    with weights_of(checkpoint, keep=asked.keep_weights):
        network, tokens = load(
            *(checkpoint, asked.texts),
            rows=asked.rows,
            tokenizer=asked.tokenizer,
            characters=asked.spans is not None,
            module=asked.module,
            **asked.loading,
        )
        _check_missing(network, tokens.inputs)
        folder = scratch_folder(asked.store)
        with placed(network.model, asked.device, asked.device_map, folder) as (place, devices):
            network = network._replace(place=place)
            activation = _run(network, tokens, asked)
        provenance = network.provenance | {"device": devices}
        del network
    stored.create_store(asked.stimuli, asked.store, pooling=asked.poolings)
    stored.settle_module(asked.store, asked.module)
    stored.write_checkpoint(
        asked.store,
        activation,
        **checkpoint.labels,
        provenance={
            **provenance,
            "tokenizer": tokens.provenance | {"source": asked.tokenizer},
            **{"pooling": asked.poolings, "layer": asked.layers},
        },
        overwrite=asked.overwrite,
    )
    return "recorded"


def _record_on_worker(asked: _Asked, checkpoint: Checkpoint) -> str:
    """Do as `_record_one` in a worker process, all of whose threads the network has for itself."""
    if not asked.store.exists():
        raise InputError(
            f"store: a worker on {gethostname()} does not see {asked.store}; expected a path that "
            "all workers see"
        )
    _use_all_threads()
    return _record_one(asked, checkpoint)


def _use_all_threads() -> None:
    """Let torch have all threads of a worker, which runs one network at a time."""
    with suppress(ImportError):
        import torch
        from distributed import get_worker

        torch.set_num_threads(get_worker().state.nthreads)


def _concerns_all(error: Exception) -> bool:
    """Say whether an error is about what all checkpoints share, and not about one of them."""
    if isinstance(error, InputError):
        argument = str(error).partition(":")[0]
        return argument not in _OF_A_CHECKPOINT
    return isinstance(error, ImportError)


def _in_a_line(error: Exception) -> str:
    said = isinstance(error, InputError | WorkerError)
    return " ".join(str(error).split()) if said else f"{type(error).__name__}: {first_line(error)}"


def _check_any(checkpoints: list[Checkpoint], outcomes: list[_Outcome]) -> None:
    """Raise an error if nothing of what was asked for is recorded."""
    if any(outcome.status != "failed" for outcome in outcomes):
        return
    named = [
        f"{checkpoint}: {outcome.cause}"
        for checkpoint, outcome in zip(checkpoints, outcomes, strict=True)
    ]
    more = f"; and {len(named) - _LISTED} more" if len(named) > _LISTED else ""
    message = f"model: all {len(named)} checkpoints failed: {'; '.join(named[:_LISTED])}{more}"
    if all(outcome.is_mistake for outcome in outcomes):
        raise InputError(message)
    raise RuntimeError(message)


def _check_step(argument: str, value: Any) -> int | None:
    return None if value is None else check_step(argument, value)


def _check_skipped(
    store: Any,
    checkpoint: Checkpoint,
    tokenizer: dict[str, Any],
    options: dict[str, Any],
    trust_remote_code: bool,
    asked: _Asked,
) -> None:
    """Refuse to skip a checkpoint that was recorded otherwise than it is asked for now."""
    found = _BEFORE | stored.read_provenance(store, **checkpoint.labels)
    # Where nothing was cut, it makes no difference whether it might have been.
    cut = bool(found.get("tokenizer", {}).get("n_truncated"))
    found["truncate"] = options["truncate"] or cut
    held = found.get("layer")
    tokens = found.get("tokenizer", {})
    same = (
        found.get("source") == checkpoint.source
        and found.get("revision") == checkpoint.revision
        and {name: tokens.get(name) for name in tokenizer} == tokenizer
        and {name: found[name] for name in options} == options
        and (not found.get("own_code") or found.get("trust_remote_code") == trust_remote_code)
        and set(asked.poolings) <= set(found.get("pooling", asked.poolings))
        and (held is None or (asked.layers is not None and set(asked.layers) <= set(held)))
        # All layers are all blocks.
        and (held is not None or asked.module is not None or 0 not in (asked.layers or ()))
    )
    if not same:
        raise InputError(
            f"model: {checkpoint} is recorded from {found.get('source')!r} with other options "
            f"(poolings {found.get('pooling')}, layers {held or 'all'}, special tokens "
            f"{tokens.get('add_special_tokens')}, truncate {cut}, "
            f"tokenizer {tokens.get('source') or 'its own'}, dtype {found['dtype']}, "
            f"trust_remote_code {found.get('trust_remote_code', False)}); "
            "expected the same, another `model` label with `source=`, or overwrite=True"
        )
    if held is None and asked.layers is not None:
        _check_layers(store, checkpoint, asked)
    _warn_of_changed(checkpoint, found)


def _warn_of_changed(checkpoint: Checkpoint, found: dict[str, Any]) -> None:
    """Warn where a folder is no longer what was recorded; stores from before do not say."""
    tokens = found.get("tokenizer", {})
    folders = (checkpoint.source, found.get("files")), (tokens.get("source"), tokens.get("files"))
    for folder, files in folders:
        # A folder may be gone once it is recorded.
        names = changed(folder, files) if files and Path(folder).is_dir() else []
        if names:
            warn(
                f"model: {checkpoint} is skipped, but {listed(names)} in {folder!r} is no longer "
                "what was recorded; overwrite=True records it again"
            )


def _check_layers(store: Any, checkpoint: Checkpoint, asked: _Asked) -> None:
    """Refuse layers that a recorded network does not have."""
    counts = stored.open_store(store)["n_units"].sel(checkpoint.labels)
    known = counts["layer"].values[(counts > 0).any("pooling").values].tolist()
    for layer in asked.layers or ():
        choose("layer", layer, known)


def _run(network: Network, tokens: Tokens, asked: _Asked) -> xr.DataArray:
    """Compute the activations (pooling, layer, sentence, unit) of all sentences, in float32.

    Layers may be of different widths: units beyond that of a layer are NaN.
    """
    targets = None
    if asked.spans is not None:
        spans = zip(asked.which.tolist(), asked.spans, strict=True)
        targets = tokens_of(spans, tokens, asked.texts)
    sentences = [np.flatnonzero(asked.which == i) for i in range(len(asked.texts))]
    if network.modules:
        _check_other_length(network, tokens.inputs)
    values = np.empty(0)
    layers: list[int] = []
    is_done = np.zeros(len(asked.which), bool)
    for texts, hidden in _states(network, tokens.inputs, asked.batch_size):
        layers = asked.layers or [n for n in hidden if n > 0 or network.modules]
        chosen = [hidden[choose("layer", layer, hidden)] for layer in layers]
        if not values.size:
            widest = max(states.shape[-1] for states in chosen)
            shape = (len(asked.poolings), len(chosen), len(asked.which), widest)
            values = _room(shape, scratch_folder(asked.store))
        rows = np.concatenate([sentences[i] for i in texts])
        place = np.repeat(np.arange(len(texts)), [sentences[i].size for i in texts])
        own = None if targets is None else [targets[row] for row in rows]
        for i, states in enumerate(chosen):
            for p, name in enumerate(asked.poolings):
                pooled = pool(states.float(), name, place.tolist(), own)
                values[p, i, rows, : states.shape[-1]] = pooled.cpu().numpy()
        asked.advance(int((~is_done[rows]).sum()))
        is_done[rows] = True
    width = [states.shape[-1] for states in chosen]
    found = [(p, i) for p in range(len(asked.poolings)) for i in range(len(chosen))]
    parts = {
        f"pooling={asked.poolings[p]}, layer={layers[i]}": values[p, i, :, : width[i]]
        for p, i in found
    }
    _check_finite(network, parts)
    _warn_of_constant(network, parts)
    return xr.DataArray(
        values,
        dims=("pooling", "layer", "sentence", "unit"),
        coords={"pooling": asked.poolings, "layer": layers},
    )


def _room(shape: tuple[int, ...], folder: Path | None) -> np.ndarray:
    """Return an array of NaN: in memory, or if it is large in a file without a name.

    The file lies in a folder beside the store, where as much room is needed anyway; None: where
    the system has its own.
    """
    size = math.prod(shape) * np.dtype(np.float32).itemsize
    if size <= _MOST_IN_MEMORY:
        return np.full(shape, np.nan, np.float32)
    with TemporaryFile(dir=folder) as file:
        # A full disk is an error here, and not the end of the process later.
        os.posix_fallocate(file.fileno(), 0, size)
        values = np.memmap(file, np.float32, "r+", shape=shape)
    for layer in values.reshape(-1, *shape[2:]):
        layer[:] = np.nan
    return values


def _check_finite(network: Network, parts: dict[str, np.ndarray]) -> None:
    broken = next((name for name, part in parts.items() if not np.isfinite(part).all()), None)
    if broken is None:
        return
    if network.missing:
        raise network.lacking()
    labels = ", ".join(f"{dim}={label}" for dim, label in network.checkpoint.labels.items())
    raise InputError(
        f"activation: NaN or infinite values in {labels}, {broken}; nothing was written"
    )


def _warn_of_constant(network: Network, parts: dict[str, np.ndarray]) -> None:
    constant = [name for name, part in parts.items() if is_constant(part)]
    if constant:
        warn(
            f"model: all sentences have the same activations of {network.checkpoint} in "
            f"{'; '.join(constant)} (the first token of a causal network sees nothing of the "
            "sentence)"
        )


def _states(
    network: Network, inputs: Inputs, batch_size: int
) -> Iterator[tuple[np.ndarray, dict[int, Any]]]:
    """Yield the rows of a batch and their hidden states, until all sentences had their turn.

    Sentences of the batches are run alone too: should a network mix over the sentences of a batch,
    all are run alone, those again that have had their turn; should it be random, it is refused.
    """
    if batch_size > 1 and not _takes_its_share(network):
        n_run = n_checked = 0
        for rows in _batches(inputs, batch_size):
            hidden = _forward(network, inputs, rows)
            checked = _to_check(len(rows), n_run, n_checked)
            if not all(_is_as_alone(network, inputs, rows, i, hidden) for i in checked):
                break
            yield rows, hidden
            n_run, n_checked = n_run + len(rows), n_checked + len(checked)
        else:
            return
        del hidden
    for i, rows in enumerate(_batches(inputs, 1)):
        hidden = _forward(network, inputs, rows)
        if i == 0:
            _check_not_random(network, inputs, rows, hidden)
        yield rows, hidden


def _check_other_length(network: Network, inputs: Inputs) -> None:
    """Refuse modules whose outputs have one vector per token by chance, as attention weights may.

    The first sentence with a token less, or twice if it is one, has as many units.
    """
    one = {name: [tokens[0][:-1] or tokens[0] * 2] for name, tokens in inputs.items()}
    row = np.zeros(1, int)
    expected, found = _forward(network, inputs, row), _forward(network, one, row)
    for number, states in found.items():
        if states.shape[2] != expected[number].shape[2]:
            raise InputError(
                f"module: {network.provenance['module']!r} with {number} gives "
                f"{expected[number].shape[2]} numbers per token in a sentence, and "
                f"{states.shape[2]} with a token less or more; expected as many in each"
            )


def _takes_its_share(network: Network) -> bool:
    """Whether experts take so many tokens of a batch, which may concern few sentences; warn of it.

    Then the sentences of a batch are competitors, and a few of them would not show it.
    """
    settings = network.model.config.to_dict()
    found = any("capacity" in name and value is not None for name, value in settings.items())
    if found:
        _warn_of_mixing(network, "may give")
    return found


def _to_check(n_rows: int, n_run: int, n_checked: int) -> list[int]:
    """Choose the sentences of a batch that are run alone too: a few, or one, or none.

    They are many in the first batch, and then one of a batch, unless that is too much.
    """
    if n_run == 0:
        return np.unique(np.linspace(0, n_rows - 1, _ALONE).round().astype(int)).tolist()
    is_due = n_rows > 1 and n_checked * _ALONE <= n_run + _ALONE**2
    return [n_rows - 1] if is_due else []


def _is_as_alone(
    network: Network, inputs: Inputs, rows: np.ndarray, i: int, hidden: dict[int, Any]
) -> bool:
    """Whether a sentence of a batch has the states that it has alone; warn where it has not."""
    row = rows[i : i + 1]
    alone = _forward(network, inputs, row)
    same = {layer: states[i : i + 1] for layer, states in hidden.items()}
    if _are_close(network, same, alone):
        return True
    _check_not_random(network, inputs, row, alone)
    _warn_of_mixing(network, "gives")
    return False


def _check_not_random(
    network: Network, inputs: Inputs, row: np.ndarray, hidden: dict[int, Any]
) -> None:
    """Refuse a network that gives a sentence other states than before."""
    if not _are_close(network, _forward(network, inputs, row), hidden):
        raise InputError(
            f"model: {network.checkpoint} ({type(network.model).__name__}) gives the same "
            "sentence other activations each time; expected a network without randomness"
        )


def _warn_of_mixing(network: Network, gives: str) -> None:
    warn(
        f"model: {network.checkpoint} {gives} a sentence other activations in a batch than alone; "
        "every sentence is run alone"
    )


def _check_missing(network: Network, inputs: Inputs) -> None:
    """Refuse a network whose activations depend on weights that its files lack.

    NaN alone would not show that: what only says which expert is chosen never gets into a sum.
    """
    import torch

    if not network.missing:
        return
    rows = _batches(inputs, _CHECKED)[0]
    expected = _forward(network, inputs, rows)
    generator = torch.Generator().manual_seed(0)
    for weights in network.missing.values():
        if not weights.is_floating_point():
            raise network.lacking()
        weights.copy_(torch.randn(weights.shape, generator=generator))
    found = _forward(network, inputs, rows)
    for weights in network.missing.values():
        weights.fill_(torch.nan)
    if not _are_close(network, found, expected):
        raise network.lacking()


def _are_close(network: Network, found: dict[int, Any], expected: dict[int, Any]) -> bool:
    """Whether the activations of all layers are the same, but for rounding."""
    import torch

    close = _CLOSE[network.provenance["dtype"]]

    def is_close(one: Any, other: Any) -> bool:
        one, other = one.float(), other.float()
        size = float(other.nan_to_num().abs().median())
        return torch.allclose(one, other, rtol=close, atol=close * size, equal_nan=True)

    return all(is_close(found[layer], expected[layer]) for layer in expected)


def _forward(network: Network, inputs: Inputs, rows: np.ndarray) -> dict[int, Any]:
    """Return the activations (sentence, token, unit) of all layers, by their number."""
    import torch

    model = network.model
    batch = {name: torch.tensor([tokens[i] for i in rows]) for name, tokens in inputs.items()}
    shape = tuple(batch["input_ids"].shape)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    taken = inspect.signature(model.forward).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        batch = {name: tensor for name, tensor in batch.items() if name in taken}
    try:
        with torch.inference_mode(), watched(network.modules) as seen:
            batch = {name: tensor.to(network.place) for name, tensor in batch.items()}
            output = model(**batch, output_hidden_states=not network.modules)
    except Exception as error:
        if network.missing:
            raise network.lacking() from error
        read = getattr(model, "main_input_name", "input_ids")
        reads = "" if read == "input_ids" else f", which reads {read}"
        raise InputError(
            f"model: {network.provenance['source']!r} ({type(model).__name__}{reads}) cannot take "
            f"tokens of shape {shape}; expected an encoder or decoder of sentences "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error
    if network.modules:
        states = _seen(network, seen)
    else:
        states = dict(enumerate(getattr(output, "hidden_states", None) or ()))
    found = [tuple(getattr(layer, "shape", ())) for layer in states.values()]
    if not found or any(len(one) < 3 or one[:2] != shape for one in found):
        shapes = textwrap.shorten(", ".join(map(str, dict.fromkeys(found))), 100) or "no shape"
        what = "outputs of its module" if network.modules else "hidden states"
        raise InputError(
            f"model: {network.provenance['source']!r} ({type(model).__name__}) has {what} "
            f"of {shapes} for tokens of {shape}; expected one vector per token in every "
            "layer"
        )
    # Some networks keep several vectors for each token, side by side.
    return {layer: one.flatten(2) for layer, one in states.items()}


def _seen(network: Network, seen: dict[int, list[Any]]) -> dict[int, Any]:
    """Return the one output of every module in a forward pass."""
    for number, outputs in seen.items():
        if len(outputs) != 1:
            raise InputError(
                f"module: {network.provenance['module']!r} with {number} is run {len(outputs)} "
                "times for a sentence; expected one that is run once"
            )
    return {number: one for number, (one,) in seen.items()}


def _batches(inputs: Inputs, batch_size: int) -> list[np.ndarray]:
    """Cut the sentences into batches of equally long ones: the largest batch, then the longest.

    Without padding a sentence has the activations that it has alone, in every network: some mix
    over positions in spite of a mask. The longest come early, so that a lack of memory shows at
    once.
    """
    length = np.array([len(tokens) for tokens in inputs["input_ids"]])
    batches = []
    for n_tokens in np.unique(length)[::-1]:
        rows = np.flatnonzero(length == n_tokens)
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    batches.insert(0, batches.pop(int(np.argmax([len(rows) for rows in batches]))))
    return batches


def _text(path: str | Path | None) -> str | None:
    """Name a folder in full, so that the store says which it was; leave a hub name alone."""
    if path is None:
        return None
    folder = Path(path).expanduser()
    return str(folder.absolute()) if folder.is_dir() else str(path)
