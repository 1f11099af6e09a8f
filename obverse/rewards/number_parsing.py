"""Exact numbers in the spellings that people and models use, as fractions with a unit; no computer algebra.

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
TOLERANCE = Fraction(1, 100_000)  # relative, of a decimal for a value that no decimal states exactly

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
    """An exact value as it is written and its unit, which may hold a "million"."""

    value: Fraction
    unit: Unit = NONE

    @property
    def total(self) -> Fraction:
        """The value with the "million" counted in."""
        return self.value * self.unit.scale


@lru_cache(maxsize=4096)
def number(text: str) -> Number | None:
    """Return the exact value of a bare number and its unit, None if it is none."""
    if len(text) > MAX_NUMBER_CHARS:
        return None
    if currency := _CURRENCY.fullmatch(text):
        return _with_currency(*currency.groups())
    match = _NUMBER.fullmatch(text)
    if match is None:
        value = _IN_WORDS.get(re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).strip().lower().replace("-", " "))
        return None if value is None else Number(Fraction(value))
    found = match.groupdict()
    exact = _value(found)
    if exact is None:
        return None
    unit = units.unit(found["rest"], small=abs(exact) <= 1) if found["rest"] else NONE
    return None if unit is None else Number(-exact if found["sign"] == "-" else exact, unit)


def same_number(wanted: Number, given: Number) -> bool:
    """Whether a number is the expected one: see `same_value`; only the expected one may ask for a unit.

    Its unit may be left out, or replaced by another of the same dimensions with the value that belongs to it; so may
    its "million". A percent sign is only right where one is expected.
    """
    if wanted.unit == given.unit:
        return same_value(wanted.value, given.value)
    if given.unit == NONE:
        return same_value(wanted.value, given.value) or same_value(wanted.total, given.value)
    if not wanted.unit.bases:
        return given.unit.bases != PERCENT.bases and same_value(wanted.total, given.total)
    if not given.unit.bases:
        return same_value(wanted.total, given.total)
    if wanted.unit.bases != given.unit.bases:
        return False
    return same_value(wanted.value * wanted.unit.factor, given.value * given.unit.factor)


def same_value(wanted: Fraction, given: Fraction) -> bool:
    """Whether two values are equal: exactly, or, where one is a decimal and the other has none, as one cut off.

    The decimal then differs by less than one in its last place, and by no more than the relative TOLERANCE; or it is
    the expected one, has two places or more, and is the other one rounded. A whole number is never a decimal of
    anything else.

    Example:
        same_value(Fraction("0.125"), Fraction(1, 8)) and same_value(Fraction(1, 3), Fraction("0.33333"))
    """
    places = [_places(wanted), _places(given)]
    if wanted == given or places.count(None) != 1:
        return wanted == given
    last = next(each for each in places if each is not None)
    difference = abs(wanted - given)
    if places[0] is not None and last >= 2 and difference <= Fraction(1, 2 * 10**last):
        return True
    return last > 0 and difference < Fraction(1, 10**last) and difference <= TOLERANCE * max(abs(wanted), abs(given))


def is_decimal(text: str) -> bool:
    """Whether a bare number is written with a decimal point."""
    return bool(re.match(r"-?\s*[0-9]*\.[0-9]", text)) and number(text) is not None


def places(value: Fraction) -> int | None:
    """Return how many decimal places state a value exactly; None where none do."""
    return _places(value)


def _places(value: Fraction) -> int | None:
    """How many decimal places state the value exactly; None where none do: another prime than 2 and 5 divides it."""
    rest, times = value.denominator, [0, 0]
    for index, prime in enumerate((2, 5)):
        while rest % prime == 0:
            rest //= prime
            times[index] += 1
    return max(times) if rest == 1 else None


def _value(found: dict[str, str | None]) -> Fraction | None:
    if found["simple"] or found["top"]:
        top, bottom = (found["top"], found["bottom"]) if found["top"] else (found["simple"], found["over"] or "1")
        divisor = _fraction(bottom or "1")
        return _fraction(top or "0") / divisor if divisor else None
    if found["whole"]:
        part, divisor = (
            _fraction(found["part"] or found["piece"] or ""),
            _fraction(found["parts"] or found["pieces"] or ""),
        )
        # 2 2/3 is mixed, 2 3/2 is a product or a slip
        return _fraction(found["whole"]) + part / divisor if 0 < part < divisor else None
    if found["repeating"]:
        return _repeating(found["repeating"])
    if found["european"]:
        return Fraction(found["european"].replace(".", "").replace(",", "."))
    power = int(found["e"] or found["braced"] or found["round"] or found["bare"] or "0")
    return _fraction(found["plain"] or "1") * Fraction(10) ** power


def _repeating(text: str) -> Fraction | None:
    """`0.1\\overline{6}`, `0.1\\dot{6}`, `0.(27)`, `0.2727...`; None where dots follow what does not repeat."""
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
    amount, money = number(rest), units.unit(" " + currency)
    if amount is None or money is None or (amount.value < 0 and sign):
        return None
    bases = amount.unit.bases
    if bases and bases != money.bases:
        return None
    unit = Unit(money.factor * amount.unit.scale, money.bases, amount.unit.scale)
    return Number(-amount.value if sign else amount.value, unit)


def _fraction(text: str) -> Fraction:
    return Fraction(re.sub(r"[, '_]", "", text))
