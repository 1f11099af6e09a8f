"""Exact numbers in the notations that people and models use, as fractions with a unit; no computer algebra.

Whole (`72`, `1,080`, `1{,}080`, `1 000 000`, `1'080`, `12,34,567`, `1.234.567`), decimal (`0.5`, `1.234,5`), repeating
(`0.1\\overline{6}`, `0.(3)`, `0.333...`), fractions (`1/2`, `\\frac{1}{2}`, `\\frac12`), mixed (`2 2/3`,
`2\\frac{2}{3}`, `2 and 2/3`), scientific (`4.5e33`, `4.5 \\times 10^{33}`, `10^{-7}`) and in words up to ninety-nine.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from obverse.rewards import units
from obverse.rewards.lexicon import ONES, TENS
from obverse.rewards.normalization import bare, normalized
from obverse.rewards.units import NONE, PERCENT, Unit

__all__ = ["TOLERANCE", "Number", "bare", "normalized", "number", "same_number", "same_value"]

MAX_NUMBER_CHARS = 1_000
TOLERANCE = Fraction(1, 100_000)  # relative, for a decimal that approximates a value without an exact decimal

_PLAIN = (
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,3}(?: [0-9]{3})+(?![0-9])|[0-9]{1,3}(?:['_][0-9]{3})+(?![0-9])"
    r"|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9])|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
)
_PAIR = r"\\frac\s*\{\s*(?P<%s>-?(?:" + _PLAIN + r"))\s*\}\s*\{\s*(?P<%s>-?(?:" + _PLAIN + r"))\s*\}"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:{_PAIR % ('top', 'bottom')}"
    rf"|(?P<whole>[0-9]+)(?:\s*{_PAIR % ('part', 'parts')}|\s+(?:and\s+)?(?P<piece>[0-9]+)\s*/\s*(?P<pieces>[0-9]+))"
    rf"|(?P<plain>{_PLAIN})?(?P<power>(?<=[0-9.])[eE](?P<e>[-+]?[0-9]{{1,3}})(?![0-9])"
    r"|(?:(?<=[0-9.])\s*(?:\\times|\\cdot|\*|x)\s*)?10\s*(?:\^|\*\*)\s*(?:\{\s*(?P<braced>[-+]?[0-9]{1,3})\s*\}"
    r"|\(\s*(?P<round>[-+]?[0-9]{1,3})\s*\)"
    r"|(?P<bare>[-+]?[0-9]{1,3})(?![0-9])))"
    r"|(?P<repeating>[0-9]*\.[0-9]*(?:\\(?:overline|bar)\s*\{[0-9]+\}|(?:\\dot\s*\{?[0-9]\}?[0-9]*){1,2}|\([0-9]+\)"
    r"|\s?(?:\.\.\.|\\ldots)))"
    r"|(?P<european>[0-9]{1,3}(?:\.[0-9]{3}){2,}(?:,[0-9]+)?(?![0-9.])|[0-9]{1,3}\.[0-9]{3},[0-9]+(?![0-9.,]))"
    rf"|(?P<simple>{_PLAIN})(?:\s*/\s*(?P<over>-?(?:{_PLAIN})))?)"
    r"(?P<rest>.*)",
    re.DOTALL,
)
_CURRENCY = re.compile(
    r"(-?)\s*(\\(?:\$|euro|pounds|yen|rupee|cent)(?![A-Za-z])|(?:USD|EUR|GBP|Rs)(?=[\s.])\.?)\s*(-?[0-9.\\].*)",
    re.DOTALL,
)
_IN_WORDS = {word: value for value, word in enumerate(ONES)}
_IN_WORDS |= {ten: 10 * index for index, ten in enumerate(TENS, 2)}
_IN_WORDS |= {
    f"{ten} {one}": 10 * tens + value for tens, ten in enumerate(TENS, 2) for value, one in enumerate(ONES[1:10], 1)
}


class Number(NamedTuple):
    """An exact value as written, and its unit, which may include a "million"."""

    value: Fraction
    unit: Unit = NONE

    @property
    def total(self) -> Fraction:
        """The value multiplied by the "million" of the unit."""
        return self.value * self.unit.scale


@lru_cache(maxsize=4096)
def number(text: str) -> Number | None:
    """Return the exact value and the unit of a bare text, None if it is not a number."""
    if len(text) > MAX_NUMBER_CHARS:
        return None
    if currency := _CURRENCY.fullmatch(text):
        return _with_currency(*currency.groups())
    match = _NUMBER.fullmatch(text)
    if match is None:
        value = _IN_WORDS.get(re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).strip().lower().replace("-", " "))
        return None if value is None else Number(Fraction(value))
    groups = match.groupdict()
    exact = _value(groups)
    if exact is None:
        return None
    unit = units.parse_unit(groups["rest"], small=abs(exact) <= 1) if groups["rest"] else NONE
    return None if unit is None else Number(-exact if groups["sign"] == "-" else exact, unit)


def same_number(expected: Number, candidate: Number) -> bool:
    """Return whether a number equals the expected one (`same_value`); only the expected one may require a unit.

    The expected unit may be omitted, or replaced by another one of the same dimensions with the corresponding value,
    and so may its "million". A percent sign is only accepted if the expected number has one.
    """
    if expected.unit == candidate.unit:
        return same_value(expected.value, candidate.value)
    if candidate.unit == NONE:
        return same_value(expected.value, candidate.value) or same_value(expected.total, candidate.value)
    if not expected.unit.bases:
        return candidate.unit.bases != PERCENT.bases and same_value(expected.total, candidate.total)
    if not candidate.unit.bases:
        return same_value(expected.total, candidate.total)
    if expected.unit.bases != candidate.unit.bases:
        return False
    return same_value(expected.value * expected.unit.factor, candidate.value * candidate.unit.factor)


def same_value(expected: Fraction, candidate: Fraction) -> bool:
    """Return whether two values are equal, exactly or, if only one of them has an exact decimal, as a rounded decimal.

    The decimal then differs by less than one unit in its last place and by at most the relative TOLERANCE; or it is the
    expected value, has two places or more, and is the other value rounded. A whole number only equals itself.

    Example:
        same_value(Fraction("0.125"), Fraction(1, 8)) and same_value(Fraction(1, 3), Fraction("0.33333"))
    """
    decimals = [places(expected), places(candidate)]
    if expected == candidate or decimals.count(None) != 1:
        return expected == candidate
    last = next(position for position in decimals if position is not None)
    difference = abs(expected - candidate)
    if decimals[0] is not None and last >= 2 and difference <= Fraction(1, 2 * 10**last):
        return True
    return (
        last > 0 and difference < Fraction(1, 10**last) and difference <= TOLERANCE * max(abs(expected), abs(candidate))
    )


def is_decimal(text: str) -> bool:
    """Return whether a bare number is written with a decimal point."""
    return bool(re.match(r"-?\s*[0-9]*\.[0-9]", text)) and number(text) is not None


def places(value: Fraction) -> int | None:
    """Return the number of decimal places of the exact value; None if its denominator has a prime other than 2 and 5.

    Example:
        places(Fraction("0.125")) == 3 and places(Fraction(1, 3)) is None
    """
    remaining, exponents = value.denominator, [0, 0]
    for index, prime in enumerate((2, 5)):
        while remaining % prime == 0:
            remaining //= prime
            exponents[index] += 1
    return max(exponents) if remaining == 1 else None


def _value(groups: dict[str, str | None]) -> Fraction | None:
    if groups["simple"] or groups["top"]:
        top, bottom = (groups["top"], groups["bottom"]) if groups["top"] else (groups["simple"], groups["over"] or "1")
        divisor = _fraction(bottom or "1")
        return _fraction(top or "0") / divisor if divisor else None
    if groups["whole"]:
        part, divisor = (
            _fraction(groups["part"] or groups["piece"] or ""),
            _fraction(groups["parts"] or groups["pieces"] or ""),
        )
        # 2 2/3 is a mixed number, 2 3/2 is not
        return _fraction(groups["whole"]) + part / divisor if 0 < part < divisor else None
    if groups["repeating"]:
        return _repeating(groups["repeating"])
    if groups["european"]:
        return Fraction(groups["european"].replace(".", "").replace(",", "."))
    power = int(groups["e"] or groups["braced"] or groups["round"] or groups["bare"] or "0")
    return _fraction(groups["plain"] or "1") * Fraction(10) ** power


def _repeating(text: str) -> Fraction | None:
    """Parse `0.1\\overline{6}`, `0.1\\dot{6}`, `0.(27)`, `0.2727...`; None if dots follow digits without a cycle."""
    whole, _, decimals = text.partition(".")
    if (start := re.search(r"\\|\(|\s|\.\.\.", decimals)) is None:
        return None
    fixed = decimals[: start.start()]
    cycle = "".join(re.findall("[0-9]", decimals[start.start() :]))
    if not cycle:  # dots
        digits = fixed
        for period in range(1, len(digits) // 2 + 1):
            if len(digits) >= 3 and digits[-period:] == digits[-2 * period : -period]:
                cycle = digits[-period:]
                break
        if not cycle or (len(cycle) == 1 and digits[-3:] != 3 * cycle):
            return None
    value = Fraction(int((whole or "0") + fixed or "0"), 10 ** len(fixed))
    return value + Fraction(int(cycle), 10 ** len(fixed) * (10 ** len(cycle) - 1))


def _with_currency(sign: str, currency: str, rest: str) -> Number | None:
    amount, money = number(rest), units.parse_unit(" " + currency)
    if amount is None or money is None or (amount.value < 0 and sign):
        return None
    bases = amount.unit.bases
    if bases and bases != money.bases:
        return None
    unit = Unit(money.factor * amount.unit.scale, money.bases, amount.unit.scale)
    return Number(-amount.value if sign else amount.value, unit)


def _fraction(text: str) -> Fraction:
    return Fraction(re.sub(r"[, '_]", "", text))
