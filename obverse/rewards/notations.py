"""Clock times, ratios, and numerals in a base: notations whose signs have another meaning in formulas."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple


class Clock(NamedTuple):
    """Hours, minutes and seconds, and the half of the day: "a", "p", or "" if it is not given."""

    parts: tuple[int, ...]
    half: str


class Ratio(NamedTuple):
    """A ratio of two or more terms."""

    terms: tuple[Fraction, ...]


class Numeral(NamedTuple):
    """Digits in a base, without leading zeros, and their value."""

    digits: str
    base: int
    value: int


_HALF = r"(?P<half>[AaPp])\.?\s?[Mm]\.?"
_CLOCK = re.compile(
    rf"(?P<hours>[0-9]{{1,2}})\s*:\s*(?P<minutes>[0-5][0-9])(?:\s*:\s*(?P<seconds>[0-5][0-9]))?(?:\s*{_HALF})?(?:\s*o'clock)?"
)
_HOUR = re.compile(rf"(?P<hours>1?[0-9])\s*(?:{_HALF})")
_TERM = r"(?:[0-9]+(?:\.[0-9]+)?)"
_RATIO = re.compile(rf"{_TERM}(?:\s*(?::|\\colon|\bto\b|\\mathrel\{{:\}})\s*{_TERM})+")
_NUMERAL = re.compile(r"\(?(?P<digits>[0-9A-Za-z]{1,60})\)?\s*_\s*\{?\s*(?P<base>[0-9]{1,2})\s*\}?")
_HEXADECIMAL = re.compile(r"0[xX]([0-9A-Fa-f]{1,60})")
_WORDS = re.compile(r"\\(?:text|textrm|mathrm|mbox)\s*\{([^{}]*)\}")


@lru_cache(maxsize=4096)
def notation(text: str) -> Clock | Ratio | Numeral | None:
    """Return a bare text as a clock time, ratio or numeral in a base; None for any other text."""
    if ":" in text or "to" in text or "colon" in text or re.search(r"[AaPp]\.?\s?[Mm]\.?", text):
        plain = " ".join(_WORDS.sub(r" \1 ", text).split()).replace("{:}", ":").replace("{ : }", ":")
        match = _CLOCK.fullmatch(plain) or _HOUR.fullmatch(plain)
        if match and int(match["hours"]) <= 24:
            groups = match.groupdict()
            parts = (int(groups["hours"]), int(groups.get("minutes") or 0), int(groups.get("seconds") or 0))
            return Clock(parts, (groups["half"] or "").lower())
        if _RATIO.fullmatch(plain):
            return Ratio(tuple(Fraction(term) for term in re.findall(_TERM, plain)))
    if "_" in text and (match := _NUMERAL.fullmatch(text)):
        return _numeral(match["digits"], int(match["base"]))
    if match := _HEXADECIMAL.fullmatch(text):
        return _numeral(match[1], 16)
    return None


def same_notation(expected: Clock | Ratio | Numeral, candidate: Clock | Ratio | Numeral) -> bool:
    """Return whether two notations are equal: the same time, proportional terms, the same value."""
    if isinstance(expected, Clock) and isinstance(candidate, Clock):
        return expected.parts == candidate.parts and (
            expected.half == candidate.half or not (expected.half and candidate.half)
        )
    if isinstance(expected, Ratio) and isinstance(candidate, Clock) and not candidate.half:
        candidate = Ratio(tuple(map(Fraction, candidate.parts if candidate.parts[2] else candidate.parts[:2])))
    if isinstance(expected, Ratio) and isinstance(candidate, Ratio) and len(expected.terms) == len(candidate.terms):
        return all(
            a * candidate.terms[0] == b * expected.terms[0]
            for a, b in zip(expected.terms, candidate.terms, strict=True)
        )
    return isinstance(expected, Numeral) and isinstance(candidate, Numeral) and expected.value == candidate.value


def as_number(expected: Clock | Ratio | Numeral, candidate: str, value: Fraction | None) -> bool:
    """Return whether a text, with its value as a plain number, equals an expected ratio (as a quotient) or numeral.

    The base of a numeral may be omitted, and its value in base ten is accepted too.
    """
    if isinstance(expected, Numeral) and candidate.isalnum() and (value is None or candidate.isdigit()):
        return candidate.upper().lstrip("0") == expected.digits or value == expected.value
    if isinstance(expected, Ratio):
        return len(expected.terms) == 2 and expected.terms[1] != 0 and value == expected.terms[0] / expected.terms[1]
    return isinstance(expected, Numeral) and value == expected.value


def _numeral(digits: str, base: int) -> Numeral | None:
    digits = digits.upper().lstrip("0") or "0"
    if not 2 <= base <= 36 or not (any(map(str.isdigit, digits)) or base == 16):
        return None
    if any(int(digit, 36) >= base for digit in digits):
        return None
    return Numeral(digits, base, int(digits, base))
