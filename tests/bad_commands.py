"""Commands with all texts that may stand for an option or an argument, made systematically."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import click

from bad_calls import World
from mlem_xr.cli import app

NUMBERS = ("0", "1", "-1", "1.5", "nan", "inf", "1e400", "0x1", "[1]", "True")
WORDS = {
    **{text: text for text in ("nonsense", "no", "None", "é", "nonsense.csv", "../nonsense")},
    "nothing": "",
    "blank": "  ",
    "a large number": "9" * 20,
    "NUL": "a\0b",
    "a lone surrogate": "\ud800",
    "a long text": "x" * 5000,
    "two lines": "a\nb",
    "an address": "ftp://bucket/x",
    "no such user": "~nosuchuser/x",
}
TEXTS = dict(zip(NUMBERS, NUMBERS, strict=True)) | WORDS
"""What may be typed by mistake."""

FEW = ("nonsense", "-1", "a large number", "a lone surrogate")
"""Texts for what is looked at after a store was opened, which takes a while."""

_NO_PATH = {"nothing", "blank", "NUL", "a lone surrogate", "a long text", "an address"}

RIGHT: dict[str, set[str]] = {
    "alpha": {"1"},
    "alphas": {"1", "1.5", "a large number"},
    "batch_size": {"1", "a large number"},
    "conditional": {"no"},
    "eps": {"0", "1", "1.5", "a large number"},
    "k": {"1"},
    "layer": {"1"},
    "max_clusters": {"a large number"},
    "max_iter": {"1"},
    "n_components": {"1"},
    "n_draws": {"1"},
    "n_init": {"1"},
    "output": {"nonsense.csv"},
    "random_state": {"0", "1"},
    "seed": {"0", "1"},
    "step": {"-1"},
    "top": {"1", "a large number"},
    "words_per_class": {"1", "a large number"},
    "decompose n_draws": set(),
    "record layer": {"0", "1"},
    "record step": {"0", "1", "-1"},
    "record store": {*TEXTS} - _NO_PATH - {"no such user"},
}
"""Texts that are right, by the name of a parameter; all others are wrong."""

for _name in ("output", "alphas", "eps", "max_iter", "n_components", "max_clusters", "n_draws"):
    RIGHT[f"plot {_name}"] = set()
RIGHT["plot random_state"] = {"0"}

NAMED = {
    "heat_map": "path",
    "output": "path",
    "weights": "source|model",
    "tokenizer": "model",
    "source": "stimuli",
    "features": "feature",
    "alphas": "alpha",
    "items": "items",
    "n_workers": "workers",
    "groups": "groups",
    "numeric": "numeric",
    "vector": "vector",
}
"""What messages call a parameter."""

NAMED |= {"drawn": "features", "top_units": "top-units", "significance_level": "alpha"}

_ANALYSES = (
    "multivariate",
    "univariate",
    "clusters",
    "correct-p-values",
    "decoding",
    "decompose",
    "mds",
    "test",
)

COMMANDS: dict[str, Callable[[World], list[str]]] = {
    "stimuli": lambda w: [str(w.grammar)],
    "record": lambda w: [
        *(str(w.table_file), "--model", str(w.network)),
        *("--store", str(w.new("x.zarr"))),
    ],
    "info": lambda w: [str(w.command_store)],
    **{name: lambda w: [str(w.command_store), "--layer", "1"] for name in _ANALYSES},
    "top-units": lambda w: [str(w.command_store), "--k", "1", "--layer", "1"],
    **{
        f"plot {name}": lambda w: [str(w.drawn_store), "--output", str(w.new("x.png"))]
        for name in (
            *("feature-importance", "decoding", "unit-distribution", "unit-map", "mds"),
            *("clusters", "top-k", "decomposition"),
        )
    },
    "plot compare": lambda w: [
        *(str(w.drawn_store), "--output", str(w.new("x.png"))),
        *("--first", "seed=0", "--second", "seed=1"),
    ],
    "completion": lambda w: ["bash"],
    "plot correlation": lambda w: [str(w.grammar), "--output", str(w.new("x.png"))],
}
"""Every command but the demonstration, with what it needs."""

APP = app()


class CommandCase(NamedTuple):
    """A command, one of whose parameters is not the usual one."""

    command: str
    parameter: click.Parameter
    label: str

    def __str__(self) -> str:
        return f"mlem-xr {self.command} with {self.parameter.opts[0]} {self.label!r}"

    @property
    def name(self) -> str:
        """The name of the parameter, without that of the result that it is for."""
        name = self.parameter.name or ""
        return name.removeprefix("univariate_").removeprefix("result_")

    @property
    def right(self) -> bool:
        group = self.command.split()[0]
        return self.label in RIGHT.get(f"{group} {self.name}", RIGHT.get(self.name, set()))

    def arguments(self, world: World) -> list[str]:
        text, needed = TEXTS[self.label], COMMANDS[self.command](world)
        if isinstance(self.parameter, click.Argument):
            return [*self.command.split(), *needed[1:], "--", text]
        flag = max(self.parameter.opts, key=len)
        if flag in needed:
            at = needed.index(flag)
            needed = needed[:at] + needed[at + 2 :]
        return [*self.command.split(), *needed, f"{flag}={text}"]


def command(name: str) -> click.Command:
    found: click.Command = APP
    for part in name.split():
        assert isinstance(found, click.Group)
        found = found.commands[part]
    return found


def cases(name: str) -> Iterator[CommandCase]:
    """Make the calls of a command that differ in one parameter.

    Of an option that another command before it has, one text must do.
    """
    before = {
        option.name.split("_", 1)[-1] if "-" in option.opts[0].strip("-") else option.name
        for other in itertools.takewhile(lambda other: other != name, COMMANDS)
        for option in command(other).params
    }
    for parameter in command(name).params:
        if before & {parameter.name} and name.split()[0] != "record":
            yield CommandCase(name, parameter, "nonsense")
            continue
        stored = name not in ("stimuli", "record", "info")
        word = isinstance(parameter.type, type(click.STRING) | click.Path)
        nested = name.startswith("plot") or "-" in parameter.opts[0].strip("-")
        for label in FEW if stored and (word or nested) else WORDS if word else TEXTS:
            yield CommandCase(name, parameter, label)
