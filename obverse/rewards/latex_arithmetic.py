"""Values of constant LaTeX expressions with + - * / ^, fractions, roots, pi and e, by a recursive-descent parser.

    sum     = product (("+" | "-") product)*
    product = power (("*" | "/")? power)*
    power   = "-"? value ("^" value)?
    value   = number | pi | e | (sum) | {sum} | \\frac{sum}{sum} | \\sqrt[sum]{sum}

Rational values are exact fractions; roots, pi and e are rounded to float64. No text is evaluated as code.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import NamedTuple

MAX_CHARS, MAX_DEPTH, MAX_EXPONENT, MAX_BITS = 200, 20, 400, 4_000

_TOKEN = re.compile(
    r"\s*(?:([0-9]+(?:\.[0-9]*)?|\.[0-9]+)|\\(frac|sqrt|pi|cdot|times|div)(?![A-Za-z])|(\*\*|[-+*/^(){}\[\]])"
    r"|(e)(?![A-Za-z]))\s*"
)
_SIGNS = {"cdot": "*", "times": "*", "div": "/", "**": "^"}


class _NotConstant(ValueError):
    """The text is not a constant expression, or its value is too large."""


class _Cursor(NamedTuple):
    tokens: list[str]
    position: int
    depth: int

    @property
    def token(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def advance(self, steps: int = 1) -> _Cursor:
        return self._replace(position=self.position + steps)

    def deeper(self) -> _Cursor:
        if self.depth >= MAX_DEPTH:
            raise _NotConstant
        return self._replace(depth=self.depth + 1)


def constant_value(text: str) -> Fraction | None:
    """Return the value of a constant expression, None for any other text.

    Example:
        constant_value("\\\\frac{3}{4}+2^{3}") == Fraction(35, 4)
    """
    if len(text) > MAX_CHARS:
        return None
    try:
        tokens, position = [], 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                return None
            token = next(group for group in match.groups() if group)
            tokens.append(_SIGNS.get(token, token))
            position = match.end()
        result, cursor = _sum(_Cursor(tokens, 0, 0))
        return result if cursor.position == len(tokens) else None
    except (_NotConstant, ZeroDivisionError, OverflowError, ValueError):
        return None


def _sum(cursor: _Cursor) -> tuple[Fraction, _Cursor]:
    total, cursor = _product(cursor)
    while cursor.token in ("+", "-"):
        sign = cursor.token
        term, cursor = _product(cursor.advance())
        total = total + term if sign == "+" else total - term
    return total, cursor


def _product(cursor: _Cursor) -> tuple[Fraction, _Cursor]:
    product, cursor = _power(cursor)
    while cursor.token in ("*", "/") or cursor.token in ("(", "frac", "sqrt", "pi", "e", "{"):
        sign = cursor.token if cursor.token in ("*", "/") else ""
        factor, cursor = _power(cursor.advance() if sign else cursor)
        product = _checked(product / factor if sign == "/" else product * factor)
    return product, cursor


def _power(cursor: _Cursor) -> tuple[Fraction, _Cursor]:
    if cursor.token in ("-", "+"):
        negative = cursor.token == "-"
        base, cursor = _power(cursor.advance().deeper())
        return (-base if negative else base), cursor
    base, cursor = _value(cursor)
    if cursor.token == "^":
        exponent, cursor = _signed(cursor.advance())
        base = _raised(base, exponent)
    return base, cursor


def _signed(cursor: _Cursor) -> tuple[Fraction, _Cursor]:
    if cursor.token == "-":
        exponent, cursor = _value(cursor.advance())
        return -exponent, cursor
    return _value(cursor)


def _value(cursor: _Cursor) -> tuple[Fraction, _Cursor]:
    token = cursor.token
    if token and (token[0].isdigit() or token[0] == "."):
        return Fraction(token.rstrip(".")), cursor.advance()
    if token in ("pi", "e"):
        return Fraction(math.pi if token == "pi" else math.e), cursor.advance()
    if token in ("(", "{"):
        value, inner = _sum(cursor.advance().deeper())
        if inner.token != {"(": ")", "{": "}"}[token]:
            raise _NotConstant
        return value, inner.advance()._replace(depth=cursor.depth)
    if token == "frac":
        top, cursor = _value(cursor.advance().deeper())
        bottom, cursor = _value(cursor)
        return top / bottom, cursor
    if token == "sqrt":
        index, cursor = Fraction(2), cursor.advance()
        if cursor.token == "[":
            index, cursor = _sum(cursor.advance().deeper())
            if cursor.token != "]":
                raise _NotConstant
            cursor = cursor.advance()
        value, cursor = _value(cursor)
        return _raised(value, 1 / index), cursor
    raise _NotConstant


def _raised(base: Fraction, exponent: Fraction) -> Fraction:
    if abs(exponent) > MAX_EXPONENT:
        raise _NotConstant
    if exponent.denominator == 1:
        if (
            base.numerator.bit_length() * abs(exponent) > MAX_BITS
            or base.denominator.bit_length() * abs(exponent) > MAX_BITS
        ):
            raise _NotConstant
        return base ** int(exponent)
    if base < 0:
        raise _NotConstant
    root = float(base) ** float(exponent)
    nearest = Fraction(round(root))  # exact for the root of a power
    return nearest if nearest**exponent.denominator == base**exponent.numerator else Fraction(root)


def _checked(value: Fraction) -> Fraction:
    if value.numerator.bit_length() > MAX_BITS or value.denominator.bit_length() > MAX_BITS:
        raise _NotConstant
    return value
