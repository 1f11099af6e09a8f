"""Two answers compared by what they are: numbers, times and ratios, words, lists and tuples, regions, equations,
formulas.

`equal` is three-valued: what only computer algebra can tell is left to a function that gets pairs of formulas without
structure and answers yes, no, or None for "not here". The process that trains passes one that never says yes; a
worker runs the same comparison with one that computes.
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

Formulas = Callable[[str, str], bool | None]

MAX_PAIRS = 400  # of members that are compared to match two collections
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


def equal(expected: str, given: str, formulas: Formulas) -> bool | None:
    """Return whether an answer equals the expected one; None if `formulas` says so of one of their formulas.

    Both are bare. Not symmetric, since only the expected answer may ask for a unit.
    """
    if not given or not expected:
        return expected == given
    if expected == given:
        return True
    wanted, found = number(expected), number(given)
    if wanted and found:
        return same_number(wanted, found)
    if normalized(expected) == normalized(given):
        return True
    if (one := _RANGE.fullmatch(expected)) and (other := _RANGE.fullmatch(given)):
        return one.groups() == other.groups()
    for decide in (by_notation, by_words, by_points):
        decided = decide(expected, given)
        if decided is not None:
            return decided
    if wanted and (decided := by_number(wanted, given)) is not None:
        return decided
    return _by_structure(expected, given, formulas)


def all_of(grades: Iterable[bool | None]) -> bool | None:
    """Return False if one is, else None if one is, else True."""
    undecided = False
    for grade in grades:
        if grade is False:
            return False
        undecided = undecided or grade is None
    return None if undecided else True


def _by_structure(expected: str, given: str, formulas: Formulas) -> bool | None:
    if (excluded := _EXCLUDED.fullmatch(given)) and "\\ne" not in expected:
        return equal(expected, excluded[1].strip(), formulas)
    if _by_regions(regions := (region(expected), region(given)), expected, given):
        return _same_regions(*regions, formulas)  # type: ignore[arg-type]
    if "=" in expected or "=" in given:
        return _with_equals(expected, given, formulas)
    wanted, found = collection(expected), collection(given)
    if wanted or found:
        return _same_collections(expected, wanted, given, found, formulas)
    return _same_formulas(expected, given, formulas)


def _by_regions(regions: tuple[Region | None, Region | None], expected: str, given: str) -> bool:
    return None not in regions and (is_relation(expected) or is_relation(given))


def _same_regions(wanted: Region, given: Region, formulas: Formulas) -> bool | None:
    if wanted.name and given.name and wanted.name != given.name:
        return False
    if len(wanted.intervals) != len(given.intervals):
        return False

    def same(one: tuple[str, ...], other: tuple[str, ...]) -> bool | None:
        if one[2:] != other[2:]:
            return False
        return all_of(equal(bare(mine), bare(yours), formulas) for mine, yours in zip(one[:2], other[:2], strict=True))

    return _matched(
        [tuple(map(str, each)) for each in wanted.intervals], [tuple(map(str, each)) for each in given.intervals], same
    )


def _with_equals(expected: str, given: str, formulas: Formulas) -> bool | None:
    given = _FACTORIAL_EQUALS.sub("! =", given)
    if _OTHER_RELATION.search(given) or _OTHER_RELATION.search(expected):
        return _same_formulas(expected, given, formulas)
    wanted, found = assignments(expected), assignments(given)
    if wanted and found:
        return _same_assignments(wanted, found, expected, given, formulas)
    if wanted and "=" not in given and not _names_product(wanted):
        return _assigned(wanted, given, formulas, expected_first=True)
    if "=" not in expected:
        if found and not _names_product(found) and (len(found) > 1 or "=" not in found[0][1]):
            return _assigned(found, expected, formulas, expected_first=False)
        return _chain(expected, given, formulas)
    if "=" not in given:
        return False  # an equation is not a term
    if wanted and len({name for name, _ in wanted}) == 1 < len(wanted):
        expected = "".join(f"({name}-({value}))" for name, value in wanted) + "=0"
    return _same_formulas(expected, given, formulas)


def _same_assignments(
    wanted: list[tuple[str, str]], found: list[tuple[str, str]], expected: str, given: str, formulas: Formulas
) -> bool | None:
    names, others = [name for name, _ in wanted], [name for name, _ in found]
    if len(set(names)) == len(names) == len(others) == len(set(others)) > 1:
        if set(names) != set(others):
            return False
        values = dict(found)
        return all_of(equal(bare(value), bare(values[name]), formulas) for name, value in wanted)
    if len(set(names)) == len(set(others)) == 1:
        if names[0] == others[0] or _is_function_of(names[0], others[0]) or _is_product(names[0], others[0]):
            return _same_members("list", [value for _, value in wanted], [value for _, value in found], formulas)
        if len(names) == len(others) == 1 and re.search("[A-Za-z]", wanted[0][1] + found[0][1]):
            return formulas(expected, given)  # x=6/y and y=6/x
    return False


def _is_function_of(one: str, other: str) -> bool:
    """`y` and `f(x)` name the same."""
    return any(
        mine == "y" and re.fullmatch(r"[a-z]\([a-z]\)", yours) is not None
        for mine, yours in ((one, other), (other, one))
    )


def _names_product(pairs: list[tuple[str, str]]) -> bool:
    """`xy=12` is an equation, and no name for 12."""
    return any(is_product(name) for name, _ in pairs)


def _is_product(one: str, other: str) -> bool:
    """`xy` and `yx` are one product of variables."""
    return len(one) > 1 and letters(one) == one and letters(other) == other and same_letters(one, other)


def _assigned(pairs: list[tuple[str, str]], plain: str, formulas: Formulas, *, expected_first: bool) -> bool | None:
    """Assignments against values without names: one name with its values, or several in the order of writing."""
    values, names = [value for _, value in pairs], {name for name, _ in pairs}

    def compare(assigned: str, other: str) -> bool | None:
        return equal(assigned, other, formulas) if expected_first else equal(other, assigned, formulas)

    if len(names) == 1:
        return compare(bare(", ".join(values)), plain)
    listed = collection(plain)
    if listed is None or listed.kind not in ("()", "list", "vector") or len(listed.members) != len(values):
        return False
    return all_of(compare(bare(value), bare(member)) for value, member in zip(values, listed.members, strict=True))


def _chain(expected: str, given: str, formulas: Formulas) -> bool | None:
    """`x = 2 + 40 = 42`: a name may stand in front, and every other side must equal the expected value."""
    sides = [side.strip() for side in given.split("=")]
    if len(sides) > 1 and is_name(sides[0]) and not is_product(sides[0]):
        sides = sides[1:]
    return all_of(bool(side) and equal(expected, bare(side), formulas) for side in sides)


def _same_collections(
    expected: str, wanted: Collection | None, given: str, found: Collection | None, formulas: Formulas
) -> bool | None:
    if wanted is None or found is None:
        vector, plain = (wanted, given) if wanted else (found, expected)
        if vector and vector.kind in ("matrix", "vector") and (parts := components(plain)):
            return _in_order(vector.members, parts, formulas) if wanted else _in_order(parts, vector.members, formulas)
        if vector and vector.kind in ("matrix", "cases"):
            return formulas(expected, given)  # 2 times a matrix
        return False
    if wanted.kind == "cases" or found.kind == "cases":
        rows, others = (_rows(each) for each in (wanted, found))
        same_kind = wanted.kind == found.kind and wanted.width == found.width
        return same_kind and _matched(rows, others, lambda one, other: _in_order(one, other, formulas))
    if {wanted.kind, found.kind} <= {"()", "matrix", "vector"} and "()" != wanted.kind == found.kind == "matrix":
        return wanted.width == found.width and _in_order(wanted.members, found.members, formulas)
    if {wanted.kind, found.kind} <= {"()", "matrix", "vector"} and wanted.kind != found.kind:
        is_line = all(each.kind != "matrix" or each.width in (1, len(each.members)) for each in (wanted, found))
        return is_line and _in_order(wanted.members, found.members, formulas)
    if wanted.kind == found.kind and wanted.kind not in ("list", "set"):
        return _in_order(wanted.members, found.members, formulas)
    if wanted.kind in ("list", "set") and found.kind in ("list", "set"):
        unlike = "set" if wanted.kind == found.kind == "set" else "list"
        return _same_members(unlike, wanted.members, found.members, formulas)
    if wanted.kind == "()" and found.kind == "list" and not _may_be_interval(wanted.members):
        return _in_order(wanted.members, found.members, formulas)
    return False


def _may_be_interval(members: Sequence[str]) -> bool:
    """Whether two members may be ends: only numbers that fall are none."""
    if len(members) != 2:
        return False
    low, high = (number(bare(member)) for member in members)
    return not (low and high and low.total >= high.total)


def _rows(table: Collection) -> list[tuple[str, ...]]:
    return [table.members[start : start + table.width] for start in range(0, len(table.members), table.width)]


def _in_order(wanted: Sequence[str], found: Sequence[str], formulas: Formulas) -> bool | None:
    if len(wanted) != len(found):
        return False
    return all_of(equal(bare(mine), bare(other), formulas) for mine, other in zip(wanted, found, strict=True))


def _same_members(kind: str, wanted: Sequence[str], found: Sequence[str], formulas: Formulas) -> bool | None:
    """Members in any order; in a set, what is said twice counts once."""
    if kind == "set":
        found = list(dict.fromkeys(normalized(bare(member)) for member in found))
        wanted = list(dict.fromkeys(normalized(bare(member)) for member in wanted))
    if len(wanted) == 1 == len(found):
        return equal(bare(wanted[0]), bare(found[0]), formulas)
    return _matched(
        [(member,) for member in wanted],
        [(member,) for member in found],
        lambda one, other: equal(bare(one[0]), bare(other[0]), formulas),
    )


def _matched(
    wanted: Sequence[tuple[str, ...]],
    found: Sequence[tuple[str, ...]],
    same: Callable[[tuple[str, ...], tuple[str, ...]], bool | None],
) -> bool | None:
    """Whether each of the one can be given one of the other."""
    if len(wanted) != len(found) or len(wanted) ** 2 > MAX_PAIRS * 10:
        return False
    rest, undecided = list(found), False
    for mine in wanted:
        grades = [same(mine, other) for other in rest]
        if True in grades:
            del rest[grades.index(True)]
        elif None in grades:
            undecided = True
        else:
            return False
    return None if undecided else True


def _same_formulas(expected: str, given: str, formulas: Formulas) -> bool | None:
    """Formulas without their units, which must agree where both have one."""
    wanted, found = number(expected), number(given)
    if wanted and wanted.unit.bases == _DEGREES and "\\pi" in given:
        return formulas(f"\\frac{{{wanted.value.numerator}\\pi}}{{{180 * wanted.value.denominator}}}", given)
    if _MARKED.findall(expected) != _MARKED.findall(given):
        return False  # a transpose is another matrix
    units_of = []
    for is_given, text in ((False, expected), (True, given)):
        if (wanted, found)[is_given]:
            units_of.append((wanted, found)[is_given].unit)  # type: ignore[union-attr]
            continue
        core, unit = units.tail(text) or (text, units.NONE)
        if (
            core.endswith("^\\circ")
            and core.count("circ") == 1
            and not re.search(r"\\(?:pi|sin|cos|tan|cot|sec|csc)", core)
            and unit == units.NONE
        ):
            core, unit = core.removesuffix("^\\circ"), units.DEGREE
        core = re.sub(r"^\\(?:\$|euro|pounds|yen)\s*", "", core)
        if is_given and (unit is None or (core != text and _SYMBOL.fullmatch(core))):
            return False  # a unit belongs to a number, never to a symbol
        units_of.append(unit or units.NONE)
        expected, given = (expected, core) if is_given else (core, given)
    mine, other = units_of
    if other != units.NONE and (
        (mine.bases and mine != other) or mine.scale != other.scale or other == units.PERCENT != mine
    ):
        return False
    if _texts(given) - _texts(expected):
        return False  # words within a formula change it
    if wanted and wanted.unit != units.NONE and not found:
        expected = _plain(wanted)
    elif found and found.unit != units.NONE and not wanted:
        given = _plain(found)
    if not given or not expected:
        return False
    if expected == given or normalized(expected) == normalized(given):
        return True
    return formulas(expected, given)


def _plain(value: Number) -> str:
    return f"\\frac{{{value.value.numerator}}}{{{value.value.denominator}}}"


def _texts(text: str) -> set[str]:
    return {
        word
        for part in re.findall(r"\\(?:text|mbox)\s*\{([^{}]*)\}", text)
        for word in re.findall(r"[a-z]{2,}", part.lower())
    }
