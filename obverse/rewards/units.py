"""Units after a number: physical units with their dimensions, and counted things.

A unit is a factor and the powers of its bases: `km/h` is 1000/3600 of m^1 s^-1. A counted thing (`apples`, `square
tiles`) is a base named by its last noun. Text with words that change a number (`squared`, `thirds`, `below zero`),
question it (`maybe`, `wrong`) or compare it (`at most`, `more than`) is not a unit, and the number before it is not
the answer.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from obverse.rewards import lexicon


class Unit(NamedTuple):
    """A factor and the powers of its bases; `scale` is the part of the factor that is a "million" or the like."""

    factor: Fraction = Fraction(1)
    bases: frozenset[tuple[str, int]] = frozenset()
    scale: int = 1


NONE = Unit()
PERCENT = Unit(bases=frozenset({("%", 1)}))
DEGREE = Unit(bases=frozenset({("degree", 1)}))

SCALES = {
    "hundred": 100,
    "thousand": 1_000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
    "dozens": 12,
    "lakh": 10**5,
    "crore": 10**7,
}
_UNITS: dict[str, tuple[str, Fraction]] = {}
for _line in lexicon.UNITS.replace("\n", " ").split(";"):
    _base, *_words = _line.split()
    for _word in _words:
        _UNITS[_word] = (_base.partition(":")[0], Fraction(_base.partition(":")[2]))
_SINGLE_LETTERS = frozenset("msghlLNJWVCA")  # single letters that may be units; other letters are variables
_TRAILING_WORDS = re.compile(
    r"(?:^|\s)(?:in\s(?:total|all|the\s\w+)|altogether|total|overall|each|apiece|(?:per|a|an)\s(?:person|piece|item)"
    r"|left|remaining|left\sover"
    r"|times\s(?:as\s(?:many|much|large|long|fast)|larger|bigger|faster)|old|tall|long|wide|high|deep|away|ago|later"
    r"|earlier|faster|slower|ahead|times|more|fewer|now|today|again|in\stotal|for\seach|exactly"
    r"|approximately|approx\.?|about|roughly|correct\sto\s\w+)$"
)
_OF = re.compile(r"(?:^|(?<=\s))of\s(?:the\s|a\s|an\s|his\s|her\s|their\s|its\s|all\s)?[a-z]+(?:\s[a-z]+)?$")
_OF_WORDS = frozenset(("of", "the", "all", "a", "an", "his", "her", "its", "their"))
_WRAPPED = re.compile(
    r"\\(?:text|textrm|textbf|textit|textsf|mathrm|mathbf|mathsf|mathit|mbox|operatorname|rm)\s*\{([^{}]*)\}"
)
_QUOTIENT = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_SPELLED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\^\s*\{\s*(-?[0-9])\s*\}", r"^\1"),
        (r"\\(?:[,;:! ]|quad|qquad)|~", " "),
        (r"\^\s*\{?\s*\\circ\s*\}?\s*C\b", " celsius "),
        (r"\^\s*\{?\s*\\circ\s*\}?\s*F\b", " fahrenheit "),
        (r"\^\s*\{?\s*\\circ\s*\}?", " degrees "),
        (r"\\(?:cdot|times)(?![A-Za-z])", "*"),
        (r"\\mu\s*", "u"),
        (r"\\(?:Omega|ohm)(?![A-Za-z])", " ohm "),
        (r"\\cent(?![A-Za-z])", " cents "),
        (r"\\euro(?![A-Za-z])", " euros "),
        (r"\\pounds(?![A-Za-z])", " GBP "),
        (r"\\yen(?![A-Za-z])", " yen "),
        (r"\\rupee(?![A-Za-z])", " rupees "),
        (r"\\\$", " dollars "),
        (r"\b[Ss]q(?:uare|\.)?\s+([a-zA-Z]+)(?!\^)", r"\1^2"),
        (r"\b[Cc]u(?:bic|\.)?\s+([a-zA-Z]+)(?!\^)", r"\1^3"),
        (r"\bmph\b", "mi/h"),
        (r"\b(?:kph|kmh)\b", "km/h"),
        (r"\bper\s+cent\b", "percent"),
        (r"\s+(?:per|an?)\s+(?=[a-zA-Z]+$)", "/"),
        (r"(?<=[a-z])\.(?=\s|$|\^)", ""),
    )
]
_PRODUCT = re.compile(r"\s*(?P<sign>[/*])?\s*(?P<word>[A-Za-z]+)(?:\^(?P<power>-?[1-9]))?")
_MARKS = {"'": "feet", '"': "inches", "''": "inches", "^\\prime": "feet"}
MAX_UNIT_CHARS = 80


@lru_cache(maxsize=4096)
def parse_unit(rest: str, *, small: bool = False) -> Unit | None:
    """Return the unit in the text after a number; None if the text is not just a unit.

    `small`: the number is at most 1, so that a counted thing may be in the singular.
    """
    if not rest.strip():
        return NONE
    if len(rest) > MAX_UNIT_CHARS:
        return None
    if rest.strip() in _MARKS:
        return Unit(_UNITS[_MARKS[rest.strip()]][1], frozenset({("m", 1)}))
    glued = rest[0].isalpha()
    text = _plain_text(rest)
    if not text and not re.fullmatch(r"(?:\s|~|\\[,;:! ]|[{}])*", rest):
        return None
    if text in ("%", "percent"):
        return PERCENT
    if glued and (len(text) < 2 or text.split("/")[0].split("^")[0].split()[0] not in _UNITS):
        return None
    return _parse(text, small)


def split_unit(text: str) -> tuple[str, Unit | None] | None:
    """Return (formula, unit) of a formula followed by words; the unit is None if they are not one. None without words.

    Example:
        split_unit("5\\\\sqrt{2}\\\\text{ km}") == ("5\\\\sqrt{2}", parse_unit(" km"))
    """
    match = _TAIL.search(text)
    return (text[: match.start()].rstrip(), parse_unit(" " + match.group())) if match and match.start() else None


_TAIL = re.compile(
    r"(?:(?:\\[,;: ]|~|\s)*\\(?:text|textrm|mathrm|mbox)\s*\{[^{}]*\}(?:\s*\^\s*\{?-?[0-9]\}?)?)+\s*$"
    r"|(?<=[0-9}\])])(?:\s|\\[,;: ]|~)+(?:[a-z]{2,}|[mgshLNJWV])(?:/[a-z]{1,3})?(?:\^\{?[23]\}?)?\s*$"
)


def _plain_text(rest: str) -> str:
    text = _SPELLED[0][0].sub(_SPELLED[0][1], _QUOTIENT.sub(r"\1/\2", rest))
    while (shorter := _WRAPPED.sub(r" \1", text)) != text:
        text = shorter
    for pattern, replacement in _SPELLED:
        text = pattern.sub(replacement, text)
    text = re.sub(r"\s*\^", "^", " ".join(text.split()))
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip()
    return text.removesuffix(".").strip()


def _parse(text: str, small: bool) -> Unit | None:
    if not re.fullmatch(r"[A-Za-z0-9^*/ -]*", text):
        return None
    while (shorter := _TRAILING_WORDS.sub("", text)) != text:
        text = shorter.strip()
    text, scale = text.strip(), 1
    while text and (first := text.split()[0]) in SCALES:
        scale, text = scale * SCALES[first], text[len(first) :].strip()
    if (of := _OF.search(text)) and not lexicon.DENIED & set(of.group().split()) - _OF_WORDS:
        text = text[: of.start()].strip()
    if not text:
        return Unit(Fraction(scale), scale=scale)
    if any(word.lower() in lexicon.DENIED for word in re.findall(r"[A-Za-z]+", text) if word not in _UNITS):
        return None
    return _known_units(text, scale) or _counted_things(text, scale, small)


def _known_units(text: str, scale: int) -> Unit | None:
    """Parse a product of physical units."""
    factor, bases, position, sign = Fraction(1), dict[str, int](), 0, 1
    while position < len(text):
        part = _PRODUCT.match(text, position)
        if (
            part is None
            or part["word"] not in _UNITS
            or (len(part["word"]) == 1 and part["word"] not in _SINGLE_LETTERS)
        ):
            return None
        sign = -1 if part["sign"] == "/" else sign
        base, size = _UNITS[part["word"]]
        power = sign * int(part["power"] or 1)
        factor *= size**power
        bases[base] = bases.get(base, 0) + power
        position = part.end()
    return Unit(factor * scale, frozenset((base, power) for base, power in bases.items() if power), scale)


def _counted_things(text: str, scale: int, small: bool) -> Unit | None:
    """Parse a counted thing of up to four words, named by its last noun, optionally "per" another thing."""
    if not re.fullmatch(r"[A-Za-z -]+(?:/[A-Za-z ]+)?", text):
        return None
    things, _, per = text.partition("/")
    words = re.split(r"[ -]", things.strip())
    noun = words[-1].lower()
    is_plural = len(noun) > 2 and noun.endswith("s") and not noun.endswith("ss")
    if len(words) > 4 or (len(noun) < 3 and words[-1] not in _UNITS):
        return None
    if not (is_plural or words[-1] in _UNITS or noun in lexicon.PLURALS or (small and len(noun) > 2)):
        return None
    base = _UNITS[words[-1]][0] if words[-1] in _UNITS else noun.removesuffix("s")
    bases = {(base, 1)} | ({(per.strip().lower(), -1)} if per else set())
    return Unit(Fraction(scale), frozenset(bases), scale)
