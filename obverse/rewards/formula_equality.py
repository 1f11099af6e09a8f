"""Two formulas read by latex2sympy and compared by value: exactly where both are rational, to 100 digits, or at points.

A formula goes through math-verify's LaTeX grammar and nothing else (its plain-expression reader, which Python's parser
stands behind, is never used). Only worker processes import this.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from obverse.rewards.number_parsing import TOLERANCE, is_decimal, number, places, same_value

DIGITS = 120
EXACT = sympy.Float("1e-100", DIGITS)
MAX_EXPONENT = 10_000
NUM_POINTS = 4  # the last two are negative: |x| is not x

# Units are removed before: math-verify's own way takes variables for units (6m, c/2).
_READER = [
    LatexExtractionConfig(
        boxed_match_priority=0,
        try_extract_without_anchor=False,
        normalization_config=NormalizationConfig(malformed_operators=True, nits=True, boxed="last"),
    )
]
_TRIGONOMETRIC = r"sin|cos|tan|cot|sec|csc"
_FUNCTION = re.compile(
    rf"(?<![\\A-Za-z])({_TRIGONOMETRIC}|arcsin|arccos|arctan|sinh|cosh|tanh|log|ln|exp|pi)(?![A-Za-z])"
)
_DEGREES = re.compile(r"(\\frac\s*\{[^{}]*\}\s*\{[^{}]*\}|[0-9.]+|\([^()]*\)|[a-z])\s*\^\s*\{?\s*\\circ\s*\}?")
_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\s*(?:\(([^()]*)\)|\{([^{}]*)\})")
_SMALL_MODULUS = re.compile(r"([0-9]{1,9})\s*\\(?:bmod|mod)\s*\{?([1-9][0-9]{0,8})\}?")
_CHOOSE = re.compile(r"(?<![A-Za-z\\])C\s*\(\s*([0-9]{1,3})\s*,\s*([0-9]{1,3})\s*\)")
_MARKED = re.compile(
    r"[A-Za-z](?:\}?)(?:'+|\^\s*\{?\s*(?:\\prime\s*)+\}?)|[fgh]\s*\^\s*\{\s*-1\s*\}(?=\s*\()|\\(?:d?dot|hat|bar"
    r"|tilde|check|breve|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Upsilon|Phi|Psi|Omega)(?![A-Za-z])"
)
_PARAMETERS = frozenset("kmn")


class Unreadable(Exception):
    """A formula is none of the grammar's: `gold` for the expected one, `unparseable` for the other."""


def same(expected: str, given: str) -> bool:
    """Whether two formulas are equal. Errors: Unreadable."""
    if _marks(expected) != _marks(given):
        return False
    gold, answer = read(expected), read(given)
    if gold is None or answer is None:
        raise Unreadable("gold" if gold is None else "unparseable")
    if isinstance(gold, sympy.Eq) and isinstance(answer, sympy.Eq):
        return _same_equations(gold, answer)
    if isinstance(gold, sympy.MatrixBase) and isinstance(answer, sympy.MatrixBase):
        return gold.shape == answer.shape and all(map(_same_values, gold.flat(), answer.flat()))
    if isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr):
        return _same_numbers(expected, gold, given, answer)
    if isinstance(gold, Relational) != isinstance(answer, Relational) or isinstance(
        gold, sympy.Expr | sympy.MatrixBase
    ):
        return False
    if isinstance(answer, sympy.Expr | sympy.MatrixBase):
        return False
    return bool(verify(gold, answer, timeout_seconds=None)) and _agree(gold, answer)


@lru_cache(maxsize=4096)
def read(text: str) -> Any:
    """Return a formula as sympy has it, decimals as fractions, `\\pm` as both equations; None if it is unreadable."""
    if "\\pm" in text and "=" in text:
        both = [read(text.replace("\\pm", sign)) for sign in ("+", "-")]
        if all(isinstance(each, sympy.Eq) for each in both):
            return sympy.Eq(sympy.Mul(*(each.lhs - each.rhs for each in both)), 0, evaluate=False)
        return None
    text = _ROOT.sub(lambda match: f"\\sqrt{{{match[1] or match[2]}}}", text)
    text = _FUNCTION.sub(r"\\\1 ", text)
    text = _SMALL_MODULUS.sub(lambda match: str(int(match[1]) % int(match[2])), text)
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    found = parse(f"\\boxed{{{text}}}", _READER, fallback_mode="no_fallback", parsing_timeout=None)
    formula = next((each for each in found if not isinstance(each, str)), None)
    return formula if formula is None else _evaluated(formula)


def _evaluated(formula: Any) -> Any:
    """With the letters i and e, decimals and unevaluated products as the numbers that they are."""
    if not isinstance(formula, sympy.Expr | sympy.MatrixExpr | sympy.MatrixBase | sympy.Eq):
        return formula
    known = {each: sympy.I if each.name == "i" else sympy.E for each in formula.free_symbols if each.name in ("i", "e")}
    decimals = {each: sympy.Rational(str(each)) for each in formula.atoms(sympy.Float)}
    formula = formula.xreplace({**known, **decimals}) if known or decimals else formula
    if any(_is_huge(power) for power in formula.atoms(sympy.Pow)):
        return formula
    if isinstance(formula, sympy.Eq):
        return sympy.Eq(formula.lhs.doit(), formula.rhs.doit(), evaluate=False)
    return formula.doit()


def _is_huge(power: Any) -> bool:
    """A power of numbers that would be written out: only the same power is equal to it."""
    return bool(power.exp.is_Integer and power.base.is_Rational and abs(power.exp) > MAX_EXPONENT)


def _marks(text: str) -> list[str]:
    """Primes, inverse functions and accents, which the grammar would drop, and capitals, which it makes small."""
    return sorted(
        re.sub(r"[\s{}]|\\prime", lambda match: "'" if match.group() == "\\prime" else "", each)
        for each in _MARKED.findall(text)
    )


def _same_numbers(expected: str, gold: Any, given: str, answer: Any) -> bool:
    """Two expressions; where one is a decimal and the other states no decimal, one is the other cut off."""
    if gold == answer:
        return True
    if any(_is_huge(power) for formula in (gold, answer) for power in formula.atoms(sympy.Pow)):
        return False
    if gold.is_Rational and answer.is_Rational:
        return same_value(Fraction(gold.p, gold.q), Fraction(answer.p, answer.q))
    for decimal, exact, is_gold in ((expected, answer, True), (given, gold, False)):
        if is_decimal(decimal) and not exact.free_symbols and (read_number := number(decimal)):
            return _is_cut_off(read_number.value, exact, is_gold)
    parameters = [{each.name for each in formula.free_symbols} & _PARAMETERS for formula in (gold, answer)]
    if (
        len(parameters[0]) == len(parameters[1]) == 1
        and parameters[0] != parameters[1]
        and ("circ" in expected or "\\pi" in expected)
    ):
        name, other = (
            next(each for each in formula.free_symbols if each.name in _PARAMETERS) for formula in (gold, answer)
        )
        answer = answer.xreplace({other: name})  # 60+360k and 60+360n
    return _same_values(gold, answer)


def _is_cut_off(decimal: Fraction, exact: Any, is_gold: bool) -> bool:
    value = sympy.N(exact, DIGITS)
    if not value.is_real:
        return False
    last, error = places(decimal) or 0, abs(value - sympy.Rational(decimal.numerator, decimal.denominator))
    if is_gold and last >= 2 and error <= sympy.Rational(1, 2 * 10**last):
        return True
    return bool(
        last > 0
        and error < sympy.Rational(1, 10**last)
        and error <= sympy.Rational(TOLERANCE.numerator, TOLERANCE.denominator) * abs(value)
    )


def _same_values(gold: Any, answer: Any) -> bool:
    """Whether two expressions have one value, with free symbols at each of the points where both have a finite one."""
    if gold == answer:
        return True
    names = sorted(gold.free_symbols | answer.free_symbols, key=str)
    num_seen = 0
    for index in range(NUM_POINTS if names else 1):
        point = _point(names, index)
        first, second = _at(gold, point), _at(answer, point)
        if not (_is_finite(first) and _is_finite(second)):
            continue
        if (
            index >= NUM_POINTS - 2
            and not (gold.has(sympy.I) or answer.has(sympy.I))
            and not (first.is_real and second.is_real)
        ):
            continue
        if not _is_close(first, second):
            return not names and _is_close(_at(_real_roots(gold), {}), _at(_real_roots(answer), {}))
        num_seen += 1
    return num_seen > 0


def _is_close(first: Any, second: Any) -> bool:
    if first.is_Rational and second.is_Rational:
        return bool(first == second)
    first, second = sympy.N(first, DIGITS), sympy.N(second, DIGITS)
    if not (_is_finite(first) and _is_finite(second)):
        return False
    return bool(abs(first - second) <= EXACT * max(abs(first), abs(second), EXACT))


def _at(formula: Any, point: dict[Any, Any]) -> Any:
    value = formula.subs(point, simultaneous=True) if point else formula
    if value.has(AppliedUndef):
        value = value.replace(lambda each: isinstance(each, AppliedUndef), _some_function)
    value = value.doit()
    return value if value.is_Rational else sympy.N(value, DIGITS)


def _some_function(applied: Any) -> Any:
    """A function without a definition is taken as one that its name chooses."""
    seed = sum(ord(letter) for letter in applied.func.__name__)
    return sympy.cos(seed + sum((index + 2) * argument for index, argument in enumerate(applied.args)))


def _point(names: list[Any], index: int) -> dict[Any, Any]:
    sign = (1, 29, -1, -31, 2)[index]  # small and large: 3-x is not |x-3|
    return {
        name: sign * sympy.Rational(2 * place + 3 + 5 * index, place + 7 + index) for place, name in enumerate(names)
    }


def _is_finite(value: Any) -> bool:
    return bool(value.is_number and value.is_finite)


def _real_roots(formula: Any) -> Any:
    """An odd root of a negative number as the real one."""

    def real(power: Any) -> Any:
        base, exponent = power.args
        if (
            exponent.is_Rational
            and exponent.q % 2
            and exponent.q > 1
            and not base.free_symbols
            and sympy.N(base).is_negative
        ):
            return (-1) ** int(exponent.p) * (-base) ** exponent
        return power

    return formula.replace(lambda each: isinstance(each, sympy.Pow), real)


def _same_equations(gold: Any, answer: Any) -> bool:
    """Whether two equations hold at the same places: one is a multiple of the other, or so are their polynomials."""
    if not answer.free_symbols and not (_is_close(answer.lhs, answer.rhs)):
        return False
    first, second = gold.lhs - gold.rhs, answer.lhs - answer.rhs
    if first.free_symbols != second.free_symbols or not first.free_symbols:
        return False
    if _proportional(first, second):
        return True
    names = sorted(first.free_symbols, key=str)
    tops = [sympy.numer(sympy.together(each)) for each in (first, second)]
    if all(each.is_polynomial(*names) for each in tops):
        degrees = [sympy.total_degree(each, *names) for each in tops]
        if max(degrees) > 8:
            return False
        parts = [sympy.sqf_part(each) for each in tops] if min(degrees) > 0 else tops
        return _proportional(*parts)
    return bool(verify(gold, answer, timeout_seconds=None)) and _agree(gold, answer)


def _proportional(first: Any, second: Any) -> bool:
    names, ratios = sorted(first.free_symbols | second.free_symbols, key=str), []
    for index in range(NUM_POINTS + 1):
        point = _point(names, index)
        values = [_at(each, point) for each in (first, second)]
        if not all(map(_is_finite, values)):
            continue
        if values[0] == 0 or values[1] == 0:
            if values[0] != values[1]:
                return False
            continue
        ratios.append(values[0] / values[1])
    return len(ratios) > 1 and all(_is_close(ratios[0], each) for each in ratios[1:])


def _agree(gold: Any, answer: Any) -> bool:
    """Whether nothing speaks against two sets or relations being equal that math-verify found equal."""
    if isinstance(answer, Relational) and not answer.free_symbols and not isinstance(answer, sympy.Eq):
        return bool(answer.doit() == sympy.true)
    mine, others = list(getattr(gold, "args", ())), list(getattr(answer, "args", ()))
    if mine and len(mine) == len(others) and all(_is_constant(each) for each in [*mine, *others]):
        if isinstance(gold, sympy.Set) and not isinstance(gold, sympy.Interval):
            mine, others = sorted(mine, key=_sort_key), sorted(others, key=_sort_key)
        return all(map(_same_values, mine, others))
    return True


def _is_constant(formula: Any) -> bool:
    return isinstance(formula, sympy.Expr) and not formula.free_symbols


def _sort_key(value: Any) -> tuple[float, float]:
    number = complex(value)
    return number.real, number.imag
