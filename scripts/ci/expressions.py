"""Evaluate the expressions of GitHub's workflows: `${{ matrix.suite }}`, `always() && needs.build.result == 'success'`.

Supports literals, contexts, the operators ! == != && || and the functions that our workflows use; anything else raises
ExpressionError. Comparison and truth follow GitHub: strings ignore case, and '', 0, false and null are false.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

_TOKEN = re.compile(
    r"\s*(?:(?P<string>'(?:[^']|'')*')|(?P<number>-?\d+(?:\.\d+)?)|(?P<name>[A-Za-z_][\w-]*)"
    r"|(?P<operator>&&|\|\||==|!=|[!().,*\[\]]))"
)
_EMBEDDED = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_LITERALS = {"true": True, "false": False, "null": None}
_STATUS = re.compile(r"\b(always|success|failure|cancelled)\(\)")


class ExpressionError(Exception):
    """The expression is invalid or uses something that is not supported."""


def truth(value: Any) -> bool:
    """Return whether GitHub treats a value as true."""
    return value not in (None, False, 0, "")


def text(value: Any) -> str:
    """Return a value as GitHub inserts it into a string."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def evaluate(expression: str, contexts: Mapping[str, Any], failed: bool = False) -> Any:
    """Return the value of an expression; failed is the status of the job so far. Raises ExpressionError."""
    return _Parser(expression, contexts, failed).parse()


def condition(value: str, contexts: Mapping[str, Any], failed: bool = False) -> bool:
    """Return whether a step or job with this `if` runs; without a status function it needs a successful job."""
    expression = value.strip().removeprefix("${{").removesuffix("}}") or "success()"
    if not _STATUS.search(expression):
        expression = f"success() && ({expression})"
    return truth(evaluate(expression, contexts, failed))


def interpolate(value: Any, contexts: Mapping[str, Any], failed: bool = False) -> str:
    """Return a value of a workflow as text, with its expressions replaced."""
    return _EMBEDDED.sub(lambda match: text(evaluate(match[1], contexts, failed)), text(value))


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        return left.casefold() == right.casefold()
    return bool(text(left) == text(right) if type(left) is type(right) else _number(left) == _number(right))


def _number(value: Any) -> float:
    try:
        return float(value or 0)
    except (TypeError, ValueError):
        return float("nan")


def _contains(whole: Any, part: Any) -> bool:
    """Return whether a list has an element, or a text another one."""
    if isinstance(whole, list):
        return any(_equal(item, part) for item in whole)
    return text(part).casefold() in text(whole).casefold()


def _member(value: Any, key: Any) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


class _Parser:
    """A recursive descent parser that evaluates while it reads."""

    def __init__(self, expression: str, contexts: Mapping[str, Any], failed: bool) -> None:
        self._contexts = contexts
        self._functions: dict[str, Callable[..., Any]] = {
            "always": lambda: True,
            "success": lambda: not failed,
            "failure": lambda: failed,
            "cancelled": lambda: False,
            "contains": _contains,
            "format": lambda pattern, *values: re.sub(r"\{(\d+)\}", lambda match: text(values[int(match[1])]), pattern),
            "toJSON": lambda value: json.dumps(value, indent=2),
            # Identifies a cache, whose content this rehearsal provides.
            "hashFiles": lambda *patterns: "0" * 64,
        }
        self._tokens: list[tuple[str, str]] = []
        position, end = 0, len(expression.rstrip())
        while position < end:
            match = _TOKEN.match(expression, position)
            if match is None or match.lastgroup is None:
                raise ExpressionError(f"cannot read {expression[position:]!r} in {expression!r}")
            self._tokens.append((match.lastgroup, match[match.lastgroup]))
            position = match.end()
        self._tokens.append(("end", ""))
        self._expression = expression

    def parse(self) -> Any:
        value = self._or()
        self._expect("")
        return value

    def _next(self) -> tuple[str, str]:
        # The last token marks the end and stays.
        return self._tokens.pop(0) if len(self._tokens) > 1 else self._tokens[0]

    def _accept(self, *operators: str) -> str:
        kind, value = self._tokens[0]
        return self._next()[1] if kind == "operator" and value in operators else ""

    def _expect(self, value: str) -> None:
        if self._next()[1] != value:
            raise ExpressionError(f"{value or 'the end'!r} is missing in {self._expression!r}")

    def _or(self) -> Any:
        value = self._and()
        while self._accept("||"):
            other = self._and()
            value = value if truth(value) else other
        return value

    def _and(self) -> Any:
        value = self._comparison()
        while self._accept("&&"):
            other = self._comparison()
            value = other if truth(value) else value
        return value

    def _comparison(self) -> Any:
        value = self._unary()
        while operator := self._accept("==", "!="):
            value = _equal(value, self._unary()) == (operator == "==")
        return value

    def _unary(self) -> Any:
        return not truth(self._unary()) if self._accept("!") else self._postfix()

    def _postfix(self) -> Any:
        value = self._primary()
        while operator := self._accept(".", "["):
            if operator == "." and self._accept("*"):
                value = list(value.values()) if isinstance(value, Mapping) else []
                continue
            key = self._key() if operator == "." else self._or()
            if operator == "[":
                self._expect("]")
            value = [_member(item, key) for item in value] if isinstance(value, list) else _member(value, key)
        return value

    def _key(self) -> str:
        kind, value = self._next()
        if kind != "name":
            raise ExpressionError(f"a name is missing in {self._expression!r}")
        return value

    def _primary(self) -> Any:
        kind, value = self._next()
        if kind == "string":
            return value[1:-1].replace("''", "'")
        if kind == "number":
            return float(value) if "." in value else int(value)
        if (kind, value) == ("operator", "("):
            inner = self._or()
            self._expect(")")
            return inner
        if kind != "name":
            raise ExpressionError(f"{value!r} is unexpected in {self._expression!r}")
        if self._accept("("):
            return self._call(value)
        if value in _LITERALS:
            return _LITERALS[value]
        if value not in self._contexts:
            raise ExpressionError(f"context {value!r} is unknown in {self._expression!r}")
        return self._contexts[value]

    def _call(self, name: str) -> Any:
        arguments = []
        while not self._accept(")"):
            arguments.append(self._or())
            self._accept(",")
        if name not in self._functions:
            raise ExpressionError(f"function {name} is not supported")
        return self._functions[name](*arguments)
