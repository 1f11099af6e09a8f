"""The value of a constant expression in LaTeX, by recursive descent: + - * / ^, fractions, roots, pi and e; never
evaluated.

    sum     = product (("+" | "-") product)*
    product = power (("*" | "/")? power)*
    power   = "-"? value ("^" value)?
    value   = number | pi | e | (sum) | {sum} | \\frac{sum}{sum} | \\sqrt[sum]{sum}

Values are fractions as long as they are rational; roots, pi and e are rounded to a double.
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


class _Unread(ValueError):
    """Not a constant expression, or too large."""


class _At(NamedTuple):
    tokens: list[str]
    position: int
    depth: int

    @property
    def token(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def on(self, steps: int = 1) -> _At:
        return self._replace(position=self.position + steps)

    def deeper(self) -> _At:
        if self.depth >= MAX_DEPTH:
            raise _Unread
        return self._replace(depth=self.depth + 1)


def value(text: str) -> Fraction | None:
    """Return the value of a constant expression, None if a text is something else.

    Example:
        value("\\\\frac{3}{4}+2^{3}") == Fraction(35, 4)
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
        found, at = _sum(_At(tokens, 0, 0))
        return found if at.position == len(tokens) else None
    except (_Unread, ZeroDivisionError, OverflowError, ValueError):
        return None


def _sum(at: _At) -> tuple[Fraction, _At]:
    found, at = _product(at)
    while at.token in ("+", "-"):
        sign = at.token
        other, at = _product(at.on())
        found = found + other if sign == "+" else found - other
    return found, at


def _product(at: _At) -> tuple[Fraction, _At]:
    found, at = _power(at)
    while at.token in ("*", "/") or at.token in ("(", "frac", "sqrt", "pi", "e", "{"):
        sign = at.token if at.token in ("*", "/") else ""
        other, at = _power(at.on() if sign else at)
        found = _checked(found / other if sign == "/" else found * other)
    return found, at


def _power(at: _At) -> tuple[Fraction, _At]:
    if at.token in ("-", "+"):
        negative = at.token == "-"
        found, at = _power(at.on().deeper())
        return (-found if negative else found), at
    found, at = _value(at)
    if at.token == "^":
        exponent, at = _signed(at.on())
        found = _raised(found, exponent)
    return found, at


def _signed(at: _At) -> tuple[Fraction, _At]:
    if at.token == "-":
        found, at = _value(at.on())
        return -found, at
    return _value(at)


def _value(at: _At) -> tuple[Fraction, _At]:
    token = at.token
    if token and (token[0].isdigit() or token[0] == "."):
        return Fraction(token.rstrip(".")), at.on()
    if token in ("pi", "e"):
        return Fraction(math.pi if token == "pi" else math.e), at.on()
    if token in ("(", "{"):
        found, inner = _sum(at.on().deeper())
        if inner.token != {"(": ")", "{": "}"}[token]:
            raise _Unread
        return found, inner.on()._replace(depth=at.depth)
    if token == "frac":
        top, at = _value(at.on().deeper())
        bottom, at = _value(at)
        return top / bottom, at
    if token == "sqrt":
        index, at = Fraction(2), at.on()
        if at.token == "[":
            index, at = _sum(at.on().deeper())
            if at.token != "]":
                raise _Unread
            at = at.on()
        found, at = _value(at)
        return _raised(found, 1 / index), at
    raise _Unread


def _raised(base: Fraction, exponent: Fraction) -> Fraction:
    if abs(exponent) > MAX_EXPONENT:
        raise _Unread
    if exponent.denominator == 1:
        if (
            base.numerator.bit_length() * abs(exponent) > MAX_BITS
            or base.denominator.bit_length() * abs(exponent) > MAX_BITS
        ):
            raise _Unread
        return base ** int(exponent)
    if base < 0:
        raise _Unread
    root = float(base) ** float(exponent)
    nearest = Fraction(round(root))  # the root of a power is exact
    return nearest if nearest**exponent.denominator == base**exponent.numerator else Fraction(root)


def _checked(found: Fraction) -> Fraction:
    if found.numerator.bit_length() > MAX_BITS or found.denominator.bit_length() > MAX_BITS:
        raise _Unread
    return found
