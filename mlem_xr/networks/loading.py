"""A checkpoint -> its network and its tokenizer, or an error that says what is wrong with them."""

import copy
import hashlib
import importlib.metadata
import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mlem_xr.networks.checkpoints import Checkpoint
from mlem_xr.networks.files import identities
from mlem_xr.networks.modules import find_modules
from mlem_xr.networks.tokens import Tokens, encode, find_file, load_tokenizer
from mlem_xr.networks.trust import check_own_code, names_of_code
from mlem_xr.schema import InputError, first_line, listed, warn

VERSIONS = ("mlem_xr", "torch", "transformers", "numpy")
"""Packages whose versions are stored with each checkpoint."""

_SECONDS_FOR_THE_HUB = 10
"""How long to wait for a sign of life of the hub before only this machine is searched."""

_CONSTANTS = ("num_batches_tracked", "position_ids", "token_type_ids", "position_index")
"""Ends of the names of whole numbers that a network makes itself, should its files lack them."""

_MASKS = (".masked_bias", "rotary_emb.inv_freq", "position_ids")
"""Ends of the names of numbers that earlier versions of transformers saved, and networks make."""

_KINDS = {
    "AutoModel": "MODEL_MAPPING",
    "AutoModelForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING",
    "AutoModelForMaskedLM": "MODEL_FOR_MASKED_LM_MAPPING",
    "AutoModelForSeq2SeqLM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
}
"""Classes of transformers that load a network, and their tables of those that they know. All give
the same hidden states, and networks need not be in every table."""


class Network(NamedTuple):
    """What reads the sentences."""

    checkpoint: Checkpoint
    model: Any
    place: Any
    """The torch device that its inputs go to."""
    missing: dict[str, Any]
    """Weights of it that the files lack; they are NaN."""
    provenance: dict[str, Any]
    modules: dict[int, Any]
    """Its parts that are recorded, by their number; none: its hidden states are."""

    def lacking(self) -> InputError:
        """Return the error that names weights which are not there."""
        names = textwrap.shorten(", ".join(self.missing), 200)
        return InputError(
            f"model: {self.checkpoint.source!r} lacks weights that its layers need: {names}"
        )


class _Files(NamedTuple):
    """A folder, or a repository on the hub, and what may be done with it."""

    argument: str
    source: str
    revision: str | None
    trust_remote_code: bool
    unreachable: str | None = None
    """Why the hub cannot be reached, where it is needed."""
    commit: str | None = None
    """What the revision stands for on the hub at the moment; all files are taken from it."""

    @property
    def where(self) -> dict[str, Any]:
        """What all loaders of transformers take, and those of single files too."""
        revision = self.commit or self.revision
        found: dict[str, Any] = {"revision": revision} if revision else {}
        return found | ({"local_files_only": True} if self.unreachable else {})

    def __str__(self) -> str:
        return repr(self.source) + (f", revision {self.revision!r}" if self.revision else "")


def load(
    checkpoint: Checkpoint,
    sentences: list[str],
    *,
    rows: list[int],
    tokenizer: str | None,
    add_special_tokens: bool,
    truncate: bool,
    characters: bool,
    trust_remote_code: bool,
    dtype: str,
    module: str | None,
) -> tuple[Network, Tokens]:
    """Load a tokenizer, then the network into memory, and encode the sentences for it.

    `rows` has the number of each sentence, for errors; `characters` says whether the places of the
    tokens in the sentences are needed.
    """
    import transformers

    files = _find("model", checkpoint.source, checkpoint.revision, trust_remote_code)
    others = _find("tokenizer", tokenizer, None, trust_remote_code) if tokenizer else files
    with _loading(files, "a network"), _quiet(transformers):
        settings = _settings(files)
    with _loading(others, "a tokenizer"), _quiet(transformers):
        found = load_tokenizer(
            *(others.source, others.where, sentences, trust_remote_code), add_special_tokens
        )
    with _loading(files, "a network"), _quiet(transformers):
        network = _load(checkpoint, files, settings, dtype, module)
    with _loading(others, "a tokenizer"), _quiet(transformers):
        tokens = encode(
            *(found, network.model, sentences),
            add_special_tokens=add_special_tokens,
            rows=rows,
            truncate=truncate,
            characters=characters,
            source=others.source,
        )
    if others is not files:
        tokens.provenance["files"] = identities(others.source)
    return network, tokens


def _settings(files: _Files) -> dict[str, Any]:
    """Return what config.json says; refuse a network that needs code which may not run."""
    import transformers

    if find_file("adapter_config.json", files.source, files.where):
        raise InputError(
            f"model: {files} is an adapter of another network; expected a folder with all weights "
            "(merge_and_unload of the package peft makes one)"
        )
    settings, _ = transformers.PreTrainedConfig.get_config_dict(files.source, **files.where)
    if not files.trust_remote_code:
        # The table of types knows whether it has one, though mypy does not know that.
        types: Any = transformers.CONFIG_MAPPING
        known = settings.get("model_type") in types
        check_own_code(files.source, names_of_code(settings.get("auto_map")), known=known)
    return settings


def _load(
    checkpoint: Checkpoint,
    files: _Files,
    settings: dict[str, Any],
    dtype: str,
    module: str | None,
) -> Network:
    import torch
    import transformers

    options = files.where | {"trust_remote_code": files.trust_remote_code}
    config = transformers.AutoConfig.from_pretrained(files.source, **options)
    kind = getattr(torch, dtype)
    options |= {"config": config, "dtype": kind, "output_loading_info": True}
    options |= {"ignore_mismatched_sizes": True}
    whole, report, missing = _load_weights(_kind(files, config), files.source, options)
    part, model = _reader(whole)
    _check_shapes(files, report["mismatched_keys"])
    _check_part(files, whole, part, missing)
    _restore_buffers(files, whole)
    _warn_of_unused(files, whole, part, report["unexpected_keys"])
    for name, weights in whole.state_dict().items():
        # They hold random numbers now, which must not pass for trained weights.
        if name in missing and weights.is_floating_point():
            weights.fill_(torch.nan)
    for each in whole.modules():
        # Decoders would keep the keys and values of all tokens, to go on from there.
        if isinstance(getattr(each, "config", None), transformers.PreTrainedConfig):
            each.config.use_cache = False
            each.config.return_dict = True
    provenance = {
        "source": checkpoint.source,
        "revision": checkpoint.revision,
        "commit": files.commit,
        "files": identities(files.source),
        "network": {"class": type(whole).__name__, "part": part},
        **{"module": module, "dtype": dtype},
        "own_code": names_of_code(settings.get("auto_map")),
        "trust_remote_code": files.trust_remote_code,
        "configuration_hash": _configuration_hash(settings),
        "weights_hash": _weights_hash(whole),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if not hasattr(model, "config"):
        model.config = whole.config
    model.eval()
    modules = {} if module is None else find_modules(model, module)
    prefix = f"{part}." if part else ""
    there = {f"{prefix}{name}": weights for name, weights in model.state_dict().items()}
    lacks = {
        name: weights
        for name, weights in there.items()
        if name in missing and not name.endswith(_CONSTANTS)
    }
    return Network(checkpoint, model, torch.device("cpu"), lacks, provenance, modules)


def _load_weights(kind: Any, source: str, options: dict[str, Any]) -> tuple[Any, Any, set[str]]:
    """Load a network; return it, the report, and names of missing weights.

    Some networks are loaded without a word about weights that they may lack. Of those, a second
    time shows which are random; the others are constants.
    """
    import torch

    def load(seed: int) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            whole, report = kind.from_pretrained(source, **options)
        # In half precision some parts stay as they are: frequencies of positions, for one.
        return (whole.float() if options["dtype"] is torch.float32 else whole), report

    whole, report = load(0)
    missing = set(report["missing_keys"])
    if getattr(whole, "_keys_to_ignore_on_load_missing", None):
        others = load(1)[0].state_dict()
        missing |= {name for name, w in whole.state_dict().items() if not w.equal(others[name])}
    return whole, report, missing


def _restore_buffers(files: _Files, whole: Any) -> None:
    """Give a network with code of its own the numbers that it makes, and no file has.

    transformers makes a network without room for its numbers, and then gives it room where nothing
    is written. Its own networks know how to fill that; others are made once more.
    """
    import torch

    kept = set(whole.state_dict())
    buffers = {name: one for name, one in whole.named_buffers() if name not in kept}
    if not buffers or type(whole).__module__.startswith("transformers."):
        return

    def made(seed: int) -> dict[str, Any]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return dict(type(whole)(copy.deepcopy(whole.config)).named_buffers())

    first, second = made(0), made(1)
    for name in sorted(buffers.keys() & first.keys()):
        if not first[name].equal(second[name]):
            raise InputError(
                f"model: {files} makes its numbers {name} at random, and its files lack them; "
                "expected a network without randomness"
            )
        buffers[name].copy_(first[name])


def _kind(files: _Files, config: Any) -> Any:
    """Return the class of transformers that loads a network."""
    import transformers

    own = getattr(config, "auto_map", None) or {}
    for name, table in _KINDS.items():
        trusted = files.trust_remote_code and name in own
        if trusted or type(config) in getattr(transformers, table):
            return getattr(transformers, name)
    raise InputError(
        f"model: {files} is a network of type {config.model_type!r}, which is none that reads "
        "sentences alone; expected an encoder or decoder of sentences"
    )


def _reader(whole: Any) -> tuple[str | None, Any]:
    """Return the part of a network that reads sentences, and its name; None for the whole.

    Of an encoder and a decoder it is the encoder; of a network of texts and images, what reads the
    texts; without a head that makes words of the last layer.
    """
    import transformers

    model = whole
    if whole.config.is_encoder_decoder or (hasattr(whole, "encoder") and hasattr(whole, "decoder")):
        encoder = whole.get_encoder()
        if "input_ids" in inspect.signature(encoder.forward).parameters:
            model = encoder
    else:
        text = whole.config.get_text_config()
        parts = (p for p in whole.modules() if isinstance(p, transformers.PreTrainedModel))
        model = next((part for part in parts if part.config is text), whole)
        if model.get_output_embeddings() is not None:
            model = model.base_model
    name = next(name for name, module in whole.named_modules() if module is model)
    return name or None, model


def _check_shapes(files: _Files, mismatched: Iterable[tuple[str, Any, Any]]) -> None:
    wrong = [
        f"{name} {tuple(found)} instead of {tuple(expected)}"
        for name, found, expected in sorted(mismatched)
    ]
    if wrong:
        raise InputError(
            f"model: {files} has weights of other shapes than its config.json says: "
            + textwrap.shorten("; ".join(wrong), 200)
        )


def _check_part(files: _Files, whole: Any, part: str | None, missing: set[str]) -> None:
    """Refuse a network whose files lack all weights of the part that reads the sentences."""
    needed = [name for name, _ in whole.named_parameters() if name.startswith(f"{part}.")]
    if needed and set(needed) <= missing:
        raise InputError(
            f"model: {files} ({type(whole).__name__}) has no weights of its {part}, which reads "
            "the sentences; expected the whole network, and not its decoder alone"
        )


def _warn_of_unused(files: _Files, whole: Any, part: str | None, unexpected: Iterable[str]) -> None:
    """Warn of weights in layers of what reads the sentences; those of a head are not needed."""

    def stack(name: str) -> str | None:
        """Return what the layers of a weight are called, without their number."""
        found = re.match(r"(.*?\.)?(?=[0-9]+\.)", name.removeprefix(f"{whole.base_model_prefix}."))
        return found and found[0]

    prefix = f"{part}." if part else ""
    stacks = {stack(name) for name in whole.state_dict() if name.startswith(prefix)} - {None}
    unused = [
        name for name in sorted(unexpected) if stack(name) in stacks and not name.endswith(_MASKS)
    ]
    if unused:
        warn(
            f"model: {files} has {len(unused)} weights of layers that {type(whole).__name__} does "
            "not have, as its config.json describes it, and which are not used: "
            + textwrap.shorten(", ".join(unused), 200)
        )


def _find(argument: str, source: str, revision: str | None, trust_remote_code: bool) -> _Files:
    """Say where files are, and whether the hub can be asked for them.

    transformers asks an unreachable hub for minutes, file by file; here it is asked once, and then
    only this machine is searched.
    """
    files = _Files(argument, source, revision, trust_remote_code)
    if Path(source).is_dir():
        _check_folder(files)
        return files
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(source)
    except HFValidationError as error:
        raise InputError(
            f"{argument}: cannot load {files}; there is no such folder, and it is no name on the "
            f"Hugging Face hub ({first_line(error)})"
        ) from error
    files = files._replace(unreachable=_hub_error())
    with _loading(files, "a network" if argument == "model" else "a tokenizer"):
        # Downloaded files are in folders that are called like the commit.
        path = find_file("config.json", source, files.where)
    return files._replace(commit=Path(path).parent.name if path else None)


def _hub_error() -> str | None:
    """Say why the Hugging Face hub cannot be reached; None if it answers, be it slowly."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_SECONDS_FOR_THE_HUB)
    except Exception as error:
        # Which exceptions there are depends on the library that huggingface_hub asks with.
        slow = "ReadTimeout" in type(error).__name__
        return None if slow else first_line(error) or type(error).__name__
    return None


def _check_folder(files: _Files) -> None:
    folder = Path(files.source)
    configurations = [p for p in folder.glob("*/config.json") if b'"model_type"' in p.read_bytes()]
    inside = sorted(path.parent.name for path in configurations)
    if files.argument == "model" and not (folder / "config.json").is_file() and inside:
        raise InputError(
            f"model: cannot load {files}; the folder has no config.json, but there is one in "
            f"{listed(inside)}; expected the folder of the network itself"
        )


def _configuration_hash(settings: dict[str, Any]) -> str:
    """Hash what config.json says, but for where it was saved and by which version."""
    kept = {
        name: value
        for name, value in settings.items()
        if not name.startswith("_") and name != "transformers_version"
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _weights_hash(model: Any) -> str:
    import torch

    digest = hashlib.sha256()
    for name, weights in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(weights.shape)} {weights.dtype}".encode())
        digest.update(weights.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_models() -> None:
    """Refuse to go on where what runs a network is not installed."""
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f'recording needs torch and transformers ({error}): pip install "mlem_xr[models]"'
        ) from error


@contextmanager
def _loading(files: _Files, expected: str) -> Iterator[None]:
    """Turn whatever transformers raises about a network into one error that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if files.unreachable:
            raise InputError(
                f"{files.argument}: cannot load {files}; it is neither a folder nor on this "
                f"machine, and the Hugging Face hub cannot be reached ({files.unreachable})"
            ) from error
        raise InputError(
            f"{files.argument}: cannot load {files}; expected a name on the Hugging Face hub or a "
            f"folder with {expected} ({type(error).__name__}: {first_line(error)})"
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
