"""Comparisons of two bare answers as a whole: each returns True, False, or None where it does not apply."""

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


def by_notation(expected: str, candidate: str) -> bool | None:
    """Compare times, ratios, numerals in a base and residues."""
    expected_notation, candidate_notation = notation(expected), notation(candidate)
    if expected_notation and candidate_notation:
        return same_notation(expected_notation, candidate_notation)
    if expected_notation:
        as_plain_number = number(candidate)
        if "=" in candidate:
            return None
        return not (as_plain_number and as_plain_number.unit.bases) and as_number(
            expected_notation, candidate, as_plain_number.total if as_plain_number else None
        )
    if isinstance(candidate_notation, Numeral):
        as_plain_number = number(expected)
        return as_plain_number is not None and as_plain_number.value == candidate_notation.value
    if candidate_notation:
        return False
    return _by_residue(expected, candidate)


def _by_residue(expected: str, candidate: str) -> bool | None:
    expected_residue = _RESIDUE.fullmatch(expected) if "mod" in expected else None
    candidate_residue = _RESIDUE.fullmatch(candidate) if "mod" in candidate else None
    if expected_residue is None and candidate_residue is None:
        return None
    modulus, candidate_modulus = (
        int(next(group for group in match.groups()[1:] if group)) if match else 0
        for match in (expected_residue, candidate_residue)
    )
    as_plain_number = number(expected if expected_residue is None else candidate)
    if expected_residue and candidate_residue:
        return modulus == candidate_modulus and (int(expected_residue[1]) - int(candidate_residue[1])) % modulus == 0
    if expected_residue:
        return bool(
            as_plain_number
            and as_plain_number.value.denominator == 1
            and modulus
            and (int(as_plain_number.value) - int(expected_residue[1])) % modulus == 0
        )
    if "equiv" in candidate and candidate_residue is not None and as_plain_number is not None:
        return as_plain_number.value == int(candidate_residue[1])
    return None if as_plain_number is None else False  # a residue is a class of numbers, not a number


def by_words(expected: str, candidate: str) -> bool | None:
    """Compare option letters, names, words and chemical formulas."""
    if (first := letter(expected)) and (second := letter(candidate)):
        return first == second
    if (first := letters(expected)) and (second := letters(candidate)):
        return same_letters(first, second)
    expected_words, candidate_words = words(expected), words(candidate)
    if expected_words is not None and candidate_words is not None:
        return same_words(expected_words, candidate_words) or (
            (names := listed_words(expected)) is not None and names == listed_words(candidate)
        )
    if _COMPOUND.fullmatch(expected) and _COMPOUND.fullmatch(candidate):
        return re.sub("[_{}]", "", expected) == re.sub("[_{}]", "", candidate)  # H_2O
    if _ORDER.fullmatch(expected) or _ORDER.fullmatch(candidate):
        return False  # orders of names are compared as text
    return None


def by_points(expected: str, candidate: str) -> bool | None:
    """Compare geometric names."""
    return same_points(expected, candidate)


def by_number(expected: Number, candidate: str) -> bool | None:
    """Compare with a number written with a decimal comma, after an option letter, or in a sentence."""
    if (comma := _DECIMAL_COMMA.fullmatch(candidate)) and expected.value.denominator > 1:
        value = number(f"{comma[1]}.{comma[2]}")
        return value is not None and same_number(expected, value)
    answer = without_label(candidate)
    if answer is None and (sentence := _SENTENCE.fullmatch(candidate)):
        answer = sentence[1]
    if answer is not None and (value := number(bare(answer))) is not None:
        return same_number(expected, value)
    return None
