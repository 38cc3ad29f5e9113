"""The command line: parses and calls the public functions, nothing else."""

import logging
import warnings
from pathlib import Path
from typing import Annotated

import typer

from mlem_xr.cli import analyses, data, plots
from mlem_xr.cli.output import fail, out, print_profile, show_warning
from mlem_xr.schema import InputError

app = typer.Typer(
    help="Metric-learning encoding models: which features of sentences networks encode, and where.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where stores and figures go.")] = Path("stores"),
) -> None:
    """Record a real network on 522 sentences and explain all of its layers, in under a minute."""
    from mlem_xr.demo import run_demo

    profile, paths, news = run_demo(folder)
    print_profile(profile)
    for path in paths:
        out.print(f"wrote {path}")
    out.print(news)


for command in (data.stimuli, data.record, data.info):
    app.command()(command)
for command in (analyses.multivariate, analyses.univariate, analyses.decoding, analyses.mds):
    app.command()(command)
app.add_typer(plots.app, name="plot")


def main() -> None:
    """Run the command line: exit code 2 for a mistake of the caller's, 1 for other errors."""
    warnings.showwarning = show_warning
    handler = logging.StreamHandler()
    logger = logging.getLogger("mlem_xr")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        app()
    except InputError as error:
        fail(error, 2)
    except Exception as error:
        fail(error, 1)
