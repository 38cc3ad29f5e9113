"""The command line: parses and calls the public functions, nothing else."""

import logging
import warnings

import click

from mlem_xr.analyses import ANALYSES
from mlem_xr.cli import analyses, data, demo, plots
from mlem_xr.cli.output import fail, show_warning
from mlem_xr.schema import InputError


def app() -> click.Group:
    """Make the group of all commands, with one for every analysis that is known."""
    group = click.Group(
        help="Metric-learning encoding models: which features of sentences networks encode, "
        "and where.",
        no_args_is_help=True,
    )
    for command in (demo.demo, data.stimuli, data.record, data.info):
        group.add_command(command)
    for analysis in ANALYSES.values():
        group.add_command(analyses.command(analysis))
    group.add_command(plots.app())
    return click.version_option(package_name="mlem_xr")(group)


def main() -> None:
    """Run the command line: exit code 2 for a mistake of the caller's, 1 for other errors."""
    warnings.showwarning = show_warning
    handler = logging.StreamHandler()
    logger = logging.getLogger("mlem_xr")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        app()()
    except InputError as error:
        fail(error, 2)
    except Exception as error:
        fail(error, 1)
