"""Sentences -> the tokens that a network was trained with, or an error that says why not."""

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import category, normalize

from mlem_xr.networks.trust import check_own_code, names_of_code
from mlem_xr.schema import InputError, warn

_MOST_UNKNOWN = 0.5
"""Share of unknown tokens from which the tokens cannot be those of the network."""

_NO_LIMIT = 2**31
"""Tokens that no sentence has."""

_SPACES = "\u2581\u0120"
"""Characters that stand for a space in SentencePiece and in pairs of bytes."""

_SHOWN = 5
"""Unknown words that a warning names; tokens of a sentence."""


class Tokens(NamedTuple):
    """The tokens of all sentences."""

    inputs: dict[str, list[list[int]]]
    """Name of an input of the network to the tokens of each sentence, as long as it is."""
    characters: list[list[tuple[int, int]]] | None
    """The first character of each token, and the one after its last, where they were asked for."""
    provenance: dict[str, Any]
    """Which tokenizer made them, and how they look."""
    uncut: list[list[tuple[int, int]]] | None = None
    """The characters of each token before the sentences were cut, where they were asked for."""


def load_tokenizer(
    source: str,
    where: dict[str, Any],
    sentences: list[str],
    trust_remote_code: bool,
    add_special_tokens: bool = True,
) -> Any:
    """Load the tokenizer of a network, which gives the sentences the ids of its own files.

    transformers makes up an empty vocabulary where the files are missing, and for some types of
    networks takes their usual tokenizer in place of the one that wrote `tokenizer.json`. `where`
    is what it takes to find files: revision and the like.
    """
    import transformers
    from tokenizers import Tokenizer

    tokenizer = _from_auto(source, where, trust_remote_code)
    _check_files(tokenizer, source, where)
    path = find_file("tokenizer.json", source, where)
    if path is None:
        return tokenizer
    own = Tokenizer.from_file(path)
    own.no_truncation()
    own.no_padding()

    def are_of_file(found: Any, special: bool) -> bool:
        expected = own.encode_batch(sentences, add_special_tokens=special)
        return _ids(found, sentences, special) == [one.ids for one in expected]

    if are_of_file(tokenizer, False):
        if not add_special_tokens or are_of_file(tokenizer, True):
            return tokenizer
        if _is_told(tokenizer, source, where):
            return tokenizer
    else:
        tokenizer = None
    of_file = transformers.PreTrainedTokenizerFast.from_pretrained(source, **where)
    if tokenizer is not None:
        # Code of its own may well add others on purpose.
        is_known = type(tokenizer).__module__.startswith("transformers.")
        used = of_file if is_known and are_of_file(of_file, True) else tokenizer
        _warn_of_special(tokenizer, own, used is of_file, sentences, source)
        return used
    if are_of_file(of_file, False):
        return of_file
    raise InputError(
        f"model: the tokenizer of {source!r} does not give the tokens of its tokenizer.json; "
        "expected a folder or hub name with the tokenizer that the network was trained with, "
        "as tokenizer="
    )


def _is_told(tokenizer: Any, source: str, where: dict[str, Any]) -> bool:
    """Whether tokenizer_config.json says which special tokens there are, and they are so."""
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    settings = get_tokenizer_config(source, **where)
    told = [settings.get(f"add_{name}_token") for name in ("bos", "eos")]
    ids = tokenizer("a", verbose=False)["input_ids"] or [None]
    found = [ids[0] == tokenizer.bos_token_id, ids[-1] == tokenizer.eos_token_id]
    pairs = [one for one in zip(told, found, strict=True) if one[0] is not None]
    return bool(pairs) and all(said == so for said, so in pairs)


def _warn_of_special(
    tokenizer: Any, own: Any, is_own: bool, sentences: list[str], source: str
) -> None:
    """Warn that a class of transformers adds other special tokens than tokenizer.json."""
    both = ((tokenizer(s, verbose=False)["input_ids"], own.encode(s)) for s in sentences)
    ids, expected = next((ids, one) for ids, one in both if ids != one.ids)
    used = "those of the file" if is_own else f"those of {type(tokenizer).__name__}"
    warn(
        f"model: {source!r} has a tokenizer of the class {type(tokenizer).__name__}, which gives "
        f"{_shown(tokenizer.convert_ids_to_tokens(ids))}; its tokenizer.json gives "
        f"{_shown(expected.tokens)}; {used} are used"
    )


def _shown(tokens: list[str]) -> str:
    """Show the first and the last tokens of a sentence."""
    return str(tokens if len(tokens) <= _SHOWN else [*tokens[:3], "...", *tokens[-2:]])


def encode(
    tokenizer: Any,
    model: Any,
    sentences: list[str],
    *,
    add_special_tokens: bool,
    source: str,
    rows: Sequence[int],
    truncate: bool = False,
    characters: bool = False,
) -> Tokens:
    """Encode sentences for a network, and check that they can be what it was trained with.

    Sentences that are too long are cut if `truncate` says so. `rows` has the number of each
    sentence, for errors.

    Raises `InputError` if a sentence has no tokens of its own or too many, a token has no
    embedding, or most are unknown; warns of unknown words, of special tokens in a sentence, and of
    different sentences with the same tokens.
    """
    options: dict[str, Any] = {"add_special_tokens": add_special_tokens, "padding": False}
    most = _most_tokens(model, tokenizer)
    length: dict[str, Any] = {"truncation": False}
    if truncate and most < math.inf:
        length = {"truncation": True, "max_length": most}
    if characters and not tokenizer.is_fast:
        raise InputError(
            f"pooling: 'target' needs a tokenizer that says which characters a token is; "
            f"{type(tokenizer).__name__} of {source!r} does not; expected a fast one, as tokenizer="
        )
    options |= {"return_offsets_mapping": characters, "verbose": False}
    encoded = tokenizer(sentences, **options, **length)
    uncut = tokenizer(sentences, **options, truncation=False) if truncate else encoded
    n_truncated = sum(len(tokens) > most for tokens in uncut["input_ids"])
    ids = encoded["input_ids"]
    plain = tokenizer(
        sentences,
        add_special_tokens=False,
        return_offsets_mapping=tokenizer.is_fast,
        verbose=False,
    )
    _check_special(tokenizer, plain["input_ids"], sentences, source, rows)
    _check_lengths(ids, sentences, most, source, rows)
    largest = max(map(max, ids))
    n_embeddings = _n_embeddings(model)
    if n_embeddings is not None and largest >= n_embeddings:
        raise InputError(
            f"model: the tokenizer of {source!r} gives token {largest}, but the network has "
            f"{n_embeddings} embeddings; expected its own tokenizer, as tokenizer="
        )
    unknown = _share_of_unknown(tokenizer, plain, sentences, source)
    _warn_of_equal(ids, sentences, source)
    names = ["input_ids", *(["token_type_ids"] if _has_token_types(model) else [])]
    return Tokens(
        {name: encoded[name] for name in names if name in encoded},
        _places(tokenizer, encoded) if characters else None,
        {
            "class": type(tokenizer).__name__,
            "add_special_tokens": add_special_tokens,
            "truncate": truncate,
            **({"n_truncated": n_truncated} if truncate else {}),
            "largest_id": largest,
            "n_embeddings": n_embeddings,
            "share_of_unknown": round(unknown, 4),
            "n_distinct": len({tuple(one) for one in ids}),
        },
        _places(tokenizer, uncut) if characters else None,
    )


def _places(tokenizer: Any, encoded: Any) -> list[list[tuple[int, int]]]:
    """Return the first character of each token and the one after its last; a space has none.

    At the start of a sentence the space that SentencePiece adds is said to be the first letter; a
    word would have a token more there than elsewhere.
    """
    known = set().union(*encoded["input_ids"])
    spaces = {i for i in known if not tokenizer.convert_ids_to_tokens(i).strip(_SPACES)}
    both = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [
        [(a, a) if i in spaces else (a, b) for i, (a, b) in zip(*one, strict=True)] for one in both
    ]


def tokens_of(
    spans: Iterable[tuple[int, tuple[int, int]]], tokens: Tokens, sentences: list[str]
) -> list[list[int]]:
    """Return the tokens that share characters with parts of sentences.

    Each span is the position of a sentence and its first character and the one after the last.
    """
    assert tokens.characters is not None and tokens.uncut is not None
    found = []
    for row, (which, span) in enumerate(spans, 1):
        own = _inside(span, tokens.characters[which])
        n_uncut = len(_inside(span, tokens.uncut[which]))
        if len(own) < n_uncut or not own:
            has = f"{len(own) or 'no'} tokens" + f", of {n_uncut} before it was cut" * bool(n_uncut)
            raise InputError(
                f"stimuli: the target in row {row}, {sentences[which][slice(*span)]!r}, has {has}; "
                "expected a part of the sentence that the tokenizer keeps"
            )
        found.append(own)
    return found


def _inside(span: tuple[int, int], places: list[tuple[int, int]]) -> list[int]:
    """Return the tokens that share characters with a part of a sentence."""
    start, end = span
    return [i for i, (a, b) in enumerate(places) if max(a, start) < min(b, end)]


def _from_auto(source: str, where: dict[str, Any], trust_remote_code: bool) -> Any:
    import transformers
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    own_code = names_of_code(get_tokenizer_config(source, **where).get("auto_map"))
    load = transformers.AutoTokenizer.from_pretrained
    try:
        tokenizer = load(source, trust_remote_code=trust_remote_code, **where)
    except Exception:
        if own_code and not trust_remote_code:
            check_own_code(source, own_code, known=False)
        raise
    if not trust_remote_code:
        check_own_code(source, own_code, known=True)
    return tokenizer


def _ids(tokenizer: Any, sentences: list[str], special: bool = False) -> list[list[int]]:
    return tokenizer(sentences, add_special_tokens=special, verbose=False)["input_ids"]


def find_file(name: str, source: str, where: dict[str, Any]) -> str | None:
    """Return where a file of a network is on this machine; None if it has none of that name."""
    from transformers.utils import cached_file

    quiet = dict.fromkeys(
        (
            "_raise_exceptions_for_gated_repo",
            "_raise_exceptions_for_missing_entries",
            "_raise_exceptions_for_connection_errors",
        ),
        False,
    )
    return cached_file(source, name, **where, **quiet)


def _check_files(tokenizer: Any, source: str, where: dict[str, str]) -> None:
    names = list(tokenizer.vocab_files_names.values())
    if names and not any(find_file(name, source, where) for name in ["tokenizer.json", *names]):
        kind = "folder" if Path(source).is_dir() else "repository"
        raise InputError(
            f"model: the {kind} {source!r} has no tokenizer: none of {', '.join(sorted(names))}; "
            "expected them beside the weights, or another folder or hub name as tokenizer="
        )


def _check_special(
    tokenizer: Any,
    ids: list[list[int]],
    sentences: list[str],
    source: str,
    rows: Sequence[int],
) -> None:
    """Refuse sentences of special tokens alone; warn of one that looks like them in a part."""
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id, tokenizer.mask_token_id}
    for i, tokens in enumerate(ids):
        if not set(tokens) - special:
            raise InputError(
                f"stimuli: the sentence in row {rows[i]}, {textwrap.shorten(sentences[i], 60)!r}, "
                f"has no tokens for {source!r}, or special ones alone; expected at least one"
            )
    for sentence, tokens in zip(sentences, ids, strict=True):
        found = [one for one in tokens if one in special]
        if found:
            warn(
                f"model: {tokenizer.convert_ids_to_tokens(found[0])!r} in {sentence!r} is a "
                f"special token of {source!r}"
            )
            return


def _check_lengths(
    ids: list[list[int]], sentences: list[str], most: float, source: str, rows: Sequence[int]
) -> None:
    lengths = [len(tokens) for tokens in ids]
    longer = [i for i, n in enumerate(lengths) if n > most]
    if longer:
        i = max(longer, key=lambda i: lengths[i])
        raise InputError(
            f"stimuli: {len(longer)} of {len(ids)} sentences are too long for {source!r}; the "
            f"longest, {textwrap.shorten(sentences[i], 60)!r} in row {rows[i]}, has "
            f"{lengths[i]} tokens; expected at most {most}, or truncate=True"
        )


def _most_tokens(model: Any, tokenizer: Any) -> float:
    """Return how many tokens a network takes; infinity where nothing says it."""
    names = ("max_position_embeddings", "max_encoder_position_embeddings")
    limits = [tokenizer.model_max_length, *(getattr(model.config, name, None) for name in names)]
    for name, module in model.named_modules():
        # RoBERTa and its kin count positions from beyond that of the padding token.
        padding = getattr(module, "padding_idx", None)
        weight = getattr(module, "weight", None)
        if name.endswith("position_embeddings") and padding is not None and weight is not None:
            limits.append(len(weight) - padding - 1)
    # Tokenizers that do not know it say 1e30.
    known = [int(one) for one in limits if one is not None and 0 < one < _NO_LIMIT]
    return min(known, default=math.inf)


def _n_embeddings(model: Any) -> int | None:
    """Count the embeddings of tokens; None for networks that have no table of them."""
    try:
        return getattr(model.get_input_embeddings(), "num_embeddings", None)
    except (AttributeError, NotImplementedError):
        return None


def _has_token_types(model: Any) -> bool:
    # Without a table of their own, GPT-2 takes them for tokens and adds their embeddings.
    # TAPAS has one table for each of several types, and takes no others.
    ends = ("token_type_embeddings.weight", "seg_embed")
    return any(name.endswith(ends) for name, _ in model.named_parameters())


def _share_of_unknown(tokenizer: Any, plain: Any, sentences: list[str], source: str) -> float:
    """Return the share of tokens that are unknown, or words that have none; warn of them."""
    unknown = tokenizer.unk_token_id
    ids = plain["input_ids"]
    places = plain["offset_mapping"] if tokenizer.is_fast else []
    lost = [word for s, at in zip(sentences, places, strict=False) for word in _dropped(s, at)]
    n_unknown = 0 if unknown is None else sum(tokens.count(unknown) for tokens in ids)
    share = (n_unknown + len(lost)) / max(1, sum(map(len, ids)) + len(lost))
    if share == 0:
        return share
    affected = (s for s, tokens in zip(sentences, ids, strict=True) if unknown in tokens)
    words = list(dict.fromkeys(word for sentence in affected for word in sentence.split()))
    alone = dict(zip(words, _ids(tokenizer, words), strict=True)) if words else {}
    strange = [word for word, tokens in alone.items() if unknown in tokens]
    strange = list(dict.fromkeys([*strange, *lost]))
    named = ", ".join(map(repr, strange[:_SHOWN])) + (", ..." if len(strange) > _SHOWN else "")
    message = f"{share:.0%} of the tokens are unknown to the tokenizer of {source!r}: {named}"
    if share > _MOST_UNKNOWN:
        raise InputError(
            f"model: {message}; expected the tokenizer that the network was trained with, "
            "as tokenizer="
        )
    warn(f"model: {message}")
    return share


def _dropped(sentence: str, places: Iterable[tuple[int, int]]) -> list[str]:
    """List the words that no token is of, or that have letters that no token is of.

    Marks may go, as accents do, and so may what is joined with the character before it.
    """
    covered = bytearray(len(sentence))
    for start, end in places:
        covered[start:end] = b"\1" * (end - start)
    bare = {i for i, c in enumerate(sentence) if not covered[i] and category(c)[0] in "LNPS"}
    letters = {i for i in bare if sentence[i].isalnum() and not _is_joined(sentence, i)}
    found = []
    for word in re.finditer(r"\S+", sentence) if bare else ():
        own = set(range(*word.span()))
        shown = {i for i in own if covered[i]}
        if own & letters or (own & bare and not shown):
            found.append(word[0])
    return found


def _is_joined(sentence: str, i: int) -> bool:
    return i > 0 and len(normalize("NFC", sentence[i - 1 : i + 1])) == 1


def _warn_of_equal(ids: list[list[int]], sentences: list[str], source: str) -> None:
    first: dict[tuple[int, ...], str] = {}
    for tokens, sentence in zip(ids, sentences, strict=True):
        known = first.setdefault(tuple(tokens), sentence)
        if known != sentence:
            warn(f"model: {known!r} and {sentence!r} have the same tokens for {source!r}")
            return
