"""Commands that draw saved results."""

from pathlib import Path
from typing import Any

import click

import mlem_xr as mx
from mlem_xr.analyses import ANALYSES
from mlem_xr.cli.analyses import saved
from mlem_xr.cli.options import FIGURE_FILE, STIMULI, STORE, selection, settings
from mlem_xr.running.writing import check_path

_TOP = click.Option(["--top"], type=int, default=4, show_default=True, help="Features to draw.")
_LOG = click.Option(["--log/--linear"], default=True, help="Logarithmic axis.")
_SHOW = click.Option(
    ["--show"], default="importance", show_default=True, help="importance, or a score such as r2."
)
_COLOR = click.Option(["--color"], help="Feature that colors the sentences.")


def app() -> click.Group:
    """Make the group of the commands that draw."""
    group = click.Group("plot", help="Draw saved results.", no_args_is_help=True)
    figures: list[tuple[str, str, str, list[click.Parameter]]] = [
        ("feature_importance", "multivariate_importance", _IMPORTANCE, [_TOP, _LOG]),
        ("unit_distribution", "univariate_importance", _DISTRIBUTION, [_SHOW, _TOP, _LOG]),
        ("mds", "mds", _MDS, [_COLOR]),
    ]
    for figure, analysis, help, own in figures:
        group.add_command(_figure(figure, analysis, help, own))
    group.add_command(correlation)
    return group


_IMPORTANCE = "Draw the importance of the leading features against the layer."
_DISTRIBUTION = "Draw how importance or a score is distributed over the units of each layer."
_MDS = "Draw the sentences in the plane."


def _figure(name: str, analysis: str, help: str, own: list[click.Parameter]) -> click.Command:
    record = ANALYSES[analysis]

    def run(store: Path, output: Path, **values: Any) -> None:
        check_path(output, mx.plot.FORMATS)
        options = {option.name: values.pop(option.name) for option in own if option.name}
        _save(getattr(mx.plot, name)(saved(record, store, values), **options), output)

    params = [STORE, FIGURE_FILE, *own, *selection(), *settings(record)]
    return click.Command(name.replace("_", "-"), callback=run, params=params, help=help)


def _correlation(source: str, output: Path) -> None:
    _save(mx.plot.correlation(mx.feature_correlation(mx.read_stimuli(source))), output)


correlation = click.Command(
    "correlation",
    callback=_correlation,
    params=[STIMULI, FIGURE_FILE],
    help="Draw the correlation of the feature distances of a stimulus set.",
)


def _save(figure: Any, output: Path) -> None:
    mx.plot.save(figure, output)
    click.echo(f"wrote {output}")
