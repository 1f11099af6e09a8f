"""What text and numbers tell of two bare answers without taking them apart: yes, no, or None for neither."""

from __future__ import annotations

import re

from obverse.rewards.normalization import bare
from obverse.rewards.notations import Numeral, as_number, notation, same_notation
from obverse.rewards.number_parsing import Number, number, same_number
from obverse.rewards.word_answers import (
    letter,
    letters,
    listed_words,
    same_letters,
    same_points,
    same_words,
    without_label,
    words,
)

_DECIMAL_COMMA = re.compile(r"(-?\s*[0-9]+),([0-9]{1,2}|[0-9]{4,})")
_RESIDUE = re.compile(
    r"(?:.{1,20}\\equiv\s*)?(-?[0-9]+)\s*(?:\\pmod\s*\{?\s*([0-9]+)\s*\}?|\(\\mod\s*([0-9]+)\s*\)"
    r"|\\mod\s*([0-9]+))"
)
_ORDER = re.compile(r"[A-Z](?:\s*[<>]\s*[A-Z])+")
_COMPOUND = re.compile(r"(?=.*[0-9])(?=.*[A-Z].*[A-Z])(?:[A-Z][a-z]?(?:_?\{?[0-9]{1,2}\}?)?){2,8}")
_SENTENCE = re.compile(
    r"(?:(?:[Tt]he\s)?[A-Za-z]+|[Tt]here)\s(?:now\s|still\s|also\s)?(?:has|have|had|is|are|was|were|will\s(?:be"
    r"|have)|sold|sells|needs?|needed|gets?|got|makes?"
    r"|made|earns?|earned|pays?|paid|spends?|spent|buys|bought|eats?|ate|uses?|used|costs?|took|takes?|reads?|walks"
    r"|walked|ran|runs|collected"
    r"|received|saves?|saved|weighs?|contains?|equals|left\swith)(?:\sa\stotal\sof)?\s(?=\\?\$?-?[0-9])(.+)",
    re.DOTALL,
)


def by_notation(expected: str, given: str) -> bool | None:
    """Compare times, ratios, numerals in a base and residues."""
    wanted, found = notation(expected), notation(given)
    if wanted and found:
        return same_notation(wanted, found)
    if wanted:
        plain = number(given)
        if "=" in given:
            return None
        return not (plain and plain.unit.bases) and as_number(wanted, given, plain.total if plain else None)
    if isinstance(found, Numeral):
        plain = number(expected)
        return plain is not None and plain.value == found.value
    if found:
        return False
    return _by_residue(expected, given)


def _by_residue(expected: str, given: str) -> bool | None:
    wanted = _RESIDUE.fullmatch(expected) if "mod" in expected else None
    found = _RESIDUE.fullmatch(given) if "mod" in given else None
    if wanted is None and found is None:
        return None
    modulus, other = (
        int(next(each for each in match.groups()[1:] if each)) if match else 0 for match in (wanted, found)
    )
    plain = number(expected if wanted is None else given)
    if wanted and found:
        return modulus == other and (int(wanted[1]) - int(found[1])) % modulus == 0
    if wanted:
        return bool(
            plain and plain.value.denominator == 1 and modulus and (int(plain.value) - int(wanted[1])) % modulus == 0
        )
    if "equiv" in given and found is not None and plain is not None:
        return plain.value == int(found[1])
    return None if plain is None else False  # a residue is a class of numbers, and none of them


def by_words(expected: str, given: str) -> bool | None:
    """Compare letters of options, names, words and chemical formulas."""
    if (one := letter(expected)) and (other := letter(given)):
        return one == other
    if (one := letters(expected)) and (other := letters(given)):
        return same_letters(one, other)
    wanted, found = words(expected), words(given)
    if wanted is not None and found is not None:
        return same_words(wanted, found) or (
            (names := listed_words(expected)) is not None and names == listed_words(given)
        )
    if _COMPOUND.fullmatch(expected) and _COMPOUND.fullmatch(given):
        return re.sub("[_{}]", "", expected) == re.sub("[_{}]", "", given)  # H_2O
    if _ORDER.fullmatch(expected) or _ORDER.fullmatch(given):
        return False  # orders of names are compared as text
    return None


def by_points(expected: str, given: str) -> bool | None:
    """Compare geometric names."""
    return same_points(expected, given)


def by_number(wanted: Number, given: str) -> bool | None:
    """Compare a number said in another way: with a decimal comma, after the letter of an option, or in a sentence."""
    if (comma := _DECIMAL_COMMA.fullmatch(given)) and wanted.value.denominator > 1:
        read = number(f"{comma[1]}.{comma[2]}")
        return read is not None and same_number(wanted, read)
    without = without_label(given)
    if without is None and (sentence := _SENTENCE.fullmatch(given)):
        without = sentence[1]
    if without is not None and (read := number(bare(without))) is not None:
        return same_number(wanted, read)
    return None
