"""Commands that draw saved results."""

from typing import Annotated, Any

import typer

import mlem_xr as mx
from mlem_xr.cli.analyses import saved
from mlem_xr.cli.options import (
    EMBEDDING,
    SELECTION,
    SETTINGS,
    FigureFile,
    Stimuli,
    Store,
    with_options,
)
from mlem_xr.cli.output import out

app = typer.Typer(help="Draw saved results.", no_args_is_help=True)

Top = Annotated[int, typer.Option(help="Features to draw.")]
Log = Annotated[bool, typer.Option("--log/--linear", help="Logarithmic axis.")]


@app.command("feature-importance")
@with_options(selection=SELECTION, settings=SETTINGS)
def feature_importance(
    store: Store, output: FigureFile, top: Top = 4, log: Log = True, **given: dict[str, Any]
) -> None:
    """Draw the importance of the leading features against the layer."""
    result = saved("multivariate_importance", store, **given)
    _save(mx.plot.feature_importance(result, top=top, log=log), output)


@app.command("unit-distribution")
@with_options(selection=SELECTION, settings=SETTINGS)
def unit_distribution(
    store: Store,
    output: FigureFile,
    show: Annotated[str, typer.Option(help="importance, or a score such as r2.")] = "importance",
    top: Top = 4,
    log: Log = True,
    **given: dict[str, Any],
) -> None:
    """Draw how importance or a score is distributed over the units of each layer."""
    result = saved("univariate_importance", store, **given)
    _save(mx.plot.unit_distribution(result, show=show, top=top, log=log), output)


@app.command("mds")
@with_options(selection=SELECTION, settings=EMBEDDING)
def mds(
    store: Store,
    output: FigureFile,
    color: Annotated[str | None, typer.Option(help="Feature that colours the sentences.")] = None,
    **given: dict[str, Any],
) -> None:
    """Draw the sentences in the plane."""
    _save(mx.plot.mds(saved("mds", store, **given), color=color), output)


@app.command("correlation")
def correlation(source: Stimuli, output: FigureFile) -> None:
    """Draw the correlation of the feature distances of a stimulus set."""
    _save(mx.plot.correlation(mx.feature_correlation(mx.read_stimuli(source))), output)


def _save(figure: Any, output: FigureFile) -> None:
    mx.plot.save(figure, output)
    out.print(f"wrote {output}")
