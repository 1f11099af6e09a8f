"""Comparison of two answers by their structure: numbers, times, ratios, words, collections, sets, equations, formulas.

`equal_answers` is three-valued. Pairs of formulas without further structure are passed to a function that returns True,
False, or None for unknown. The main process passes a function that never returns True; a worker process makes the same
comparison with one that uses computer algebra.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from obverse.rewards import units
from obverse.rewards.composite_answers import Collection, assignments, collection, components, is_name
from obverse.rewards.normalization import bare, normalized
from obverse.rewards.number_parsing import Number, number, same_number
from obverse.rewards.real_sets import Region, is_relation, region
from obverse.rewards.text_equality import by_notation, by_number, by_points, by_words
from obverse.rewards.word_answers import is_product, letters, same_letters

CompareFormulas = Callable[[str, str], bool | None]

MAX_PAIRS = 400  # pairs of members that are compared to match two collections
_OTHER_RELATION = re.compile(r"[<>=:]=|=[<>=]|\\equiv|(?<![0-9)])!=")
_FACTORIAL_EQUALS = re.compile(r"(?<=[0-9)])!=")
_RANGE = re.compile(r"([0-9.]+)\s*(?:-|\\text\s*\{\s*to\s*\}|\bto\b)\s*([0-9.]+)")
_EXCLUDED = re.compile(
    r"(.+?)\s*(?:,|;|\(|\\text\s*\{[^{}]*\})\s*(?:where\s|for\s)?[A-Za-z]\s*(?:\\ne(?![a-z])|\\not=)\s*[^,;]+\)?",
    re.DOTALL,
)
_SYMBOL = re.compile(r"(?:\\(?!pi(?![a-z])))?[A-Za-z]+'*(?:_\{?[A-Za-z0-9]+\}?)?")
_MARKED = re.compile(
    r"\^\s*\{?\s*(?:(?:\\text\s*\{\s*)?T(?![A-Za-z])|\\(?:top|intercal|dagger)(?![a-z]))"
    r"|(?<=[A-Z])\^\s*\{?\s*\\circ"
)
_DEGREES = frozenset({("degree", 1)})


def equal_answers(expected: str, candidate: str, compare: CompareFormulas) -> bool | None:
    """Return whether an answer equals the expected one; None if that depends on an unknown of `compare`.

    Both answers are bare (`obverse.rewards.normalization.bare`). Not symmetric: only the expected answer may require a
    unit.
    """
    if not candidate or not expected:
        return expected == candidate
    if expected == candidate:
        return True
    expected_number, candidate_number = number(expected), number(candidate)
    if expected_number and candidate_number:
        return same_number(expected_number, candidate_number)
    if normalized(expected) == normalized(candidate):
        return True
    if (expected_range := _RANGE.fullmatch(expected)) and (candidate_range := _RANGE.fullmatch(candidate)):
        return expected_range.groups() == candidate_range.groups()
    for comparison in (by_notation, by_words, by_points):
        equal = comparison(expected, candidate)
        if equal is not None:
            return equal
    if expected_number and (equal := by_number(expected_number, candidate)) is not None:
        return equal
    return _compare_structure(expected, candidate, compare)


def all_of(results: Iterable[bool | None]) -> bool | None:
    """Return the three-valued conjunction: False if any result is False, else None if any is None, else True."""
    undecided = False
    for result in results:
        if result is False:
            return False
        undecided = undecided or result is None
    return None if undecided else True


def _compare_structure(expected: str, candidate: str, compare: CompareFormulas) -> bool | None:
    if (exclusion := _EXCLUDED.fullmatch(candidate)) and "\\ne" not in expected:
        return equal_answers(expected, exclusion[1].strip(), compare)
    if _are_regions(regions := (region(expected), region(candidate)), expected, candidate):
        return _same_regions(*regions, compare)  # type: ignore[arg-type]
    if "=" in expected or "=" in candidate:
        return _compare_equations(expected, candidate, compare)
    expected_collection, candidate_collection = collection(expected), collection(candidate)
    if expected_collection or candidate_collection:
        return _same_collections(expected, expected_collection, candidate, candidate_collection, compare)
    return _same_formulas(expected, candidate, compare)


def _are_regions(regions: tuple[Region | None, Region | None], expected: str, candidate: str) -> bool:
    return None not in regions and (is_relation(expected) or is_relation(candidate))


def _same_regions(expected: Region, candidate: Region, compare: CompareFormulas) -> bool | None:
    if expected.name and candidate.name and expected.name != candidate.name:
        return False
    if len(expected.intervals) != len(candidate.intervals):
        return False

    def same_interval(first: tuple[str, ...], second: tuple[str, ...]) -> bool | None:
        if first[2:] != second[2:]:
            return False
        ends = zip(first[:2], second[:2], strict=True)
        return all_of(equal_answers(bare(expected_end), bare(end), compare) for expected_end, end in ends)

    expected_intervals, candidate_intervals = (
        [tuple(map(str, interval)) for interval in intervals] for intervals in (expected.intervals, candidate.intervals)
    )
    return _match_members(expected_intervals, candidate_intervals, same_interval)


def _compare_equations(expected: str, candidate: str, compare: CompareFormulas) -> bool | None:
    candidate = _FACTORIAL_EQUALS.sub("! =", candidate)
    if _OTHER_RELATION.search(candidate) or _OTHER_RELATION.search(expected):
        return _same_formulas(expected, candidate, compare)
    expected_pairs, candidate_pairs = assignments(expected), assignments(candidate)
    if expected_pairs and candidate_pairs:
        return _same_assignments(expected_pairs, candidate_pairs, expected, candidate, compare)
    if expected_pairs and "=" not in candidate and not _names_product(expected_pairs):
        return _compare_assigned(expected_pairs, candidate, compare, expected_first=True)
    if "=" not in expected:
        if (
            candidate_pairs
            and not _names_product(candidate_pairs)
            and (len(candidate_pairs) > 1 or "=" not in candidate_pairs[0][1])
        ):
            return _compare_assigned(candidate_pairs, expected, compare, expected_first=False)
        return _compare_chain(expected, candidate, compare)
    if "=" not in candidate:
        return False  # a term is not an equation
    if expected_pairs and len({name for name, _ in expected_pairs}) == 1 < len(expected_pairs):
        expected = "".join(f"({name}-({value}))" for name, value in expected_pairs) + "=0"
    return _same_formulas(expected, candidate, compare)


def _same_assignments(
    expected_pairs: list[tuple[str, str]],
    candidate_pairs: list[tuple[str, str]],
    expected: str,
    candidate: str,
    compare: CompareFormulas,
) -> bool | None:
    expected_names, candidate_names = [name for name, _ in expected_pairs], [name for name, _ in candidate_pairs]
    if len(set(expected_names)) == len(expected_names) == len(candidate_names) == len(set(candidate_names)) > 1:
        if set(expected_names) != set(candidate_names):
            return False
        values = dict(candidate_pairs)
        return all_of(equal_answers(bare(value), bare(values[name]), compare) for name, value in expected_pairs)
    if len(set(expected_names)) == len(set(candidate_names)) == 1:
        if (
            expected_names[0] == candidate_names[0]
            or _is_function_of(expected_names[0], candidate_names[0])
            or _is_product(expected_names[0], candidate_names[0])
        ):
            return _same_members(
                "list", [value for _, value in expected_pairs], [value for _, value in candidate_pairs], compare
            )
        if len(expected_names) == len(candidate_names) == 1 and re.search(
            "[A-Za-z]", expected_pairs[0][1] + candidate_pairs[0][1]
        ):
            return compare(expected, candidate)  # x=6/y and y=6/x
    return False


def _is_function_of(first: str, second: str) -> bool:
    """Return whether one name is `y` and the other a function such as `f(x)`."""
    return any(
        name == "y" and re.fullmatch(r"[a-z]\([a-z]\)", function_name) is not None
        for name, function_name in ((first, second), (second, first))
    )


def _names_product(pairs: list[tuple[str, str]]) -> bool:
    """Return whether a name is a product of variables: `xy=12` is an equation rather than an assignment."""
    return any(is_product(name) for name, _ in pairs)


def _is_product(first: str, second: str) -> bool:
    """Return whether two names are the same product of variables, as `xy` and `yx`."""
    return len(first) > 1 and letters(first) == first and letters(second) == second and same_letters(first, second)


def _compare_assigned(
    pairs: list[tuple[str, str]], plain: str, compare: CompareFormulas, *, expected_first: bool
) -> bool | None:
    """Compare assignments with values without names: one name with its values, or several names in their order."""
    values, names = [value for _, value in pairs], {name for name, _ in pairs}

    def compare_values(value: str, plain_value: str) -> bool | None:
        return (
            equal_answers(value, plain_value, compare) if expected_first else equal_answers(plain_value, value, compare)
        )

    if len(names) == 1:
        return compare_values(bare(", ".join(values)), plain)
    listed = collection(plain)
    if listed is None or listed.kind not in ("()", "list", "vector") or len(listed.members) != len(values):
        return False
    return all_of(
        compare_values(bare(value), bare(member)) for value, member in zip(values, listed.members, strict=True)
    )


def _compare_chain(expected: str, candidate: str, compare: CompareFormulas) -> bool | None:
    """Compare a chain `x = 2 + 40 = 42`: except for a leading name, every side must equal the expected value."""
    sides = [side.strip() for side in candidate.split("=")]
    if len(sides) > 1 and is_name(sides[0]) and not is_product(sides[0]):
        sides = sides[1:]
    return all_of(bool(side) and equal_answers(expected, bare(side), compare) for side in sides)


def _same_collections(
    expected: str, reference: Collection | None, candidate: str, answer: Collection | None, compare: CompareFormulas
) -> bool | None:
    if reference is None or answer is None:
        table, plain = (reference, candidate) if reference else (answer, expected)
        if table and table.kind in ("matrix", "vector") and (unit_vector_parts := components(plain)):
            return (
                _compare_in_order(table.members, unit_vector_parts, compare)
                if reference
                else _compare_in_order(unit_vector_parts, table.members, compare)
            )
        if table and table.kind in ("matrix", "cases"):
            return compare(expected, candidate)  # 2 times a matrix
        return False
    if reference.kind == "cases" or answer.kind == "cases":
        expected_rows, candidate_rows = (_table_rows(item) for item in (reference, answer))
        same_kind = reference.kind == answer.kind and reference.width == answer.width
        return same_kind and _match_members(
            expected_rows, candidate_rows, lambda first, second: _compare_in_order(first, second, compare)
        )
    if {reference.kind, answer.kind} <= {
        "()",
        "matrix",
        "vector",
    } and "()" != reference.kind == answer.kind == "matrix":
        return reference.width == answer.width and _compare_in_order(reference.members, answer.members, compare)
    if {reference.kind, answer.kind} <= {"()", "matrix", "vector"} and reference.kind != answer.kind:
        is_line = all(item.kind != "matrix" or item.width in (1, len(item.members)) for item in (reference, answer))
        return is_line and _compare_in_order(reference.members, answer.members, compare)
    if reference.kind == answer.kind and reference.kind not in ("list", "set"):
        return _compare_in_order(reference.members, answer.members, compare)
    if reference.kind in ("list", "set") and answer.kind in ("list", "set"):
        kind = "set" if reference.kind == answer.kind == "set" else "list"
        return _same_members(kind, reference.members, answer.members, compare)
    if reference.kind == "()" and answer.kind == "list" and not _may_be_interval(reference.members):
        return _compare_in_order(reference.members, answer.members, compare)
    return False


def _may_be_interval(members: Sequence[str]) -> bool:
    """Return whether two members may be the ends of an interval: not if both are numbers and they do not rise."""
    if len(members) != 2:
        return False
    low, high = (number(bare(member)) for member in members)
    return not (low and high and low.total >= high.total)


def _table_rows(table: Collection) -> list[tuple[str, ...]]:
    return [table.members[start : start + table.width] for start in range(0, len(table.members), table.width)]


def _compare_in_order(reference: Sequence[str], answer: Sequence[str], compare: CompareFormulas) -> bool | None:
    if len(reference) != len(answer):
        return False
    return all_of(
        equal_answers(bare(expected), bare(candidate), compare)
        for expected, candidate in zip(reference, answer, strict=True)
    )


def _same_members(kind: str, reference: Sequence[str], answer: Sequence[str], compare: CompareFormulas) -> bool | None:
    """Compare members in any order; in a set, equal members count once."""
    if kind == "set":
        answer = list(dict.fromkeys(normalized(bare(member)) for member in answer))
        reference = list(dict.fromkeys(normalized(bare(member)) for member in reference))
    if len(reference) == 1 == len(answer):
        return equal_answers(bare(reference[0]), bare(answer[0]), compare)
    return _match_members(
        [(member,) for member in reference],
        [(member,) for member in answer],
        lambda first, second: equal_answers(bare(first[0]), bare(second[0]), compare),
    )


def _match_members(
    reference: Sequence[tuple[str, ...]],
    answer: Sequence[tuple[str, ...]],
    same: Callable[[tuple[str, ...], tuple[str, ...]], bool | None],
) -> bool | None:
    """Return whether the two collections can be matched one to one."""
    if len(reference) != len(answer) or len(reference) ** 2 > MAX_PAIRS * 10:
        return False
    unmatched, undecided = list(answer), False
    for member in reference:
        results = [same(member, candidate) for candidate in unmatched]
        if True in results:
            del unmatched[results.index(True)]
        elif None in results:
            undecided = True
        else:
            return False
    return None if undecided else True


def _same_formulas(expected: str, candidate: str, compare: CompareFormulas) -> bool | None:
    """Compare formulas without their units, which must agree if both have one."""
    expected_number, candidate_number = number(expected), number(candidate)
    if expected_number and expected_number.unit.bases == _DEGREES and "\\pi" in candidate:
        return compare(
            f"\\frac{{{expected_number.value.numerator}\\pi}}{{{180 * expected_number.value.denominator}}}", candidate
        )
    if _MARKED.findall(expected) != _MARKED.findall(candidate):
        return False  # a transpose is another matrix
    both_units = []
    for is_candidate, text in ((False, expected), (True, candidate)):
        if (expected_number, candidate_number)[is_candidate]:
            both_units.append((expected_number, candidate_number)[is_candidate].unit)  # type: ignore[union-attr]
            continue
        core, unit = units.split_unit(text) or (text, units.NONE)
        if (
            core.endswith("^\\circ")
            and core.count("circ") == 1
            and not re.search(r"\\(?:pi|sin|cos|tan|cot|sec|csc)", core)
            and unit == units.NONE
        ):
            core, unit = core.removesuffix("^\\circ"), units.DEGREE
        core = re.sub(r"^\\(?:\$|euro|pounds|yen)\s*", "", core)
        if is_candidate and (unit is None or (core != text and _SYMBOL.fullmatch(core))):
            return False  # a unit belongs to a number, never to a symbol
        both_units.append(unit or units.NONE)
        expected, candidate = (expected, core) if is_candidate else (core, candidate)
    expected_unit, candidate_unit = both_units
    if candidate_unit != units.NONE and (
        (expected_unit.bases and expected_unit != candidate_unit)
        or expected_unit.scale != candidate_unit.scale
        or candidate_unit == units.PERCENT != expected_unit
    ):
        return False
    if _words_in_text(candidate) - _words_in_text(expected):
        return False  # words within a formula change it
    if expected_number and expected_number.unit != units.NONE and not candidate_number:
        expected = _as_fraction(expected_number)
    elif candidate_number and candidate_number.unit != units.NONE and not expected_number:
        candidate = _as_fraction(candidate_number)
    if not candidate or not expected:
        return False
    if expected == candidate or normalized(expected) == normalized(candidate):
        return True
    return compare(expected, candidate)


def _as_fraction(value: Number) -> str:
    return f"\\frac{{{value.value.numerator}}}{{{value.value.denominator}}}"


def _words_in_text(text: str) -> set[str]:
    return {
        word
        for part in re.findall(r"\\(?:text|mbox)\s*\{([^{}]*)\}", text)
        for word in re.findall(r"[a-z]{2,}", part.lower())
    }
