"""Commands about sentences and stores."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mlem_xr.cli.options import Stimuli, Store, TableFile
from mlem_xr.cli.output import out, print_table
from mlem_xr.schema import CELL


def stimuli(
    source: Annotated[
        str | None, typer.Argument(help="Name of a bundled set, a grammar, or a table.")
    ] = None,
    output: TableFile = None,
    lexicon: Annotated[Path | None, typer.Option(help="Lexicon of an own grammar.")] = None,
    words_per_class: Annotated[
        int | None, typer.Option(help="Words of each class to use at most.")
    ] = None,
    describe: Annotated[bool, typer.Option("--describe", help="Describe the set.")] = False,
    heat_map: Annotated[
        Path | None, typer.Option(help="With --describe: where to draw the correlations.")
    ] = None,
) -> None:
    """List the stimulus sets, or write or describe one."""
    from mlem_xr.stimuli import list_stimuli, write_stimuli

    if source is None:
        for name, description in list_stimuli().items():
            out.print(f"{name:24}{description}")
        return
    table = _read_or_generate(source, lexicon, words_per_class)
    out.print(f"{table.sizes['sentence']} sentences, {len(table.attrs['features'])} features")
    if output is not None:
        write_stimuli(table, output)
        out.print(f"wrote {output}")
    if describe:
        _describe(table, heat_map)


def record(
    source: Stimuli,
    *,
    model: Annotated[str, typer.Option(help="A hub name, a local folder, or a known series.")],
    store: Annotated[Path, typer.Option(help="Folder of the store; made if it does not exist.")],
    seed: Annotated[list[int] | None, typer.Option(help="Seed of the network. Repeatable.")] = None,
    step: Annotated[list[int] | None, typer.Option(help="Training step. Repeatable.")] = None,
    weights: Annotated[
        str | None,
        typer.Option("--source", help="Where the weights are, with {model}, {seed}, {step}."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Revision on the hub.")] = None,
    pooling: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
    layer: Annotated[list[int] | None, typer.Option(help="0: embeddings. Repeatable.")] = None,
    special_tokens: Annotated[
        bool, typer.Option(help="Add the tokenizer's special tokens.")
    ] = True,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    batch_size: Annotated[int, typer.Option(help="Sentences per batch.")] = 64,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Record again.")] = False,
) -> None:
    """Record the activations of a network into a store."""
    import mlem_xr as mx

    summary = mx.record(
        source,
        store,
        model=model,
        seed=seed or 0,
        step=step or None,
        source=weights,
        revision=revision,
        pooling=pooling or mx.schema.POOLINGS,
        layer=layer or None,
        add_special_tokens=special_tokens,
        device=device,
        batch_size=batch_size,
        overwrite=overwrite,
    )
    print_table(summary)


def info(store: Store) -> None:
    """Say what a store holds."""
    import mlem_xr as mx

    data = mx.open_store(store)
    features = ", ".join(data.attrs["features"])
    out.print(f"{data.attrs['stimuli']}: {data.sizes['sentence']} sentences; {features}")
    for dim in CELL:
        out.print(f"{dim}: {', '.join(map(str, data[dim].values))}")
    out.print(f"units: up to {data.sizes['unit']}")
    recorded = data["recorded"].to_dataframe()
    recorded["source"] = [
        json.loads(text).get("source", "") if text else ""
        for text in data["provenance"].values.ravel()
    ]
    print_table(recorded[recorded["recorded"]].reset_index()[["model", "seed", "step", "source"]])
    saved = mx.list_results(store)
    if len(saved):
        print_table(saved.drop(columns="settings"))


def _read_or_generate(source: str, lexicon: Path | None, words_per_class: int | None) -> Any:
    from mlem_xr.stimuli import generate_stimuli, list_stimuli, read_stimuli

    is_grammar = source in list_stimuli() or source.endswith(".fcfg")
    if is_grammar or lexicon is not None or words_per_class is not None:
        return generate_stimuli(source, lexicon=lexicon, words_per_class=words_per_class)
    return read_stimuli(source)


def _describe(table: Any, heat_map: Path | None) -> None:
    from mlem_xr import plot
    from mlem_xr.describe import describe_stimuli, description_text
    from mlem_xr.pairs import feature_correlation

    out.print(description_text(describe_stimuli(table)))
    path = heat_map or Path(f"{table.attrs['stimuli']}_correlation.png")
    plot.save(plot.correlation(feature_correlation(table)), path)
    out.print(f"wrote {path}")
