"""Law 9: every part has a name, and a docstring with its shape or its source; every method says where it is from."""

from __future__ import annotations

import importlib
import pkgutil
import re

import pytest

from obverse import methods
from obverse.estimator import parts
from obverse.estimator.parts.interfaces import Mask, Named, Part
from obverse.estimator.schedule import as_schedule

MODULES = [
    importlib.import_module(f"obverse.estimator.parts.{module.name}") for module in pkgutil.iter_modules(parts.__path__)
]
PARTS = sorted(
    {
        value
        for module in MODULES
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Named) and value.__module__ != Named.__module__
    },
    key=lambda part: part.__name__,
)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_a_part_says_what_it_is(part: type[Named]) -> None:
    assert part.__doc__ and not part.__doc__.startswith(f"{part.__name__}("), (
        "a dataclass's own docstring is no docstring"
    )
    if issubclass(part, Part | Mask):
        assert "Source:" in part.__doc__
        assert re.search(r"\d{4}\.\d{4,5}", part.__doc__) or part.__name__ == "Always"


@pytest.mark.parametrize("name", methods.names())
def test_every_part_of_a_method_prints_its_name(name: str) -> None:
    schedule = as_schedule(methods.build(name))
    for term in [term for method in schedule.methods for term in method.terms]:
        for part in (*term.parts, schedule.selector):
            assert re.fullmatch(r"[a-z0-9_]+(\([^<>]*\))?", str(part)), str(part)


@pytest.mark.parametrize("name", methods.names())
def test_a_method_is_documented_longer_than_it_is_written(name: str) -> None:
    make = methods.find(name)
    text = make.__doc__ or ""
    for heading in ("Paper", "Equation", "Estimator", "Paper writes", "Code does", "We do", "Defaults", "Pitfalls"):
        assert re.search(rf"^\s*{heading}\s", text, re.MULTILINE), f"{name}: no {heading!r}"
    assert "https://arxiv.org/abs/" in text
