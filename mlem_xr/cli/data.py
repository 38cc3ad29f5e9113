"""Commands about sentences and stores."""

import json
from shlex import quote
from typing import Any

import click
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

import mlem_xr as mx
from mlem_xr.cli.options import TypedPath, on_cluster, pairs, read_stimuli, with_roles
from mlem_xr.cli.output import print_table, show_warning
from mlem_xr.running.writing import check_path
from mlem_xr.schema import (
    CHECKPOINT,
    FINAL,
    FINAL_STEP,
    NUMERIC,
    POOLINGS,
    REPRESENTATION,
    InputError,
    columns_of_feature,
    kind_of,
)

_PATH = TypedPath()


@with_roles
@click.command()
@click.argument("source", required=False)
@click.option("--output", "-o", type=_PATH, help="Write a table: .csv, .csv.gz or .parquet.")
@click.option("--lexicon", type=_PATH, help="Lexicon of an own grammar.")
@click.option("--words-per-class", type=int, help="Words of each class to use at most.")
@click.option("--n-sentences", type=int, help="Draw so many sentences of a grammar at random.")
@click.option("--random-state", type=int, default=0, help="Seed of the draw.")
@click.option("--describe", is_flag=True, help="Describe the set.")
@click.option("--heat-map", type=_PATH, help="Describe the set, and draw its correlations here.")
def stimuli(
    source: str | None,
    output: str | None,
    lexicon: str | None,
    words_per_class: int | None,
    n_sentences: int | None,
    random_state: int,
    describe: bool,
    heat_map: str | None,
    **roles: tuple[str, ...],
) -> None:
    """List the stimulus sets, or write or describe one: a bundled name, a grammar or a table."""
    if heat_map is not None:
        check_path(heat_map, mx.plot.FORMATS)
    if source is None:
        for name, description in mx.list_stimuli().items():
            click.echo(f"{name:24}{description}")
        return
    table: Any = source
    drawn: dict[str, Any] = {
        "lexicon": lexicon,
        "words_per_class": words_per_class,
        "n_sentences": n_sentences,
        "random_state": random_state or None,
    }
    drawn = {name: value for name, value in drawn.items() if value is not None}
    if drawn:
        table = mx.generate_stimuli(source, **drawn)
    table = read_stimuli(table, **roles)
    click.echo(f"{table.sizes['sentence']} sentences, {len(table.attrs['features'])} features")
    if "items" in table.attrs:
        click.echo(f"items: {', '.join(table.attrs['items'])}")
    if output is not None:
        mx.write_stimuli(table, output)
        options = _roles(table)
        click.echo(f"wrote {output}" + (f"; read it with{options}" if options else ""))
    if describe or heat_map is not None:
        _describe(table, heat_map)


def _roles(table: xr.Dataset) -> str:
    """Write the options with which a table is read as it was."""
    names = table.attrs["features"]
    words = [("item", column) for column in table.attrs.get("items", [])]
    words += [("numeric", name) for name in names if kind_of(table, name) == NUMERIC]
    for name in names:
        if kind_of(table, name) == "vector":
            columns = columns_of_feature(table, name)
            words += [("vector", f"{name}={column}") for column in columns]
    return "".join(f" --{option} {quote(word)}" for option, word in words)


@on_cluster
@with_roles
@click.command()
@click.argument("source", metavar="STIMULI")
@click.option(
    "--model",
    required=True,
    help="Label of the network in the store, and without --source where it is: a hub name, a local "
    "folder (labeled by its name), or a published series such as multiberts.",
)
@click.option("--store", required=True, type=_PATH, help="The store; made if there is none.")
@click.option("--seed", type=int, multiple=True, help="Seed of the network. Repeatable.")
@click.option("--step", type=int, multiple=True, help="Training step. Repeatable.")
@click.option(
    "--source",
    "weights",
    help="Hub name or folder of the weights, in which {model}, {seed} and {step} are filled in; "
    "--model is then any label.",
)
@click.option(
    "--revision",
    multiple=True,
    help="Revision on the hub, or STEP=REVISION for each step. Repeatable.",
)
@click.option(
    "--pooling",
    multiple=True,
    help="first-token, mean, last-token or target: the word that a column of the stimuli names. "
    "Repeatable.",
)
@click.option("--layer", type=int, multiple=True, help="0: embeddings. Repeatable.")
@click.option(
    "--module",
    help="Record the outputs of these parts of the network, such as "
    "encoder.layer.{layer}.attention.output.dense.",
)
@click.option(
    "--special-tokens/--no-special-tokens",
    default=True,
    help="Add the tokenizer's special tokens.",
)
@click.option("--truncate", is_flag=True, help="Cut sentences that are too long for the network.")
@click.option("--tokenizer", help="Hub name or folder of the tokenizer, if not beside the weights.")
@click.option(
    "--trust-remote-code", is_flag=True, help="Run the code that a network brings; read it first."
)
@click.option("--device", help="cpu, cuda, ...")
@click.option(
    "--device-map", help="auto: the network is spread over all GPUs, if none can hold it whole."
)
@click.option(
    "--dtype",
    default="float32",
    show_default=True,
    help="What the network computes in: float32, bfloat16 or float16.",
)
@click.option("--batch-size", type=int, default=64, show_default=True, help="Sentences per batch.")
@click.option(
    "--keep-weights/--no-keep-weights",
    default=True,
    help="Keep weights that are downloaded.",
)
@click.option("--overwrite", is_flag=True, help="Record again.")
def record(source: str, weights: str | None, special_tokens: bool, **given: Any) -> None:
    """Record the activations of a network into a store."""
    table = mx.record(
        read_stimuli(source, given["items"], given["numeric"], given["vector"]),
        given["store"],
        model=given["model"],
        seed=given["seed"] or 0,
        step=given["step"] or None,
        source=weights,
        revision=_revision(given["revision"]),
        pooling=given["pooling"] or POOLINGS,
        layer=given["layer"] or None,
        module=given["module"],
        add_special_tokens=special_tokens,
        truncate=given["truncate"],
        tokenizer=given["tokenizer"],
        trust_remote_code=given["trust_remote_code"],
        device=given["device"],
        device_map=given["device_map"],
        dtype=given["dtype"],
        batch_size=given["batch_size"],
        keep_weights=given["keep_weights"],
        overwrite=given["overwrite"],
    )
    # Why others failed has been said of each.
    print_table(table.drop(columns="cause"))
    n_failed = int((table["status"] == "failed").sum())
    if n_failed:
        click.echo(
            f"error: {n_failed} of {len(table)} checkpoints failed; the same command tries these "
            "again",
            err=True,
        )
        click.get_current_context().exit(1)


def _revision(words: tuple[str, ...]) -> Any:
    """Return the one revision, or those of steps."""
    if len(words) == 1 and "=" not in words[0]:
        return words[0]
    named = pairs("revision", words)
    wrong = [step for step in named if not step.isdecimal()]
    if wrong:
        raise InputError(f"revision: found the step {wrong[0]!r}; expected a number")
    return {int(step): name for step, name in named.items()} or None


@on_cluster
@click.command()
@click.argument("store", type=_PATH)
@click.option("--detail", is_flag=True, help="List the results of every representation.")
@click.option(
    "--verify",
    is_flag=True,
    help="Read everything instead, and name what is damaged; exit code 1 if anything is.",
)
@click.option(
    "--repair",
    is_flag=True,
    help="Read everything instead, remove what killed processes left, and mark what is damaged, so "
    "that record and the analyses make it again; exit code 1 if anything damaged is left.",
)
def info(store: str, detail: bool, verify: bool, repair: bool) -> None:
    """Say what a store holds."""
    asked = {"detail": detail, "verify": verify, "repair": repair}
    found = [name for name, is_asked in asked.items() if is_asked]
    if len(found) > 1:
        raise InputError(f"{found[0]}: found with --{found[1]}; expected one alone")
    if verify or repair:
        _verify(store) if verify else _repair(store)
        return
    data = mx.open_store(store)
    features = ", ".join(data.attrs["features"])
    click.echo(f"{data.attrs['stimuli']}: {data.sizes['sentence']} sentences; {features}")
    if "items" in data.attrs:
        click.echo(f"items: {', '.join(data.attrs['items'])}")
    if "module" in data.attrs:
        click.echo(f"module: {data.attrs['module']}")
    for dim in REPRESENTATION:
        click.echo(f"{dim}: {', '.join(map(_shown, data[dim].values))}")
    print_table(_recorded(data))
    for checkpoint in _with_missing_chunks(data):
        show_warning(f"chunks of {checkpoint} are missing; record it again")
    saved = mx.list_results(store, detail=detail)
    if len(saved):
        print_table(saved)


def _verify(store: str) -> None:
    damaged = mx.verify_store(store)
    if len(damaged):
        print_table(damaged)
        click.get_current_context().exit(1)


def _repair(store: str) -> None:
    table = mx.repair_store(store)
    if len(table):
        print_table(table)
    if table["done"].str.startswith("left").any():
        click.get_current_context().exit(1)


def _recorded(data: xr.Dataset) -> pd.DataFrame:
    """List the checkpoints, and which poolings, layers and units there are of each."""
    rows = []
    for where in np.argwhere(data["recorded"].values):
        one = data[["n_units", "provenance"]].isel(dict(zip(CHECKPOINT, where, strict=True)))
        units = one["n_units"]
        rows.append(
            {dim: _shown(one[dim].item()) for dim in CHECKPOINT}
            | {"pooling": ", ".join(one["pooling"].values[units.any("layer")])}
            | {"layer": _runs(one["layer"].values[units.any("pooling")])}
            | {"units": _runs(np.unique(units.values[units.values > 0]))}
            | {"source": json.loads(one["provenance"].item()).get("source", "")}
        )
    return pd.DataFrame(rows)


def _with_missing_chunks(data: xr.Dataset) -> list[str]:
    recorded = data["recorded"].to_series()
    labels = {dim: data[dim].values.tolist() for dim in CHECKPOINT}
    missing = set(mx.missing_checkpoints(data.attrs["store"], **labels))
    return [
        ", ".join(f"{dim}={label}" for dim, label in zip(CHECKPOINT, one, strict=True))
        for one in recorded.index[recorded]
        if one in missing
    ]


def _runs(numbers: NDArray) -> str:
    """List ascending numbers; those that follow one another as in "1-12"."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _shown(label: Any) -> str:
    return FINAL if label == FINAL_STEP else str(label)


def _describe(table: Any, heat_map: str | None) -> None:
    from mlem_xr.stimuli.describe import description_text

    click.echo(description_text(mx.describe_stimuli(table)))
    if heat_map is not None:
        mx.plot.save(mx.plot.correlation(mx.feature_correlation(table)), heat_map)
        click.echo(f"wrote {heat_map}")
