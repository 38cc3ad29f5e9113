"""Commands that draw saved results: one for every figure."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import click
import xarray as xr

import mlem_xr as mx
from mlem_xr.analyses import ANALYSES, Analysis
from mlem_xr.cli.analyses import saved
from mlem_xr.cli.options import (
    FIGURE_FILE,
    ROLES,
    STIMULI,
    STORE,
    pairs,
    read_stimuli,
    selection,
    settings,
    several,
)
from mlem_xr.running.writing import check_path
from mlem_xr.schema import REPRESENTATION, InputError, choose, select

_X = click.Option(["--x"], default="layer", show_default=True, help="Axis: layer or step.")
_TOP = click.Option(["--top"], type=int, default=4, show_default=True, help="Features to draw.")
_FEATURES = several(
    "drawn", str, "Draw this feature, in this place, instead of the top ones.", "draw"
)
_UNITS = click.Option(["--units"], default="mse", show_default=True, help="mse, or r2.")
_ERRORBAR = click.Option(
    ["--errorbar"],
    default="auto",
    show_default=True,
    help="auto, ci, 'ci 90' (an interval of 90 %), se, seeds or none.",
)
_LOG = click.Option(["--log/--linear"], default=None, help="Logarithmic or linear axis.")
_SHOW = click.Option(
    ["--show"], default="importance", show_default=True, help="importance, or a score such as r2."
)
_COLOR = click.Option(["--color"], help="Feature that colors the sentences.")
_HIERARCHY = several(
    "hierarchy", str, "Features that give marker, hue and lightness, instead of --color."
)
_SIGNIFICANT = click.Option(
    ["--significant"],
    help="Mark units by what is saved of this analysis, such as correct_p_values, with settings "
    "that tell it from others, as in 'randomization_test n_draws=499'.",
)
_LEVEL = click.Option(
    ["--significance-level"],
    type=float,
    default=0.05,
    show_default=True,
    help="Units with smaller p-values are significant.",
)
_PALETTE = several(
    "palette", str, "A color, or FEATURE=COLOR; or a single one, the name of a color map."
)
_RENAME = several("rename", str, "OLD=NEW: what to write in place of a name.")
_WIDTH = click.Option(["--width"], help="Width of an image: column, page, or millimeters.")
_DPI = click.Option(["--dpi"], type=int, help="Dots per inch of a .png.")
_SAVING = [_WIDTH, _DPI]

_LINES = [_X, _TOP, _FEATURES, _ERRORBAR, _PALETTE, _RENAME]


@dataclass(frozen=True)
class _Figure:
    """A figure, and what its command takes."""

    name: str
    analysis: str
    help: str
    options: list[click.Option]
    beside: dict[str, str] = field(default_factory=dict)
    """Other results that can be drawn with it, by argument: each has a flag."""


_FIGURES = [
    _Figure(
        "feature_importance",
        "multivariate_importance",
        "Draw the importance of the leading features against the layer or the step.",
        [*_LINES, _UNITS, _LOG],
        {"decoding": "decoding_baseline"},
    ),
    _Figure(
        "decoding",
        "decoding_baseline",
        "Draw how well features are decoded, against the layer or the step.",
        _LINES,
    ),
    _Figure(
        "decomposition",
        "decompose",
        "Draw what R2 is made of, below the feature ceiling, against the layer or the step.",
        [_X, _TOP, _FEATURES, _PALETTE, _RENAME],
    ),
    _Figure(
        "top_k",
        "top_unit_importance",
        "Draw importance or a score of the best units against their number.",
        [_SHOW, _TOP, _FEATURES, _ERRORBAR, _LOG, _PALETTE, _RENAME],
    ),
    _Figure(
        "unit_distribution",
        "univariate_importance",
        "Draw how importance or a score is distributed over the units of each layer.",
        [_SHOW, _TOP, _FEATURES, _LOG, _SIGNIFICANT, _LEVEL, _PALETTE, _RENAME],
        {"multivariate": "multivariate_importance", "top_units": "top_unit_importance"},
    ),
    _Figure(
        "unit_map",
        "univariate_importance",
        "Draw every unit of every layer as a heat map.",
        [_SHOW, _TOP, _FEATURES, _LOG, _SIGNIFICANT, _LEVEL, _RENAME],
    ),
    _Figure(
        "mds", "mds", "Draw the sentences in the plane.", [_COLOR, _HIERARCHY, _PALETTE, _RENAME]
    ),
    _Figure(
        "clusters",
        "cluster_units",
        "Draw what the units of each cluster carry.",
        [_LOG, _PALETTE, _RENAME],
    ),
]


def app() -> click.Group:
    """Make the group of the commands that draw."""
    group = click.Group("plot", help="Draw saved results.")
    for figure in _FIGURES:
        group.add_command(_command(figure))
    group.add_command(_compare())
    group.add_command(correlation)
    return group


def _command(figure: _Figure) -> click.Command:
    record = ANALYSES[figure.analysis]
    flags = [
        click.Option(
            ["--" + argument.replace("_", "-"), "with_" + argument],
            is_flag=True,
            help=f"Draw what is saved of {ANALYSES[analysis].command} too.",
        )
        for argument, analysis in figure.beside.items()
    ]

    def run(store: str, output: str, **values: Any) -> None:
        check_path(output, mx.plot.FORMATS)
        own = _taken(values, [*figure.options, *_SAVING])
        labels = {dim: values[dim] for dim in REPRESENTATION}
        for argument, analysis in figure.beside.items():
            if values.pop("with_" + argument):
                beside = ANALYSES[analysis]
                own[argument] = _opened(beside, store, dict(labels))
        if "significant" in own:
            own["significant"] = _of_units(store, own["significant"])
        result = _opened(record, store, values)
        _draw(figure.name, _arguments(figure, store, result, labels), own, output)

    params = [STORE, FIGURE_FILE, *figure.options, *flags, *_SAVING, *selection()]
    return click.Command(
        figure.name.replace("_", "-"),
        callback=run,
        params=[*params, *_settings(record)],
        help=figure.help,
    )


def _settings(record: Analysis) -> list[click.Option]:
    """Return the options of an analysis, which tell its saved results apart: none is required."""
    options = settings(record)
    for option in options:
        option.required = False
    return options


def _arguments(
    figure: _Figure, store: str, result: xr.Dataset, labels: dict[str, Any]
) -> list[xr.Dataset]:
    if figure.name != "clusters":
        return [result]
    # The scan that the units were clusters of.
    nested = dict(result.attrs["settings"]["univariate"])
    scan = mx.open_results(store, nested.pop("analysis"), **nested)
    return [select(scan, labels), result]


def _opened(record: Analysis, store: str, values: dict[str, Any]) -> xr.Dataset:
    """Open saved results; where there are none, say which command computes them."""
    names = {option.name for option in settings(record)}
    defaults = {name: None for name in names if name not in values}
    asked = {**defaults, **values}
    try:
        return saved(record, store, dict(asked))
    except InputError as error:
        if "none saved" not in str(error):
            raise
        words = ["mlem-xr", record.command, str(store), *_flags(record, asked)]
        raise InputError(f"{error}; run first: {shlex.join(words)}") from None


def _of_units(store: str, words: str) -> xr.Dataset:
    """Open saved p-values of single units: of an analysis, with some of its settings."""
    name, *others = words.split() or [""]
    analysis = ANALYSES[choose("significant", name, ANALYSES)]
    settings: dict[str, Any] = {"per": "unit"} if "per" in analysis.options.names() else {}
    for option, value in pairs("significant", others).items():
        settings[option] = int(value) if value.isdecimal() else value
    return mx.open_results(store, analysis.name, **settings)


def _flags(record: Analysis, values: dict[str, Any]) -> list[str]:
    """Return the words that give a command these values, and an example of what it must have."""
    words: list[str] = []
    for option in [*selection(), *settings(record)]:
        value = values.get(str(option.name))
        if option.required and not value:
            words += [option.opts[0], "1", option.opts[0], "8", option.opts[0], "64"]
        elif isinstance(value, bool):
            words.append(option.opts[0] if value else option.secondary_opts[0])
        elif isinstance(value, tuple):
            words += [word for part in value for word in (option.opts[0], str(part))]
        elif value is not None:
            words += [option.opts[0], str(value)]
    return words


def _compare() -> click.Command:
    record = ANALYSES["multivariate_importance"]
    sides = [
        several(side, str, f"DIMENSION=LABEL of the {side} profile.", required=True)
        for side in ("first", "second")
    ]
    own = [*_LINES, _UNITS]

    def run(store: str, output: str, first: tuple, second: tuple, **values: Any) -> None:
        check_path(output, mx.plot.FORMATS)
        options = _taken(values, [*own, *_SAVING])
        result = _opened(record, store, values)
        _draw("compare", [_side(result, first), _side(result, second)], options, output)

    params = [STORE, FIGURE_FILE, *sides, *own, *_SAVING, *selection(), *settings(record)]
    help = "Draw two profiles and their difference."
    return click.Command("compare", callback=run, params=params, help=help)


def _side(result: xr.Dataset, labels: tuple[str, ...]) -> xr.Dataset:
    wanted: dict[str, list] = {}
    for dim, label in pairs("first, second", labels).items():
        known = result[dim].values.tolist() if dim in result.dims else []
        wanted[dim] = [next((value for value in known if str(value) == label), label)]
    return select(result, wanted)


def _taken(values: dict[str, Any], options: list[click.Option]) -> dict[str, Any]:
    """Take the arguments of a figure that were given out of the values of a command."""
    asked = {str(option.name): values.pop(str(option.name)) for option in options}
    asked = {name: value for name, value in asked.items() if value not in (None, ())}
    return {
        _ARGUMENTS.get(name, name): _PARSERS.get(name, lambda value: value)(value)
        for name, value in asked.items()
    }


def _palette(words: tuple[str, ...]) -> Any:
    if any("=" in word for word in words):
        return pairs("palette", words)
    return words[0] if len(words) == 1 and not words[0].startswith("#") else list(words)


def _errorbar(word: str) -> Any:
    kind, _, level = word.partition(" ")
    if kind == "ci" and level:
        return "ci", _number(level)
    return None if word == "none" else word


def _number(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word


_ARGUMENTS = {"drawn": "features", "significance_level": "alpha"}
"""Arguments of figures whose option has another name, as an analysis has an option of theirs."""

_PARSERS: dict[str, Callable[[Any], Any]] = {
    "palette": _palette,
    "rename": lambda words: pairs("rename", words),
    "errorbar": _errorbar,
    "width": _number,
}


def _draw(name: str, results: list, options: dict[str, Any], output: str) -> None:
    saving = {key: options.pop(key) for key in ("width", "dpi") if key in options}
    figure = getattr(mx.plot, name)(*results, **options)
    mx.plot.save(figure, output, **saving)
    click.echo(f"wrote {output}")


def _correlation(
    source: str,
    output: str,
    items: tuple[str, ...],
    numeric: tuple[str, ...],
    vector: tuple[str, ...],
    **values: Any,
) -> None:
    check_path(output, mx.plot.FORMATS)
    options = _taken(values, [_RENAME, *_SAVING])
    table = read_stimuli(source, items, numeric, vector)
    _draw("correlation", [mx.feature_correlation(table)], options, output)


correlation = click.Command(
    "correlation",
    callback=_correlation,
    params=[STIMULI, *ROLES, FIGURE_FILE, _RENAME, *_SAVING],
    help="Draw the correlation of the feature distances of a stimulus set.",
)
