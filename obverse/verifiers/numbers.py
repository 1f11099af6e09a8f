"""Exact numbers in the spellings that people and models use, as fractions with a unit; no computer algebra.

Whole (`72`, `1,080`, `1{,}080`, `1 000 000`), decimal (`0.5`), fractions (`1/2`, `\\frac{1}{2}`, `\\frac12`), mixed
(`2 2/3`, `2\\frac{2}{3}`) and scientific (`4.5e33`, `4.5 \\times 10^{33}`, `10^{-7}`).
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from obverse.verifiers.extract import unboxed

MAX_NUMBER_CHARS = 1_000
TOLERANCE = Fraction(1, 100_000)  # relative, of a decimal for a value that no decimal states exactly

_UNICODE = str.maketrans(
    {
        "\u2212": "-",
        "\u00d7": "\\times ",
        "\u00f7": "/",
        "\u00b7": "\\cdot ",
        "\u03c0": "\\pi ",
        "\u221e": "\\infty ",
        "\u2264": "\\le ",
        "\u2265": "\\ge ",
        "\u2260": "\\ne ",
        "\u222a": "\\cup ",
        "\u00b0": "^\\circ",
        "\u00b2": "^2",
        "\u00b3": "^3",
        "\u00bd": "\\frac12",
        "\u00a0": " ",
        "\u2009": " ",
        "\u202f": " ",
    }
)
_REPLACED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right)(?![A-Za-z])", ""),
        (r"\\(?:displaystyle|limits)(?![A-Za-z])", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))", ","),  # 1\,080
        (r"(?<!\\)\\[,;: ]|\\q?quad(?![A-Za-z])|~", " "),  # after a backslash it is a line end
        (r"(?<!\\)\\[!$()\[\]]|\$", ""),
        (r"\{,\}", ","),
        (r"\\%", "%"),
    )
]
_FRACTION_PARTS = re.compile(r"\\frac\s*(\{[^{}]*\}|[0-9])\s*(\{[^{}]*\}|[0-9])")
_SAME_COMMAND = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r"\1"),
        (r"\\(le|ge|ne)q(?![A-Za-z])", r"\\\1"),
        (r"([\^_])\s*\{([A-Za-z0-9])\}", r"\1\2"),
        (r"(?<![0-9])\s+|\s+(?![0-9])", ""),  # spaces, except between two digits: 1 2 is not 12
    )
]
_BRACED = re.compile(r"\{([^{}]*)\}")

_PLAIN = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,3}(?: [0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_PAIR = r"\\frac\s*\{\s*(?P<%s>-?(?:" + _PLAIN + r"))\s*\}\s*\{\s*(?P<%s>-?(?:" + _PLAIN + r"))\s*\}"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:{_PAIR % ('top', 'bottom')}"
    rf"|(?P<whole>[0-9]+)(?:\s*{_PAIR % ('part', 'parts')}|\s+(?P<piece>[0-9]+)\s*/\s*(?P<pieces>[0-9]+))"
    rf"|(?P<plain>{_PLAIN})?(?P<power>(?<=[0-9.])[eE](?P<e>[-+]?[0-9]{{1,3}})(?![0-9])"
    r"|(?:(?<=[0-9.])\s*(?:\\times|\\cdot|\*|x)\s*)?10\s*\^\s*(?:\{\s*(?P<braced>[-+]?[0-9]{1,3})\s*\}|(?P<bare>[-+]?[0-9])(?![0-9])))"
    rf"|(?P<simple>{_PLAIN})(?:\s*/\s*(?P<over>{_PLAIN}))?)"
    r"(?P<rest>.*)",
    re.DOTALL,
)
_UNIT = re.compile(
    r"\s*\\(?:text|textrm|mathrm|mbox)\s*\{[^{}0-9]*\}(?:\^\{?[23]\}?)?"
    r"|\s*\^\s*\{?\s*\\circ\s*\}?\s*(?:[CF])?"
    r"|\s+[A-Za-z]{2,}(?:[ /-][A-Za-z]+){0,3}(?:\^\{?[23]\}?)?"
    r"|\s+[mgsNJWVKLh](?:\^\{?[23]\}?)?"
    r"|_\{?[0-9]{1,2}\}?"  # a base
)
UNIT = re.compile(  # behind a formula
    r"(?<=\S)\s*\\(?:text|textrm|mathrm|mbox)\s*\{[^{}0-9]*\}(?:\s*\^\s*\{?[-0-9]+\}?)?\s*$"
)
_PERCENT = re.compile(r"\s*(?:%|percent|\\text\s*\{\s*percent\s*\})\s*")
# Words that change a number or argue about it, so that what stands before them is not the answer.
_NO_UNITS = set(
    re.findall(
        "[a-z]+",
        "and or to not is are if when but because than less more greater over times plus minus mod base remainder half "
        "pi dozen hundred thousand million billion trillion sqrt sin cos tan log ln exp inf infty nan approximately",
    )
)


class Number(NamedTuple):
    """An exact value and its unit ("" if it has none, "%" for percent, "_2" for a base)."""

    value: Fraction
    unit: str


@lru_cache(maxsize=4096)
def bare(text: str) -> str:
    """Return a formula without what may surround it: dollar signs, a box, bold stars, braces, a period at the end."""
    text = (text if text.isascii() else text.translate(_UNICODE)).strip().strip("*").strip()
    if not (text.isascii() and text.isdigit()):
        for pattern, replacement in _REPLACED:
            text = pattern.sub(replacement, text)
        text = unboxed(text.strip().removesuffix(".").rstrip())
        while braced := _BRACED.fullmatch(text):
            text = braced[1].strip()
        text = _FRACTION_PARTS.sub(lambda part: "\\frac" + "".join(map(_in_braces, part.groups())), text)
    return text


@lru_cache(maxsize=4096)
def number(text: str) -> Number | None:
    """Return the exact value of a bare number and its unit, None if it is none."""
    match = _NUMBER.fullmatch(text) if len(text) <= MAX_NUMBER_CHARS else None
    unit = _unit(match["rest"]) if match else None
    if match is None or unit is None:
        return None
    found = match.groupdict()
    if found["simple"] or found["top"]:
        top, bottom = (found["top"], found["bottom"]) if found["top"] else (found["simple"], found["over"] or "1")
        divisor, value = _fraction(bottom), _fraction(top)
    elif found["whole"]:
        part, parts = found["part"] or found["piece"], found["parts"] or found["pieces"]
        divisor, value = _fraction(parts), _fraction(part)
        if not 0 < value < divisor:  # 2 2/3 is mixed, 2 3/2 is a product or a slip
            return None
        value += _fraction(found["whole"]) * divisor
    else:
        power = int(found["e"] or found["braced"] or found["bare"])
        divisor, value = Fraction(1), _fraction(found["plain"] or "1") * Fraction(10) ** power
    if divisor == 0:
        return None
    value /= divisor
    return Number(-value if found["sign"] == "-" else value, unit)


def same_number(wanted: Number, given: Number) -> bool:
    """Whether a number is the expected one: see `same_value`; only the expected one may ask for a unit."""
    if given.unit not in ("", wanted.unit) and (wanted.unit or given.unit == "%" or given.unit.startswith("_")):
        return False
    return same_value(wanted.value, given.value)


def same_value(wanted: Fraction, given: Fraction) -> bool:
    """Whether two values are equal: exactly, or, where one is a decimal and the other has none, as one cut off.

    The decimal then differs by less than one in its last place, and by no more than the relative TOLERANCE. A whole
    number is never a decimal of anything else.

    Example:
        same_value(Fraction("0.125"), Fraction(1, 8)) and same_value(Fraction(1, 3), Fraction("0.33333"))
    """
    places = [_places(wanted), _places(given)]
    if wanted == given or places.count(None) != 1:
        return wanted == given
    last = next(each for each in places if each is not None)
    difference = abs(wanted - given)
    return last > 0 and difference < Fraction(1, 10**last) and difference <= TOLERANCE * max(abs(wanted), abs(given))


def normalized(text: str) -> str:
    """Return a bare formula in one spelling: no spaces, `\\text{}` unpacked, `\\leq` as `\\le`, `x^{2}` as `x^2`."""
    for pattern, replacement in _SAME_COMMAND:
        text = pattern.sub(replacement, text)
    return text.removesuffix(".")


def _places(value: Fraction) -> int | None:
    """How many decimal places state the value exactly; None where none do: another prime than 2 and 5 divides it."""
    rest, times = value.denominator, [0, 0]
    for index, prime in enumerate((2, 5)):
        while rest % prime == 0:
            rest //= prime
            times[index] += 1
    return max(times) if rest == 1 else None


def _unit(rest: str) -> str | None:
    """The unit in one spelling, "" for nothing, None if what follows the number is more than a unit."""
    if not rest.strip():
        return ""
    if _PERCENT.fullmatch(rest):
        return "%"
    if not _UNIT.fullmatch(rest):
        return None
    words = re.findall(r"[A-Za-z]+", re.sub(r"\\[a-z]+", "", rest).lower())
    if words and words[0] in ("degree", "degrees"):
        return "^"  # as ^\\circ is below
    return None if _NO_UNITS.intersection(words) else re.sub(r"\\[a-z]+|[{}\s]", "", rest).lower()


def _fraction(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", ""))


def _in_braces(part: str) -> str:
    return part if part.startswith("{") else f"{{{part}}}"
