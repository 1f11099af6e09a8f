"""Answers in words and letters: normalization and comparison, and letters that are names rather than a product."""

from __future__ import annotations

import re
from functools import lru_cache

from obverse.rewards.lexicon import FUNCTIONS, MONTHS, ORDINALS, SHORT_WORDS

_WRAPPED = re.compile(r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_TEXT = re.compile(r"[A-Za-z0-9 .,'&()/-]+")
_ARTICLES = re.compile(r"(?:(?:it is|it's|they are|is|the|an?|on|in|at|by)\s)+")
_SYNONYMS = {
    "does not exist": "dne",
    "do not exist": "dne",
    "doesn't exist": "dne",
    "nonexistent": "dne",
    "no solutions": "no solution",
    "none exist": "dne",
    "there is no solution": "no solution",
    "there are no solutions": "no solution",
    "all reals": "all real numbers",
    "infinite": "infinity",
    "infinitely many solutions": "infinitely many",
    "infinite solutions": "infinitely many",
    "tie": "draw",
}
_IN_LATEX = {
    "\\emptyset": "no solution",
    "\\infty": "infinity",
    "\\mathbb{R}": "all real numbers",
    "(-\\infty,\\infty)": "all real numbers",
}
_GEOMETRIC = re.compile(
    r"\\?(?P<mark>overline|angle|triangle|overrightarrow|overleftrightarrow|vec|odot|widehat|arc|measuredangle"
    r"|square|m\\angle)?"
    r"\s*\{?\s*(?P<letters>[A-Z](?:'?[A-Z]){0,7})\s*\}?"
)
_LETTER = re.compile(r"\(?\s*([A-Z])\s*[).:]?")


@lru_cache(maxsize=4096)
def words(text: str) -> str | None:
    """Return the normalized spelling of a text answer, None for a formula.

    Example:
        words("\\\\text{on Thursday}") == words("thursday") and words("x+1") is None
    """
    if (symbol := _IN_LATEX.get(text.replace(" ", ""))) is not None:
        return symbol
    wrapped = bool(_WRAPPED.search(text))
    plain = " ".join(_WRAPPED.sub(r" \1 ", text).split()).strip(" .,;")
    if not _TEXT.fullmatch(plain) or len(plain) > 200:
        return None
    spelled = plain.lower()
    tokens = re.findall(r"[a-z']+|[0-9]+(?:st|nd|rd|th)?", spelled)
    if not any(len(token) > 1 and token[0].isalpha() for token in tokens) and not re.search(
        "[0-9](?:st|nd|rd|th)", spelled
    ):
        return None
    if FUNCTIONS.intersection(tokens) or (not wrapped and not _is_prose(plain)):
        return None
    if any(token in MONTHS for token in tokens):
        return " ".join(
            sorted(
                re.sub("(?<=[0-9])(?:st|nd|rd|th)$", "", token) for token in tokens if token not in ("of", "the", "on")
            )
        )
    if re.search("[0-9]", re.sub(r"\b[0-9]{1,2}(?:st|nd|rd|th)\b", "", spelled)):
        return None
    if short_answer := _short_answer(spelled):
        return short_answer
    spelled = re.sub(r"\b([0-9]{1,2})(?:st|nd|rd|th)\b", lambda match: _ordinal(match[1]), spelled)
    if article := _ARTICLES.match(spelled):
        spelled = spelled[article.end() :] or spelled
    return _SYNONYMS.get(spelled, spelled)


def listed_words(text: str) -> list[str] | None:
    """Return the names in `\\text{Alice and Bob}`, normalized and sorted; None if the text is not a list of names."""
    plain = _WRAPPED.sub(r"\1", text)
    parts = [
        words(f"\\text{{{part.strip()}}}") or part.strip().lower()
        for part in re.split(r"[,;]\s*(?:and\s)?|\sand\s", plain)
    ]
    return sorted(parts) if len(parts) > 1 and all(parts) else None


def same_words(expected: str, candidate: str) -> bool:
    """Return whether two normalized texts are identical apart from a plural s."""
    return expected == candidate or (len(expected) > 4 and expected.removesuffix("s") == candidate.removesuffix("s"))


def letters(text: str) -> str | None:
    """Return a text of two or more letters without text commands, None for anything else."""
    plain = _WRAPPED.sub(r"\1", text).strip()
    return plain if len(plain) > 1 and plain.isalpha() and plain.isascii() and plain.lower() not in FUNCTIONS else None


def same_letters(expected: str, candidate: str) -> bool:
    """Return whether two runs of letters are the same name, or the same product of variables (`bh` and `hb`).

    Capitals, and letters that form a word, are names, for which the order counts.
    """
    if expected == candidate or (
        expected.lower() == candidate.lower() and (len(expected) > 2 or expected.lower() in SHORT_WORDS)
    ):
        return True
    return sorted(expected) == sorted(candidate) and is_product(expected) and is_product(candidate)


def same_points(expected: str, candidate: str) -> bool | None:
    """Return whether two geometric names are equal: a triangle in any order, an angle or a segment in both directions.

    None if one of them is not a geometric name.
    """
    first, second = _GEOMETRIC.fullmatch(expected), _GEOMETRIC.fullmatch(candidate)
    if first is None or second is None or not (first["mark"] or second["mark"]):
        return None
    marks = {first["mark"], second["mark"]}
    if len(marks) > 1 and marks != {None, "overline"}:
        return False
    first_letters, second_letters = first["letters"], second["letters"]
    if marks == {"triangle"}:
        return sorted(first_letters) == sorted(second_letters)
    return first_letters == second_letters or (
        marks in ({"angle"}, {"overline"}, {"overleftrightarrow"}) and first_letters == second_letters[::-1]
    )


def letter(text: str) -> str | None:
    """Return the single capital letter of a text such as `B`, `(B)` or `B.`; None for anything else."""
    match = _LETTER.fullmatch(_WRAPPED.sub(r"\1", text).strip())
    return match[1] if match else None


def without_label(text: str) -> str | None:
    """Return the text after an option letter, such as 45 of `\\textbf{(B)}\\ 45`; None without an option letter."""
    match = re.fullmatch(
        r"\\text\s*\{\s*\(?([A-J])\)\s*\}\s*(\S.*)|\(([A-J])\)\s+(\S.*)|([A-J])[.)]\s+(\S.*)", text, re.DOTALL
    )
    return next(part for part in (match[2], match[4], match[6]) if part) if match else None


def _short_answer(spelled: str) -> str | None:
    """Return the "yes" of "yes, it is"; None if the rest contradicts it."""
    short = re.fullmatch(r"(yes|no|true|false)\b[,.;]\s+(?P<rest>.*)", spelled)
    if short is None or re.search(r"\b(?:yes|no|true|false|or|but|maybe)\b", short["rest"]):
        return None
    return short[1] if short[1] in ("no", "false") or not re.search(r"\bnot\b|n't", short["rest"]) else None


def _is_prose(plain: str) -> bool:
    """Return whether text outside of `\\text{}` consists of words of two or more letters that are not products."""
    parts = re.findall(r"[A-Za-z']+", plain)
    return not re.search(r"[()/&]|[a-z]-[a-z]\b", plain) and all(
        len(part) > 1 or part in "aAI" for part in parts if part
    )


def is_product(run: str) -> bool:
    """Return whether letters are a product of variables: two that form no word, or neighbors in the alphabet."""
    if len(run) < 2 or not (run.isalpha() and run.islower() and run.isascii()) or len(set(run)) < len(run):
        return False
    if len(run) == 2:
        return run not in SHORT_WORDS and run[::-1] not in SHORT_WORDS
    codes = sorted(map(ord, run))
    return codes[-1] - codes[0] == len(run) - 1


def _ordinal(digits: str) -> str:
    return ORDINALS[int(digits)] if int(digits) < len(ORDINALS) else digits
