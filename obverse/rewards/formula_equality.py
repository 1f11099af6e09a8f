"""Formulas parsed by latex2sympy and compared by value: exactly if both are rational, else to 100 digits or at points.

Formulas are only parsed by math-verify's LaTeX grammar; its parser of plain expressions, which uses Python's parser, is
not used. Only worker processes import this module.
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

# Units have been removed before: math-verify would take variables for units (6m, c/2).
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


class UnparseableError(Exception):
    """The grammar cannot parse a formula; the message is `gold` for the expected one, else `unparseable`."""


def equal_formulas(expected: str, candidate: str) -> bool:
    """Return whether two formulas are equal. Errors: UnparseableError."""
    if _accents(expected) != _accents(candidate):
        return False
    expected_formula, candidate_formula = parse_formula(expected), parse_formula(candidate)
    if expected_formula is None or candidate_formula is None:
        raise UnparseableError("gold" if expected_formula is None else "unparseable")
    if isinstance(expected_formula, sympy.Eq) and isinstance(candidate_formula, sympy.Eq):
        return _same_equations(expected_formula, candidate_formula)
    if isinstance(expected_formula, sympy.MatrixBase) and isinstance(candidate_formula, sympy.MatrixBase):
        return expected_formula.shape == candidate_formula.shape and all(
            map(_same_values, expected_formula.flat(), candidate_formula.flat())
        )
    if isinstance(expected_formula, sympy.Expr) and isinstance(candidate_formula, sympy.Expr):
        return _same_numbers(expected, expected_formula, candidate, candidate_formula)
    if isinstance(expected_formula, Relational) != isinstance(candidate_formula, Relational) or isinstance(
        expected_formula, sympy.Expr | sympy.MatrixBase
    ):
        return False
    if isinstance(candidate_formula, sympy.Expr | sympy.MatrixBase):
        return False
    return bool(verify(expected_formula, candidate_formula, timeout_seconds=None)) and _constants_agree(
        expected_formula, candidate_formula
    )


@lru_cache(maxsize=4096)
def parse_formula(text: str) -> Any:
    """Return a formula as a sympy object, with decimals as fractions and `\\pm` as a product; None if unparseable."""
    if "\\pm" in text and "=" in text:
        equations = [parse_formula(text.replace("\\pm", sign)) for sign in ("+", "-")]
        if all(isinstance(equation, sympy.Eq) for equation in equations):
            return sympy.Eq(sympy.Mul(*(equation.lhs - equation.rhs for equation in equations)), 0, evaluate=False)
        return None
    text = _ROOT.sub(lambda match: f"\\sqrt{{{match[1] or match[2]}}}", text)
    text = _FUNCTION.sub(r"\\\1 ", text)
    text = _SMALL_MODULUS.sub(lambda match: str(int(match[1]) % int(match[2])), text)
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    candidates = parse(f"\\boxed{{{text}}}", _READER, fallback_mode="no_fallback", parsing_timeout=None)
    formula = next((equation for equation in candidates if not isinstance(equation, str)), None)
    return formula if formula is None else _evaluate(formula)


def _evaluate(formula: Any) -> Any:
    """Replace the letters i and e and decimals by exact numbers, and evaluate products."""
    if not isinstance(formula, sympy.Expr | sympy.MatrixExpr | sympy.MatrixBase | sympy.Eq):
        return formula
    constants = {
        atom: sympy.I if atom.name == "i" else sympy.E for atom in formula.free_symbols if atom.name in ("i", "e")
    }
    decimals = {atom: sympy.Rational(str(atom)) for atom in formula.atoms(sympy.Float)}
    formula = formula.xreplace({**constants, **decimals}) if constants or decimals else formula
    if any(_is_huge(power) for power in formula.atoms(sympy.Pow)):
        return formula
    if isinstance(formula, sympy.Eq):
        return sympy.Eq(formula.lhs.doit(), formula.rhs.doit(), evaluate=False)
    return formula.doit()


def _is_huge(power: Any) -> bool:
    """Return whether a power of numbers is too large to expand; it only equals the same power."""
    return bool(power.exp.is_Integer and power.base.is_Rational and abs(power.exp) > MAX_EXPONENT)


def _accents(text: str) -> list[str]:
    """Return primes, inverse functions and accents, which the grammar drops, and capitals, which it lowercases."""
    return sorted(
        re.sub(r"[\s{}]|\\prime", lambda match: "'" if match.group() == "\\prime" else "", accent)
        for accent in _MARKED.findall(text)
    )


def _same_numbers(expected: str, gold: Any, candidate: str, answer: Any) -> bool:
    """Compare two expressions; a decimal equals an exact expression that it approximates."""
    if gold == answer:
        return True
    if any(_is_huge(power) for formula in (gold, answer) for power in formula.atoms(sympy.Pow)):
        return False
    if gold.is_Rational and answer.is_Rational:
        return same_value(Fraction(gold.p, gold.q), Fraction(answer.p, answer.q))
    for decimal, exact, is_gold in ((expected, answer, True), (candidate, gold, False)):
        if is_decimal(decimal) and not exact.free_symbols and (read_number := number(decimal)):
            return _is_cut_off(read_number.value, exact, is_gold)
    parameters = [{symbol.name for symbol in formula.free_symbols} & _PARAMETERS for formula in (gold, answer)]
    if (
        len(parameters[0]) == len(parameters[1]) == 1
        and parameters[0] != parameters[1]
        and ("circ" in expected or "\\pi" in expected)
    ):
        symbol_of, other_symbol = (
            next(symbol for symbol in formula.free_symbols if symbol.name in _PARAMETERS) for formula in (gold, answer)
        )
        answer = answer.xreplace({other_symbol: symbol_of})  # 60+360k and 60+360n
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
    """Return whether two expressions have the same value, at each test point where both are finite."""
    if gold == answer:
        return True
    names = sorted(gold.free_symbols | answer.free_symbols, key=str)
    num_seen = 0
    for index in range(NUM_POINTS if names else 1):
        point = _point(names, index)
        first, second = _evaluate_at(gold, point), _evaluate_at(answer, point)
        if not (_is_finite(first) and _is_finite(second)):
            continue
        if (
            index >= NUM_POINTS - 2
            and not (gold.has(sympy.I) or answer.has(sympy.I))
            and not (first.is_real and second.is_real)
        ):
            continue
        if not _is_close(first, second):
            return not names and _is_close(_evaluate_at(_real_roots(gold), {}), _evaluate_at(_real_roots(answer), {}))
        num_seen += 1
    return num_seen > 0


def _is_close(first: Any, second: Any) -> bool:
    if first.is_Rational and second.is_Rational:
        return bool(first == second)
    first, second = sympy.N(first, DIGITS), sympy.N(second, DIGITS)
    if not (_is_finite(first) and _is_finite(second)):
        return False
    return bool(abs(first - second) <= EXACT * max(abs(first), abs(second), EXACT))


def _evaluate_at(formula: Any, point: dict[Any, Any]) -> Any:
    value = formula.subs(point, simultaneous=True) if point else formula
    if value.has(AppliedUndef):
        value = value.replace(lambda term: isinstance(term, AppliedUndef), _some_function)
    value = value.doit()
    return value if value.is_Rational else sympy.N(value, DIGITS)


def _some_function(applied: Any) -> Any:
    """Replace an undefined function by a fixed function that depends on its name."""
    seed = sum(ord(letter) for letter in applied.func.__name__)
    return sympy.cos(seed + sum((index + 2) * argument for index, argument in enumerate(applied.args)))


def _point(names: list[Any], index: int) -> dict[Any, Any]:
    sign = (1, 29, -1, -31, 2)[index]  # small and large, so that 3-x differs from |x-3|
    return {
        name: sign * sympy.Rational(2 * place + 3 + 5 * index, place + 7 + index) for place, name in enumerate(names)
    }


def _is_finite(value: Any) -> bool:
    return bool(value.is_number and value.is_finite)


def _real_roots(formula: Any) -> Any:
    """Replace odd roots of negative numbers by the real roots."""

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

    return formula.replace(lambda term: isinstance(term, sympy.Pow), real)


def _same_equations(gold: Any, answer: Any) -> bool:
    """Return whether two equations have the same solutions: their sides, or square-free parts, are proportional."""
    if not answer.free_symbols and not (_is_close(answer.lhs, answer.rhs)):
        return False
    first, second = gold.lhs - gold.rhs, answer.lhs - answer.rhs
    if first.free_symbols != second.free_symbols or not first.free_symbols:
        return False
    if _proportional(first, second):
        return True
    names = sorted(first.free_symbols, key=str)
    numerators = [sympy.numer(sympy.together(side)) for side in (first, second)]
    if all(side.is_polynomial(*names) for side in numerators):
        degrees = [sympy.total_degree(side, *names) for side in numerators]
        if max(degrees) > 8:
            return False
        square_free = [sympy.sqf_part(side) for side in numerators] if min(degrees) > 0 else numerators
        return _proportional(*square_free)
    return bool(verify(gold, answer, timeout_seconds=None)) and _constants_agree(gold, answer)


def _proportional(first: Any, second: Any) -> bool:
    names, ratios = sorted(first.free_symbols | second.free_symbols, key=str), []
    for index in range(NUM_POINTS + 1):
        point = _point(names, index)
        values = [_evaluate_at(side, point) for side in (first, second)]
        if not all(map(_is_finite, values)):
            continue
        if values[0] == 0 or values[1] == 0:
            if values[0] != values[1]:
                return False
            continue
        ratios.append(values[0] / values[1])
    return len(ratios) > 1 and all(_is_close(ratios[0], side) for side in ratios[1:])


def _constants_agree(expected_formula: Any, candidate_formula: Any) -> bool:
    """Return whether the constants of two sets or relations that math-verify takes as equal are really equal."""
    if (
        isinstance(candidate_formula, Relational)
        and not candidate_formula.free_symbols
        and not isinstance(candidate_formula, sympy.Eq)
    ):
        return bool(candidate_formula.doit() == sympy.true)
    expected_args, candidate_args = (
        list(getattr(expected_formula, "args", ())),
        list(getattr(candidate_formula, "args", ())),
    )
    if (
        expected_args
        and len(expected_args) == len(candidate_args)
        and all(_is_constant(argument) for argument in [*expected_args, *candidate_args])
    ):
        if isinstance(expected_formula, sympy.Set) and not isinstance(expected_formula, sympy.Interval):
            expected_args, candidate_args = sorted(expected_args, key=_sort_key), sorted(candidate_args, key=_sort_key)
        return all(map(_same_values, expected_args, candidate_args))
    return True


def _is_constant(formula: Any) -> bool:
    return isinstance(formula, sympy.Expr) and not formula.free_symbols


def _sort_key(value: Any) -> tuple[float, float]:
    number = complex(value)
    return number.real, number.imag
