"""Small faults that can be made in a module: a comparison turned, a number changed, a statement left out, …"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_OTHER_COMPARISONS: Final[dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_OTHER_OPERATORS: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_OTHER_CALLS: Final = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}
_LOGS: Final = ("log", "_log")


@dataclass(frozen=True, slots=True)
class Site:
    """One fault: `before` and `after` are what is changed; `place` and `number` find it again."""

    file: Path
    line: int
    before: str
    after: str
    place: int
    number: int

    def source(self) -> str:
        """The whole module with this fault."""
        tree = ast.parse(self.file.read_text(encoding="utf-8"))
        node = next(node for place, node in enumerate(_nodes(tree)) if place == self.place)
        _replace(tree, node, [*_faults(node)][self.number])
        return ast.unparse(ast.fix_missing_locations(tree))


def find_sites(file: Path) -> list[Site]:
    """Every fault that can be made in this module, in the order of its lines."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [
        Site(file, getattr(node, "lineno", 0), _shown(node), _shown(other), place, number)
        for place, node in enumerate(_nodes(tree))
        for number, other in enumerate(_faults(node))
    ]


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """What may be changed, in an order that stays: no annotation, decorator, assertion, message or log line."""
    for name, value in ast.iter_fields(tree):
        if name in {"annotation", "returns", "decorator_list", "type_params"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_left_alone(child):
                yield child
                yield from _nodes(child)


def _is_left_alone(node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Assert() | ast.Raise() | ast.JoinedStr():
            return True
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=value))):
            name = value.id if isinstance(value, ast.Name) else value.attr if isinstance(value, ast.Attribute) else ""
            return name in _LOGS
    return False


def _faults(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=[op]):
            for other in _OTHER_COMPARISONS[type(op)]:
                yield _with(node, ops=[other()])
        case ast.BoolOp(op=op):
            yield _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in _OTHER_OPERATORS:
            yield _with(node, op=_OTHER_OPERATORS[type(op)]())
        case ast.Constant(value=bool(value)):
            yield _with(node, value=not value)
        case ast.Constant(value=int(value) | float(value)):
            yield _with(node, value=value + 1)
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            yield _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Return(value=ast.expr(), lineno=line) if not isinstance(node.value, ast.Constant):
            yield ast.Return(ast.Constant(None), lineno=line)
        case ast.Break():
            yield ast.Continue(lineno=node.lineno)
        case ast.Call(func=ast.Name(id=name)) if name in _OTHER_CALLS:
            yield _with(node, func=ast.Name(_OTHER_CALLS[name], ast.Load()))
    if isinstance(node, (ast.AugAssign, ast.Delete)) or _is_effect(node):
        yield ast.Pass(lineno=node.lineno)  # type: ignore[attr-defined]


def _is_effect(node: ast.AST) -> bool:
    """A call for its effect, or a change of an attribute or an item."""
    match node:
        case ast.Expr(value=ast.Call() | ast.Await()):
            return True
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return True
    return False


def _with(node: ast.AST, **changes: object) -> ast.AST:
    fields = {**dict(ast.iter_fields(node)), **changes}
    return ast.copy_location(type(node)(**fields), node)


def _replace(tree: ast.Module, node: ast.AST, other: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is node:
                setattr(parent, name, other)
            elif isinstance(value, list) and any(each is node for each in value):
                setattr(parent, name, [other if each is node else each for each in value])


def _shown(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).splitlines()[0]
