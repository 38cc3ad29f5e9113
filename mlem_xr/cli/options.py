"""Options that several commands share."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

Store = Annotated[Path, typer.Argument(help="Folder of the store.")]
Stimuli = Annotated[str, typer.Argument(help="Name of a bundled set, or a CSV or Parquet file.")]
TableFile = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write a table: .csv, .csv.gz or .parquet.")
]
FigureFile = Annotated[
    Path, typer.Option("--output", "-o", help="A .png, .svg, .pdf or .html file.")
]

Options = dict[str, tuple[Any, Any]]


def _several(kind: Any, flag: str, help_text: str) -> tuple[Any, None]:
    return Annotated[list[kind] | None, typer.Option(flag, help=help_text + " Repeatable.")], None


def _one(kind: Any, flag: str, default: Any, help_text: str) -> tuple[Any, Any]:
    return Annotated[kind, typer.Option(flag, help=help_text)], default


SELECTION: Options = {
    "model": _several(str, "--model", "Only this model."),
    "seed": _several(int, "--seed", "Only this seed."),
    "step": _several(int, "--step", "Only this training step."),
    "pooling": _several(str, "--pooling", "Only this pooling."),
    "layer": _several(int, "--layer", "Only this layer."),
}

SETTINGS: Options = {
    "distance": _one(str, "--distance", "euclidean", "Distance between activations."),
    "min_max": _one(bool, "--min-max/--no-min-max", True, "Scale the distances to [0, 1]."),
    "zscore": _one(bool, "--zscore", False, "Bring units to mean 0 and standard deviation 1."),
    "conditional": _one(str, "--conditional", "no", "Conditional importance: no, yes or exact."),
    "features": _several(str, "--feature", "Only this feature."),
    "folds": _one(str, "--folds", "pairs", "What is split: pairs or sentences."),
    "random_state": _one(int, "--random-state", 0, "Seed of the splits."),
    "alphas": _several(float, "--alpha", "A ridge penalty to choose from."),
    "mae": _one(bool, "--mae", False, "Compute the mean absolute error too."),
}

DECODING: Options = {name: SETTINGS[name] for name in ("zscore", "features", "random_state")}

EMBEDDING: Options = {
    **{name: SETTINGS[name] for name in ("distance", "zscore", "random_state")},
    "n_components": _one(int, "--n-components", 2, "Dimensions of the embedding."),
    "n_init": _one(int, "--n-init", 1, "Starts, of which the best is kept."),
    "init": _one(str, "--init", "random", "Start: random or classical."),
}

SAVING: Options = {
    "refresh": _several(
        str,
        "--refresh",
        "Compute again what depends on this stage: activations, distances, importance or mds.",
    ),
    "names": _one(str, "--names", "mlem_xr", "Columns of the table: mlem_xr or original."),
}


def with_options(**groups: Options) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command groups of options; it gets each group as a dictionary."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function).parameters.values()
        own = [p for p in signature if p.kind is not inspect.Parameter.VAR_KEYWORD]
        added = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
            )
            for group in groups.values()
            for name, (kind, default) in group.items()
        ]

        @wraps(function)
        def command(**values: Any) -> Any:
            parsed = {
                group: {name: values.pop(name) for name in options}
                for group, options in groups.items()
            }
            return function(**values, **parsed)

        command.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
        return command

    return decorate
