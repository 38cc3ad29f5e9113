"""Options of commands, made from those of the analyses."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import MISSING
from typing import Any

import click
import xarray as xr

import mlem_xr as mx
from mlem_xr.analyses import Analysis
from mlem_xr.analyses.options import Options, is_literal, plain
from mlem_xr.running.cluster import cluster_client
from mlem_xr.schema import REPRESENTATION, InputError, choose, shown


class TypedPath(click.Path):
    """A path as it was typed, which the functions check."""

    def convert(self, value: Any, *_: Any) -> Any:
        """Return the value as it is."""
        return value


STORE = click.Argument(["store"], type=TypedPath())
STIMULI = click.Argument(["source"], metavar="STIMULI")
ROLES = [
    click.Option(
        ["--item", "items"],
        multiple=True,
        help="A column that says what a sentence is made of, and is no feature. Repeatable.",
    ),
    click.Option(
        ["--numeric"],
        multiple=True,
        help="A feature whose numbers are measurements, not levels. Repeatable.",
    ),
    click.Option(
        ["--vector"],
        multiple=True,
        help="NAME=COLUMNS: a feature whose columns, such as emb_*, are a point. Repeatable.",
    ),
]
"""What columns of a table of sentences are."""
TABLE_FILE = click.Option(
    ["--output", "-o"],
    type=TypedPath(),
    help="Write a table: .csv, .csv.gz or .parquet.",
)
FIGURE_FILE = click.Option(
    ["--output", "-o"],
    type=TypedPath(),
    required=True,
    help="A .png, .svg, .pdf or .html file.",
)
NAMES = click.Option(
    ["--names"], default="mlem_xr", help="Columns of the table: mlem_xr or original."
)
REFRESH = click.Option(
    ["--refresh"],
    multiple=True,
    help="Compute again what depends on this stage: activations, distances, importance or mds. "
    "Repeatable.",
)

CLUSTER = [
    click.Option(
        ["--cluster"],
        help="Compute on workers: local (processes on this machine), slurm (jobs), the address of "
        "a scheduler, or the file that it has written.",
    ),
    click.Option(
        ["--workers", "n_workers"], type=int, help="Processes of a local or slurm --cluster."
    ),
]
"""Where long work runs."""

_WORDS = {False: "no", True: "yes", None: "none"}
"""How values that are no words are written."""

_ITEMS_HELP = "FEATURE=COLUMN: the feature belongs to the items of a column; or none."

_LABEL_TYPES = {"seed": int, "step": int, "layer": int}


def selection() -> list[click.Option]:
    """Return the options that select models, seeds, steps, poolings and layers."""
    return [several(dim, _LABEL_TYPES.get(dim, str), f"Only this {dim}.") for dim in REPRESENTATION]


def with_roles(command: click.Command) -> click.Command:
    """Add the options that say what columns are to a command."""
    command.params[1:1] = ROLES
    return command


def on_cluster(command: click.Command) -> click.Command:
    """Add the options that say where long work runs to a command."""
    run = command.callback
    assert run is not None

    def run_there(cluster: str | None, n_workers: int | None, **given: Any) -> Any:
        if cluster is None:
            if n_workers is not None:
                raise InputError(f"workers: found {n_workers} without --cluster; expected both")
            return run(**given)
        with cluster_client(cluster, n_workers):
            return run(**given)

    command.callback = run_there
    command.params += CLUSTER
    return command


def read_stimuli(
    source: Any, items: Iterable[str], numeric: Iterable[str], vector: Iterable[str]
) -> xr.Dataset:
    """Read the table of a command that has the options of columns."""
    points: dict[str, list[str]] = {}
    for word in vector:
        for name, columns in pairs("vector", [word]).items():
            points.setdefault(name, []).append(columns)
    return mx.read_stimuli(source, items=items, numeric=numeric, vector=points)


def several(
    name: str, kind: type, help: str, flag: str | None = None, *, required: bool = False
) -> click.Option:
    """Return an option that may be given several times."""
    declared = ["--" + (flag or name).replace("_", "-"), name]
    about = f"{help} Repeatable."
    return click.Option(declared, type=kind, multiple=True, required=required, help=about)


def settings(analysis: Analysis, prefix: str = "") -> list[click.Option]:
    """Return the options of an analysis; those of the result that it starts from are prefixed."""
    found = [_option(analysis.options, name, prefix) for name in analysis.options.names()]
    if "codes" in analysis.inputs:
        found.append(several(prefix + "features", str, "Only this feature.", f"{prefix}feature"))
    if "items" in analysis.inputs:
        found.append(several(prefix + "items", str, _ITEMS_HELP, f"{prefix}item"))
    return found


def given(analysis: Analysis, values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Take the settings of an analysis that were given out of the values of a command."""
    inputs = {"codes": "features", "items": "items"}
    names = [
        *analysis.options.names(),
        *(inputs[name] for name in inputs if name in analysis.inputs),
    ]
    taken = {name: values.pop(prefix + name) for name in names}
    asked = {name: value for name, value in taken.items() if value not in (None, ())}
    return {name: _parsed(analysis.options, name, value) for name, value in asked.items()}


def pairs(argument: str, words: Iterable[str]) -> dict[str, str]:
    """Read words such as feature=column."""
    for word in words:
        if "=" not in word:
            raise InputError(
                f"{argument}: found {shown(word)}; expected two words with = between them"
            )
    found = [word.split("=", 1) for word in words]
    for name, count in Counter(name for name, _ in found).items():
        if count > 1:
            raise InputError(f"{argument}: {name!r} is named {count} times; expected once")
    return dict(found)


def _option(options: type[Options], name: str, prefix: str) -> click.Option:
    spec, kind = options.spec(name), options.kind(name)
    flag = (prefix + (spec.metadata["flag"] or name)).replace("_", "-")
    default = None if spec.default is MISSING else spec.default
    help = f"{spec.metadata['help']}{_shown(kind, plain(default))}"
    if kind in (bool, bool | None):
        declared = [f"--{flag}/--no-{flag}", prefix + name]
        return click.Option(declared, default=None, help=help)
    if spec.metadata["each"] is not None:
        return several(
            prefix + name, spec.metadata["each"], help, flag, required=spec.default is MISSING
        )
    words = list(_words(options, name))
    if words:
        return click.Option(
            [f"--{flag}", prefix + name],
            help=f"{help} ({', '.join(words)})",
            shell_complete=lambda _, __, begun: [word for word in words if word.startswith(begun)],
        )
    return click.Option([f"--{flag}", prefix + name], type=kind, default=None, help=help)


def _words(options: type[Options], name: str) -> dict[str, Any]:
    """Return the values that an option may have, by the words that stand for them."""
    return {_word(value): value for value in options.known(name)}


def _word(value: Any) -> str:
    # Not by equality: 0 is a number here, not a "no".
    return _WORDS[value] if isinstance(value, bool | None) else str(value)


def _parsed(options: type[Options], name: str, value: Any) -> Any:
    if name == "items":
        return {} if tuple(value) == ("none",) else pairs(name, value)
    if name == "groups":
        return {group: features.split(",") for group, features in pairs(name, value).items()}
    if name == "features" or not is_literal(options.kind(name)):
        return value
    words = _words(options, name)
    return words[choose(name, value, words)]


def _shown(kind: Any, default: Any) -> str:
    """Say what holds where an option is not given."""
    if default is None and not is_literal(kind):
        return ""
    values = default if isinstance(default, list) else [default]
    return f" [{', '.join(map(_word, values))}]"
