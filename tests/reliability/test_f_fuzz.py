"""Fuzz: whatever is in a file or on the command line, the answer is a result or one sentence, never a traceback.

Of graders there is more in tests/rewards; of the formula in tests/exam, whose laws hold for any batch.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from reliability import faults

from obverse import methods
from obverse.analysis.step_coefficients import weigh
from obverse.analysis.step_file import read_step
from obverse.cli.parser import scan
from obverse.config.method_options import train_schema
from obverse.config.resolve import resolve
from obverse.config.yaml_file import read as read_yaml
from obverse.data.layouts import RowLocation, read_row
from obverse.data.readers import read_path
from obverse.errors import ConfigError, DataError, UserError
from obverse.redact import flat
from obverse.rewards import grade_completion
from obverse.runtime.manifest import find_damage, sealed_text
from obverse.types import Problem

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = ("prompt", "answer", "demonstration", "messages", "question", "chosen", "rejected", "verifier", "id", "hint")
KEYS = st.sampled_from((*NAMES, "reward_model", "target", "solution"))
MESSAGES = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "tool_calls"]), JSON | st.sampled_from(["user", "assistant"])),
    max_size=3,
)
FOLDER = Path(tempfile.mkdtemp(prefix="obverse-fuzz-"))


def is_one_report(error: UserError) -> bool:
    """Words for a user: printable lines, none of them endless."""
    lines = str(error).splitlines()
    return bool(lines) and all(line and len(line) < 2000 and flat(line).isprintable() for line in lines)


# Readers


@QUICK
@given(st.dictionaries(KEYS, JSON | MESSAGES | st.text(), max_size=5) | JSON)
def test_a_row_is_a_problem_or_a_list_of_flaws(row: Any) -> None:
    found = read_row(row, RowLocation("rows.jsonl", 3))
    assert isinstance(found, Problem) or (found and all(str(flaw).startswith("rows.jsonl:3: ") for flaw in found))


@QUICK
@given(st.lists(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()), min_size=1, max_size=6))
def test_a_file_of_anything_is_read_or_refused_with_its_lines(lines: list[bytes]) -> None:
    for suffix in (".jsonl", ".json", ".parquet"):
        file = FOLDER / f"rows{suffix}"
        file.write_bytes(b"\n".join(lines))
        try:
            assert all(isinstance(problem, Problem) for problem in read_path(str(file), "train"))
        except DataError as error:
            assert is_one_report(error) and str(file) in str(error)


# Configuration


@QUICK
@given(st.text(max_size=80) | st.dictionaries(st.text(max_size=12), JSON, max_size=4).map(json.dumps))
@example("a: &a [*a]")
@example("? [x]\n: y")
@example("{[1]: 2}")
@example("x: 2001-99-99")
@example("!!binary x")
@example("x: !!int ''")
@example("x: !!bool y")
@example("x: !!timestamp y")
@example("--- a\n--- b")
def test_a_configuration_file_is_options_or_one_sentence(text: str) -> None:
    file = FOLDER / "train.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        assert all(isinstance(name, str) for name in read_yaml(file).values)
    except ConfigError as error:
        assert is_one_report(error)


OPTIONS = st.sampled_from(
    [*train_schema(methods.find("hpt")).model_fields, "learning_rat", "", "no_seed", "method_options"]
)


@QUICK
@given(st.dictionaries(OPTIONS, st.text(max_size=12) | st.integers() | st.floats() | st.booleans() | JSON, max_size=4))
def test_options_are_a_configuration_or_sentences(given_options: dict[str, Any]) -> None:
    make = methods.find("hpt")
    try:
        config = resolve("hpt", make, given_options)
    except ConfigError as error:
        assert is_one_report(error)
        return
    assert all(math.isfinite(value) for value in config.model_dump().values() if isinstance(value, float))


@QUICK
@given(st.lists(st.text(max_size=15) | OPTIONS.map(lambda name: f"--{name}"), max_size=6))
def test_words_are_options_or_sentences(words: list[str]) -> None:
    make = methods.find("hpt")
    try:
        resolve("hpt", make, scan(words, train_schema(make)).given)
    except ConfigError as error:
        assert is_one_report(error)


# weigh

NUMBERS = st.floats(-20, 0) | st.floats(allow_nan=False) | st.none() | st.integers(-5, 0)
SAMPLE = st.fixed_dictionaries(
    {
        "problem": st.sampled_from(["p", "q"]),
        "kind": st.sampled_from(["rollout", "hinted", "demonstration", "chosen", "rejected", "x"]),
        "source": st.lists(st.sampled_from(["rollout", "demonstration", "hint"]), min_size=0, max_size=2),
        "logp": st.lists(NUMBERS, min_size=0, max_size=2),
    },
    optional={
        "reward": NUMBERS | st.booleans() | st.text(max_size=3),
        "behavior": st.lists(NUMBERS, max_size=2),
        "anchor": st.lists(NUMBERS, max_size=2),
        "entropy": st.lists(NUMBERS, max_size=2),
        "correct": st.booleans() | JSON,
        "truncated": st.booleans() | JSON,
    },
)
STEP = st.fixed_dictionaries({"samples": st.lists(SAMPLE, max_size=3) | JSON}, optional={"progress": NUMBERS})
METHODS = st.sampled_from(["sft", "grpo", "hpt", "luffy", "ppo", "dpo", "relift", "sft_then_rl"])


@QUICK
@given(
    st.fixed_dictionaries({"samples": st.lists(SAMPLE, max_size=3) | JSON}, optional={"progress": NUMBERS}) | JSON,
    METHODS,
)
def test_weigh_answers_with_finite_numbers_or_one_sentence(step: Any, method: str) -> None:
    file = FOLDER / "step.json"
    file.write_text(json.dumps(step))
    try:
        found = weigh(method, read_step(file))
    except (DataError, ConfigError) as error:
        assert is_one_report(error)
        return
    assert all(math.isfinite(number) for sample in found["samples"] for number in sample["coefficient"])


# Graders

ANSWERS = st.text(max_size=40) | st.text("0123456789+-*/^().,=\\{}boxedfrac ", max_size=40)


@QUICK
@given(ANSWERS, st.sampled_from(["math", "exact", "numeric", "choice", "countdown", "knights"]))
def test_a_grader_has_a_verdict_on_any_text(text: str, name: str) -> None:
    answer: Any = {
        "countdown": {"numbers": [1, 2, 3], "target": 6},
        "knights": {"names": ["Ann"], "solution": [True]},
        "choice": "A",
    }.get(name, "17")
    meta = {"choices": ["x", "y"]} if name == "choice" else {}
    for shown in (text, f"\\boxed{{{text}}}", f"<answer>{text}</answer>"):
        grade = grade_completion(Problem("p", "?", answer=answer, verifier=name, meta=meta), shown)
        assert grade is not None and math.isfinite(grade.reward)
        assert not grade.correct or any(char.isalnum() for char in text)


# The manifest


@QUICK
@given(st.data())
def test_a_manifest_of_anything_is_refused_in_one_sentence(data: st.DataObject) -> None:
    path = faults.save(FOLDER / "run", 1)
    file = path / "manifest.json"
    whole = json.loads(file.read_text())
    changed = data.draw(
        st.binary(max_size=80)
        | JSON.map(lambda value: json.dumps(value).encode())
        | st.dictionaries(st.sampled_from([*whole, "other"]), JSON, min_size=1, max_size=3).map(
            lambda edit: json.dumps(whole | edit, indent=2).encode()
        )
    )
    file.write_bytes(changed)
    said = find_damage(path)
    assert said is not None or changed.decode() == sealed_text({k: v for k, v in whole.items() if k != "seal"})
    assert said is None or ("\n" not in said and len(said) < 400)
