"""Every public function gives the right result or one clear error, whatever it is given."""

import inspect
import re
import warnings
import zlib
from contextlib import chdir as inside

import dask.array as da
import huggingface_hub.constants
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner

import mlem_xr as mx
from bad_calls import (
    FUNCTIONS,
    NAMED,
    World,
    arguments,
    assert_same,
    cases,
    contents,
    function,
)
from bad_commands import APP, COMMANDS
from bad_commands import NAMED as NAMED_ON_THE_COMMAND_LINE
from bad_commands import cases as cases_of_command
from bad_grammars import BOMBS, lexicon
from mlem_xr.schema import InputError
from mlem_xr.store.grid import read_grid

ARGUMENTS = [(name, argument) for name in FUNCTIONS for argument in arguments(name)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        yield World(tmp_path_factory.mktemp("world"))


def call(world, name, **changed):
    """Call a function with its usual arguments, but for some; everything lazy is computed."""
    given = {key: make(world) for key, make in FUNCTIONS[name].items() if key not in changed}
    given |= changed
    with inside(world.new().parent), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = contents(function(name)(**given))
        if name == "create_store":
            return read_grid(zarr.open_group(found, mode="r"))
        if name == "record":
            stored = mx.open_store(given["store"]).drop_vars("provenance").compute()
            return [found.drop(columns=["source", "revision"]), stored]
        return found


_expected = {}


def expected(world, case):
    """Return the result with the plain value; each is computed once."""
    value = case.value.plain(world)
    simple = isinstance(value, str | int | float | list | tuple | dict | None)
    usual = inspect.signature(function(case.name)).parameters.get(case.argument)
    given = {case.argument: value}
    if simple and case.argument not in FUNCTIONS[case.name] and usual and value == usual.default:
        given = {}
    key = (case.name, *given, repr(value) if simple else case.value.plain)
    if key not in _expected:
        _expected[key] = call(world, case.name, **given)
    return _expected[key]


def snapshot(value):
    """Return what must not change of an argument."""
    if isinstance(value, xr.Dataset):
        return [(name, snapshot(v)) for name, v in value.variables.items()], repr(value.attrs)
    if isinstance(value, xr.DataArray):
        return snapshot(value.to_dataset(name="array"))
    if isinstance(value, xr.Variable):
        data = value.data
        plain = isinstance(data, np.ndarray | da.Array)
        return value.dims, snapshot(data) if plain else repr(list(data)), repr(value.attrs)
    if isinstance(value, pd.DataFrame):
        return [
            list(map(repr, value.columns)),
            [snapshot(value.iloc[:, i]) for i in range(value.shape[1])],
        ]
    if isinstance(value, pd.Series):
        return str(value.dtype), list(map(id, value)) if value.dtype == object else repr(
            value.to_list()
        )
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            content = [v if isinstance(v, str) else id(v) for v in value.flat]
        else:
            content = value.tobytes()
        return value.dtype, value.shape, value.flags.writeable, content
    if isinstance(value, da.Array):
        return value.name
    return id(value)


def check(world, case):
    """Make a call, and complain of an outcome that is neither right nor a clear error."""
    value = case.value.make(world)
    before = snapshot(value)
    try:
        found = call(world, case.name, **{case.argument: value})
    except InputError as error:
        assert case.value.plain is None, f"refused: {error}"
        names = "|".join(NAMED.get(case.argument, [case.argument]))
        assert re.search(rf"\b({names})\b", str(error)) or str(value) in str(error), str(error)
        assert len(str(error)) < 2000
    else:
        assert case.value.plain is not None, "accepted"
        if case.value.plain is not case.value.make:
            assert_same(found, case.value.undo(expected(world, case)))
    assert snapshot(value) == before


def raise_together(check, world, cases):
    """Check all cases, and raise what went wrong in any of them, each with its call."""
    errors = []
    for case in cases:
        try:
            check(world, case)
        except Exception as error:
            error.add_note(f"the call was {case}")
            errors.append(error)
    if errors:
        calls = "; ".join(error.__notes__[-1] for error in errors)
        raise ExceptionGroup(f"{len(errors)} of {len(cases)} calls: {calls}", errors)


def third(calls, of):
    """Return a third of the calls, which differs between arguments: each value is tried somewhere.

    All of them take minutes, and belong to `-m slow`.
    """
    return list(calls)[zlib.crc32(of.encode()) % 3 :: 3]


def some(name, argument):
    return third(cases(name, argument), f"{name} {argument}")


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS, ids=lambda part: part)
def test_an_argument_is_right_or_gets_one_clear_error(world, name, argument):
    raise_together(check, world, some(name, argument))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS, ids=lambda part: part)
def test_every_value_of_an_argument_is_right_or_gets_one_clear_error(world, name, argument):
    raise_together(check, world, list(cases(name, argument)))


def test_there_are_thousands_of_calls():
    assert sum(len(list(cases(name, argument))) for name, argument in ARGUMENTS) > 6000
    assert sum(len(some(name, argument)) for name, argument in ARGUMENTS) > 2000


def test_every_public_function_is_called():
    public = {name for name in mx.__all__ if inspect.isfunction(getattr(mx, name))}
    public |= {f"plot.{name}" for name in mx.plot.__all__ if callable(getattr(mx.plot, name))}
    assert public == set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_python_refuses_is_a_type_error(world, name):
    parameters = inspect.signature(function(name)).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        with pytest.raises(TypeError, match="unexpected keyword"):
            call(world, name, nonsense=1)
    with pytest.raises(TypeError, match="positional argument"):
        function(name)(*range(20))
    if any(p.default is p.empty and p.kind is not p.VAR_KEYWORD for p in parameters):
        with pytest.raises(TypeError, match="missing"):
            function(name)()


def outcome(result):
    """Return the lines that a command wrote on standard error, without warnings and progress."""
    others = re.compile(r"warning: |\w+: +\d+%|\w+: \d+ representation")
    return [line for line in result.stderr.splitlines() if not others.match(line)]


def check_command(world, case):
    folder = world.new()
    folder.mkdir()
    with inside(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = CliRunner().invoke(APP, case.arguments(world))
    if case.right:
        assert result.exit_code == 0, result.output
        return
    lines = outcome(result)
    assert result.exit_code == 2, (result.exit_code, lines)
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert len(lines[0]) < 2000
    names = {case.name, NAMED_ON_THE_COMMAND_LINE.get(case.name, case.name)}
    names |= {flag.strip("-") for flag in case.parameter.opts}
    names = "|".join({*names, *(name.replace("_", "-") for name in names)})
    assert re.search(rf"\b({names})\b", lines[0]), lines[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_right_or_says_in_one_line_what_is_wrong(world, name):
    raise_together(check_command, world, third(cases_of_command(name), name))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_right_or_gets_one_line(world, name):
    raise_together(check_command, world, list(cases_of_command(name)))


def test_every_command_is_called():
    def names(group, prefix=""):
        for name, command in group.commands.items():
            yield from (
                names(command, f"{name} ") if hasattr(command, "commands") else [prefix + name]
            )

    assert set(names(APP)) == {*COMMANDS, "demo"}


@pytest.mark.parametrize("name", BOMBS)
def test_a_grammar_without_an_end_is_refused_before_anything_is_made(tmp_path, name):
    grammar, message = BOMBS[name]
    (tmp_path / "words.csv").write_text(lexicon(50))
    (tmp_path / "bomb.fcfg").write_text(grammar)
    with pytest.raises(InputError, match=message) as caught:
        mx.generate_stimuli(tmp_path / "bomb.fcfg")
    assert len(str(caught.value)) < 2000
