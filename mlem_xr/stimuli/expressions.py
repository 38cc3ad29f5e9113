"""The expressions that grammar files use for columns and filters."""

import ast
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from inspect import signature

from mlem_xr.schema import InputError, shown
from mlem_xr.stimuli.rules import Value

Roles = Mapping[str, Mapping[str, Value]]
Evaluate = Callable[[Roles], Value | None]

MAX_DEPTH = 100
"""Levels of an expression, of which an operator takes one or two."""


@dataclass(frozen=True)
class Expression:
    """What a column holds, or what a filter asks for.

    `references` lists the (role, feature) pairs it reads; `evaluate` takes the features of every
    role in a sentence and gives a value, None where undefined; `where` is file and line.
    """

    where: str
    references: frozenset[tuple[str, str]]
    evaluate: Evaluate


def read_expression(text: str, where: str) -> Expression:
    """Read an expression such as `subj.NUM != obj.NUM`; `where` is file and line, for errors.

    A feature that a role lacks is undefined (None), and so is a comparison with it. `and`, `or` and
    `not` of something undefined are undefined unless the rest decides: `False and x` is False
    whatever x is. `a if test else b` is undefined if the test is. `count`, `mean` and `round` leave
    out what is undefined, `defined` asks for it.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        _check_depth(tree)
        compiled = _compile(tree)
    # The parser's own limits, of which some are those of its memory.
    except (RecursionError, MemoryError) as error:
        raise InputError(
            f"{where}: {shown(text.strip())} nests too deep; expected at most {MAX_DEPTH} levels"
        ) from error
    except (SyntaxError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"{where}: {shown(text.strip())} is no expression; expected role.FEATURE, constants, "
            f"==, !=, and, or, not, 'x if y else z', {', '.join(f'{n}(...)' for n in _FUNCTIONS)}"
        ) from error

    def evaluate(roles: Roles) -> Value | None:
        try:
            return compiled(roles)
        except TypeError as error:
            raise InputError(f"{where}: {error}") from error

    return Expression(where, frozenset(_references(tree)), evaluate)


def _check_depth(tree: ast.AST) -> None:
    """Refuse an expression that nests deeper than `evaluate` may call itself."""
    level: list[ast.AST] = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    if level:
        raise RecursionError


def _references(tree: ast.expr) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.value.id, node.attr


def _compile(node: ast.expr) -> Evaluate:
    match node:
        case ast.Attribute(value=ast.Name(id=role), attr=feature):
            return lambda roles: roles.get(role, {}).get(feature)
        case ast.Constant(value=bool() | int() | float() | str() | None as constant):
            return lambda roles: constant
        case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]):
            return _equal(_compile(left), _compile(right))
        case ast.Compare(left=left, ops=[ast.NotEq()], comparators=[right]):
            return _negate(_equal(_compile(left), _compile(right)))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return _negate(_compile(operand))
        case ast.BoolOp(op=ast.And(), values=values):
            return _decide([_compile(value) for value in values], by=False)
        case ast.BoolOp(op=ast.Or(), values=values):
            return _decide([_compile(value) for value in values], by=True)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return _choose(_compile(test), _compile(body), _compile(orelse))
        case ast.Call(func=ast.Name(id=name), args=[_, *_] as operands, keywords=[]):
            return _call(name, [_compile(operand) for operand in operands])
    raise NotImplementedError(ast.dump(node))


def _equal(left: Evaluate, right: Evaluate) -> Evaluate:
    def evaluate(roles: Roles) -> bool | None:
        first, second = left(roles), right(roles)
        return None if first is None or second is None else first == second

    return evaluate


def _negate(operand: Evaluate) -> Evaluate:
    def evaluate(roles: Roles) -> bool | None:
        value = operand(roles)
        return None if value is None else not value

    return evaluate


def _decide(operands: list[Evaluate], *, by: bool) -> Evaluate:
    """`or` is decided by one True, `and` by one False."""

    def evaluate(roles: Roles) -> bool | None:
        values = [operand(roles) for operand in operands]
        if any(value is not None and bool(value) is by for value in values):
            return by
        return None if None in values else not by

    return evaluate


def _choose(test: Evaluate, body: Evaluate, orelse: Evaluate) -> Evaluate:
    def evaluate(roles: Roles) -> Value | None:
        decision = test(roles)
        return None if decision is None else (body if decision else orelse)(roles)

    return evaluate


def _call(name: str, operands: list[Evaluate]) -> Evaluate:
    if name not in _FUNCTIONS:
        raise NotImplementedError(name)
    function = _FUNCTIONS[name]
    try:
        signature(function).bind(*operands)
    except TypeError as error:
        raise NotImplementedError(name) from error
    return lambda roles: function(*(operand(roles) for operand in operands))


def _count(*values: Value | None) -> int | None:
    known = [bool(value) for value in values if value is not None]
    return sum(known) if known else None


def _defined(value: Value | None) -> bool:
    return value is not None


def _mean(*values: Value | None) -> float | None:
    known = [_number(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _round(value: Value | None, step: Value | None) -> float | None:
    """Round to the nearest multiple of a step, up where two are as near."""
    if value is None or step is None:
        return None
    unit = _number(step)
    if unit <= 0:
        raise TypeError(f"found a step of {shown(step)}; expected one above 0")
    # A multiple of 0.1 is the same number however it came about.
    return round(math.floor(_number(value) / unit + 0.5) * unit, 12)


def _number(value: Value) -> float:
    if isinstance(value, str):
        raise TypeError(f"found {shown(value)}; expected a number")
    return float(value)


_FUNCTIONS: dict[str, Callable[..., Value | None]] = {
    "count": _count,
    "defined": _defined,
    "mean": _mean,
    "round": _round,
}
"""What an expression may call."""
