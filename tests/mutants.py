# SPDX-License-Identifier: BSD-3-Clause
"""Mutants: a file of the package with one mistake in it, for mutation.py.

Of Python they are made from the syntax tree, of C from its words. Docstrings, comments, annotations and messages stay.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

FEWEST = 3  # mutants of a file


@dataclass(frozen=True)
class Mutant:
    """One change of a file: the bytes from start to end become text."""

    file: str
    line: int
    column: int
    kind: str
    start: int
    end: int
    text: str
    change: str  # to be read
    code: str  # the line
    statement: range  # the lines of the statement, or of its head

    @property
    def id(self) -> str:
        return f"{self.file}:{self.line}:{self.column}:{self.kind}"

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]


def _mutant(file: str, source: bytes, kind: str, start: int, end: int, text: str, statement: range | None) -> Mutant:
    line_start = source.rfind(b"\n", 0, start) + 1
    line = source.count(b"\n", 0, start) + 1
    code = source[line_start:].split(b"\n", 1)[0].decode().strip()
    old = " ".join(source[start:end].decode().split())
    change = f"{old} -> {text or 'nothing'}"
    column = start - line_start + 1
    return Mutant(file, line, column, kind, start, end, text, change, code, statement or range(line, line + 1))


OPERATORS: dict[type, tuple[str, ...]] = {  # each with what it is exchanged for
    ast.Lt: ("<", "<=", ">="),
    ast.LtE: ("<=", "<", ">"),
    ast.Gt: (">", ">=", "<="),
    ast.GtE: (">=", ">", "<"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "&"),
}


def python_mutants(file: str, source: bytes) -> list[Mutant]:
    """All mutants of a module; a few of them are no Python or mean the same."""
    starts = [0, *(i + 1 for i, byte in enumerate(source) if byte == 10)]
    found = [
        _mutant(file, source, kind, begin, end, text, statement)
        for node, statement in _nodes(ast.parse(source), range(1, 2))
        for kind, begin, end, text in _python_changes(node, source, starts)
    ]
    return list({mutant.id: mutant for mutant in found}.values())


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _nodes(node: ast.AST, statement: range) -> Iterator[tuple[Any, range]]:
    """A node and all below it with the lines of their statement; no annotations, overloads and messages."""
    parts: list[ast.AST] = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.stmt):
        body = getattr(node, "body", None)
        first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
        statement = range(first, max(body[0].lineno, first + 1) if body else (node.end_lineno or first) + 1)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        if any("overload" in ast.dump(decorator) for decorator in node.decorator_list):
            return
        defaults = [default for default in node.args.kw_defaults if default is not None]
        parts = [*node.decorator_list, *node.args.defaults, *defaults, *node.body]
    elif isinstance(node, ast.AnnAssign):
        parts = [] if node.value is None or "TypeAlias" in ast.dump(node.annotation) else [node.target, node.value]
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        yield from (each for part in node.orelse for each in _nodes(part, statement))
        return
    elif _is_text(node) or (isinstance(node, ast.BinOp) and (_is_text(node.left) or _is_text(node.right))):
        return
    elif isinstance(node, ast.Raise):
        parts = []
    yield node, statement
    for part in parts:
        yield from _nodes(part, statement)


def _python_changes(node: Any, source: bytes, starts: list[int]) -> Iterator[tuple[str, int, int, str]]:
    """Changes of one node: kind, first and last byte, new text."""

    def span(part: Any) -> tuple[int, int]:
        return starts[part.lineno - 1] + part.col_offset, starts[part.end_lineno - 1] + part.end_col_offset

    def exchanged(left: Any, operator: Any, right: Any) -> Iterator[tuple[str, int, int, str]]:
        old, *new = OPERATORS.get(type(operator), ("",))
        begin, end = span(left)[1], span(right)[0]
        match = re.search(re.escape(old).replace(r"\ ", r"\s+").encode(), source[begin:end])
        if match:
            for text in new:
                kind = f"{type(operator).__name__}-{text}".replace(" ", "-")
                yield kind, begin + match.start(), begin + match.end(), text

    match node:
        case ast.Compare():
            for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
                yield from exchanged(left, operator, right)
        case ast.BoolOp():
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield from exchanged(left, node.op, right)
        case ast.BinOp():
            yield from exchanged(node.left, node.op, node.right)
        case ast.AugAssign():
            yield from exchanged(node.target, node.op, node.value)
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            begin = span(node)[0]
            yield "dropped", begin, begin + (3 if isinstance(node.op, ast.Not) else 1), ""
        case ast.Constant(value=bool()):
            yield "flipped", *span(node), str(not node.value)
        case ast.Constant(value=int() | float() as value):
            yield "more", *span(node), str(value + 1)
            if isinstance(value, int):
                yield "less", *span(node), str(value - 1) if value else "(-1)"
        case ast.Raise():
            yield "pass", *span(node), "pass"
        case ast.Expr(value=ast.Call()):
            yield "pass", *span(node), "pass"
        case ast.Return(value=ast.AST()) if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield "none", *span(node), "return None"
        case ast.Call():
            for keyword in node.keywords:
                begin, end = span(keyword)
                comma = re.match(rb"\s*,\s*", source[end:])
                if keyword.arg not in (None, "help", "description", "epilog", "metavar"):
                    yield "keyword", begin, end + (comma.end() if comma else 0), ""
    conditions = list(getattr(node, "ifs", ()))
    if isinstance(node, ast.If | ast.IfExp):
        conditions.append(node.test)
    for test in conditions:
        yield "true", *span(test), "True"
        yield "false", *span(test), "False"
    if isinstance(node, ast.While) and not isinstance(node.test, ast.Constant):
        yield "false", *span(node.test), "False"


C_HIDDEN = re.compile(
    rb'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|^[ \t]*#(?:\\\n|[^\n])*'
    rb"|^[ ]+(?:const |static )*(?!return|else|case)[a-z]\w* \w+\[[^;={]*",  # arrays: a longer one does the same
    re.DOTALL | re.MULTILINE,
)
C_TOKEN = re.compile(
    rb"(?P<call>(?<=[;{}\s])\n[ ]+[a-z_]\w*\([^;{}]*\);)|(?P<jump>\b(?:break|continue);)"
    rb"|(?P<number>(?<![\w.])(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?)(?=[uUlLf]*\b))"
    rb"|(?P<operator>->|<<=|>>=|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|!|~| [-+*/%&|^<>](?= ))"
)
C_OPERATORS = {old.strip(): new for old, *new in OPERATORS.values()} | {
    **{"&&": ["||"], "||": ["&&"], "++": ["--"], "--": ["++"], "+=": ["-="], "-=": ["+="], "|=": ["&="], "&=": ["|="]},
    **{"^=": ["|="], "<<=": [">>="], ">>=": ["<<="], "*=": ["/="], "/=": ["*="], "!": [""], "~": [""]},
}


def c_mutants(file: str, source: bytes) -> list[Mutant]:
    """All mutants of a C file but for comments, strings, lines of the preprocessor and lengths of arrays.

    Some of them do not compile, or compile to the same.
    """
    visible = C_HIDDEN.sub(lambda hidden: re.sub(rb"[^\n]", b" ", hidden[0]), source)
    found = []
    position = 0
    while match := C_TOKEN.search(visible, position):
        kind, old = match.lastgroup or "", match[0].decode()
        begin, end = match.span()
        position = end
        if kind == "number":
            if "." in old:
                others = {"more": str(float(old) + 1)}
            else:
                write = hex if old[:2].lower() == "0x" else str
                others = {"more": write(int(old, 0) + 1), "less": write(int(old, 0) - 1)}
            for name, new in others.items():
                if not new.startswith("-"):
                    found.append(_mutant(file, source, name, begin, end, new, None))
        elif kind == "operator":
            begin += len(old) - len(old.strip())
            for new in C_OPERATORS.get(old.strip(), ()):
                found.append(_mutant(file, source, f"operator{new}", begin, end, new, None))
        else:
            begin += len(old) - len(old.lstrip())
            position = begin + 1  # what is in the call is met as well
            found.append(_mutant(file, source, "statement", begin, end, ";", None))
    return found


def mutants_of(file: str, source: bytes) -> list[Mutant]:
    return (python_mutants if file.endswith(".py") else c_mutants)(file, source)


def sampled(mutants: dict[str, list[Mutant]], size: int, seed: int) -> dict[str, tuple[int, list[Mutant]]]:
    """By file, how many mutants to try, and the order in which to take them: in proportion, and a few of each file."""
    total = sum(map(len, mutants.values()))
    return {
        file: (min(len(found), max(FEWEST, round(size * len(found) / total))),
               random.Random(f"{seed} {file}").sample(found, len(found)))
        for file, found in mutants.items() if found
    }  # fmt: skip
