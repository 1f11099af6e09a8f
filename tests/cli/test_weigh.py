"""The coefficients of a step file against hand-made numbers, and every mistake in a file as one sentence."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import pytest

from obverse.analysis.step_coefficients import weigh
from obverse.analysis.step_file import COLUMNS, read_step
from obverse.errors import ConfigError, DataError
from obverse.methods import COMPONENTS, names
from obverse.types import Kind

PATH = Path(__file__).parents[1] / "data" / "step.json"
exp = math.exp


@pytest.fixture
def step() -> Any:
    return read_step(PATH)


def check(found: dict[str, Any], kept: list[bool], expected: list[list[float]]) -> None:
    assert [sample["kept"] for sample in found["samples"]] == kept
    for sample, numbers in zip(found["samples"], expected, strict=True):
        assert sample["coefficient"] == pytest.approx(numbers, rel=1e-12, abs=1e-15)


# Two problems: "solved" by one of three rollouts, "failed" by none of two; each with a demonstration (3 and 2 tokens).


def test_sft_is_a_token_mean_over_the_demonstrations(step: Any) -> None:
    fifth = 1 / 5
    expected = [[fifth] * 3, [0.0] * 2, [0.0] * 3, [0.0], [fifth] * 2, [0.0] * 2, [0.0]]
    check(weigh("sft", step), [True, False, False, False, True, False, False], expected)


def test_grpo_is_ratio_times_standardized_reward_minus_the_kl(step: Any) -> None:
    # rewards 1, 0, 0: mean 1/3, unbiased std sqrt(1/3); five rollouts train
    std = math.sqrt(((2 / 3) ** 2 + 2 * (1 / 3) ** 2) / 2) + 1e-6
    good, bad, beta = (2 / 3) / std, (-1 / 3) / std, 0.04

    def kl(logp: float, anchor: float) -> float:
        return beta * (exp(anchor - logp) - 1)

    expected = [
        [0.0] * 3,
        [(exp(0.05) * good + kl(-0.2, -0.3)) / (2 * 5), (exp(-0.1) * good + kl(-1.1, -1.2)) / (2 * 5)],
        [
            kl(-0.9, -0.8) / (3 * 5),  # the ratio e^-0.4 is below 0.8 and the advantage negative: masked
            bad / (3 * 5),
            (exp(0.05) * bad + kl(-0.7, -0.9)) / (3 * 5),
        ],
        [(exp(0.3) * bad + kl(-0.3, -0.5)) / 5],  # the ratio is above 1.2, but the advantage is negative: kept
        [0.0] * 2,
        [kl(-0.6, -0.7) / (2 * 5), 0.0],  # equal rewards: only the KL is left
        [kl(-1.2, -1.0) / 5],
    ]
    check(weigh("grpo", step), [False, True, True, True, False, True, True], expected)


def test_dr_grpo_divides_by_a_constant(step: Any) -> None:
    scale = 1 / (10 * 5)
    expected = [
        [0.0] * 3,
        [exp(0.05) * 2 / 3 * scale, exp(-0.1) * 2 / 3 * scale],
        [0.0, -scale / 3, -exp(0.05) * scale / 3],
        [-exp(0.3) * scale / 3],
        [0.0] * 2,
        [0.0] * 2,
        [0.0],
    ]
    found = weigh("dr_grpo", step, {"max_completion_length": 10})
    check(found, [False, True, True, True, False, True, True], expected)


def test_hpt_chooses_by_problem(step: Any) -> None:
    # the solved problem trains its three rollouts (unclipped, centered), the failed one its demonstration
    scale = 1 / (10 * 3)
    expected = [
        [0.0] * 3,
        [exp(0.05) * 2 / 3 * scale, exp(-0.1) * 2 / 3 * scale],
        [-exp(-0.4) * scale / 3, -scale / 3, -exp(0.05) * scale / 3],
        [-exp(0.3) * scale / 3],
        [0.3 / 2] * 2,
        [0.0] * 2,
        [0.0],
    ]
    found = weigh("hpt", step, {"max_completion_length": 10, "sft_coef": 0.3})
    check(found, [False, True, True, True, True, False, False], expected)


def test_the_gate_moves_a_problem_to_its_demonstration(step: Any) -> None:
    found = weigh("hpt", step, {"gate": 1})
    expected = [[0.2] * 3, [0.0] * 2, [0.0] * 3, [0.0], [0.2] * 2, [0.0] * 2, [0.0]]
    check(found, [True, False, False, False, True, False, False], expected)


def test_correct_decides_the_gate_and_is_a_reward_of_one_if_not_given(step: Any) -> None:
    step["samples"][1]["correct"] = False
    assert [each["kept"] for each in weigh("hpt", step)["samples"]][:4] == [True, False, False, False]
    del step["samples"][1]["correct"]
    step["samples"][1]["reward"] = 0.9
    assert [each["kept"] for each in weigh("hpt", step)["samples"]][:4] == [True, False, False, False]


def full(step: Any) -> Any:
    """The step file with every column for every token, and a pair for each problem."""
    step = deepcopy(step)
    for problem in ("solved", "failed"):
        for kind in ("chosen", "rejected"):
            step["samples"].append({"problem": problem, "kind": kind, "source": [kind] * 2, "logp": [-0.3, -0.8]})
    for index, sample in enumerate(step["samples"]):
        for number, column in enumerate(COLUMNS):
            values = [-0.05 * (1 + at + number + index) for at in range(len(sample["logp"]))]
            if not sample.get(column) or None in sample[column]:
                sample[column] = values
    return step


@pytest.mark.parametrize("name", names())
def test_the_order_of_samples_does_not_matter(name: str, step: Any) -> None:
    step = full(step)
    forth = weigh(name, step)["samples"]
    step["samples"].reverse()
    back = weigh(name, step)["samples"][::-1]
    for one, other in zip(forth, back, strict=True):
        assert one["kept"] == other["kept"]
        for key in ("coefficient", "value_coefficient"):
            assert one.get(key, []) == pytest.approx(other.get(key, []), rel=1e-12, abs=1e-15)
    assert any(number for each in forth for key in each if "coef" in key for number in each[key])


@pytest.mark.parametrize("name", names())
def test_the_answer_is_json_and_in_the_order_of_the_file(name: str, step: Any) -> None:
    step = full(step)
    found = json.loads(json.dumps(weigh(name, step), allow_nan=False))
    assert found["method"] == name
    assert [each["problem"] for each in found["samples"]] == [each["problem"] for each in step["samples"]]
    lengths = [len(each["logp"]) for each in step["samples"]]
    assert [len(each["coefficient"]) for each in found["samples"]] == lengths
    assert not any(str(number) == "-0.0" for each in found["samples"] for number in each["coefficient"])


def test_options_are_told_with_their_defaults(step: Any) -> None:
    options = weigh("grpo", step, {"beta": 0.0})["options"]
    assert options.pop("kl_coef") == 0.0 and options.pop("importance_sampling") == "none"  # as every method has them
    assert {name: value for name, value in options.items() if name not in COMPONENTS} == {
        "num_generations": 8,
        "epsilon": 0.2,
        "epsilon_high": None,
        "beta": 0.0,
    }
    with pytest.raises(ConfigError, match="did you mean 'beta'"):
        weigh("grpo", step, {"betta": 0.0})


def test_columns_that_nobody_reads_may_be_left_out(step: Any) -> None:
    full = weigh("sft", step)
    for sample in step["samples"]:
        for key in ("behavior", "anchor", "entropy", "truncated"):
            sample.pop(key, None)
        if sample["kind"] == "demonstration":
            del sample["reward"]
    assert weigh("sft", step) == full
    step["samples"] = step["samples"][:1]
    assert weigh("hpt", step)["samples"][0]["coefficient"] == pytest.approx([1 / 3] * 3)


def test_null_stands_for_what_nobody_reads(step: Any) -> None:
    step["samples"][0] |= {"behavior": [None] * 3, "anchor": None}
    assert weigh("grpo", step)["samples"][0]["kept"] is False
    step["samples"][1]["behavior"][1] = None
    with pytest.raises(DataError, match=r"samples\[1\]: behavior\[1\] is null, and the method reads it for rollout"):
        weigh("grpo", step)


def test_an_empty_step_and_an_empty_sample_are_fine(step: Any) -> None:
    assert weigh("grpo", {"samples": []})["samples"] == []
    step["samples"][3] |= {key: [] for key in ("source", "logp", "behavior", "anchor", "entropy")}
    assert weigh("hpt", step)["samples"][3]["coefficient"] == []


# Mistakes


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"behavior": None}, "samples[1]: behavior is missing, and the method reads it for rollout tokens"),
        ({"anchor": None}, "samples[1]: anchor is missing, and the method reads it for rollout tokens"),
        ({"logp": None}, "samples[1]: logp is missing"),
        ({"source": None}, "samples[1]: source is missing"),
        ({"kind": None}, "samples[1]: kind is missing"),
        ({"problem": None}, "samples[1]: problem is missing"),
        ({"reward": None}, "samples[1]: reward is missing"),
        ({"problem": [1]}, "samples[1]: problem: expects a name, not [1]"),
        ({"kind": "rolout"}, "samples[1]: kind: unknown 'rolout': did you mean 'rollout'?"),
        ({"kind": 7}, f"samples[1]: kind: unknown 7: one of {', '.join(get_args(Kind))}"),
        (
            {"source": ["rollout", "demonstrate"]},
            "samples[1]: source[1]: unknown 'demonstrate': did you mean 'demonstration'?",
        ),
        ({"source": "rollout"}, "samples[1]: source: expects a list, not 'rollout'"),
        ({"logp": [-0.2]}, "samples[1]: logp: has 1 numbers for 2 tokens in source"),
        ({"behavior": [-0.2] * 3}, "samples[1]: behavior: has 3 numbers for 2 tokens in source"),
        ({"logp": [-0.2, "x"]}, "samples[1]: logp[1]: expects a number, not 'x'"),
        ({"logp": [-0.2, None]}, "samples[1]: logp[1] is null: every token needs a log-prob"),
        ({"logp": [-0.2, float("inf")]}, "samples[1]: logp[1]: must be finite, not inf"),
        ({"reward": True}, "samples[1]: reward: expects a number, not True"),
        ({"correct": 1}, "samples[1]: correct: expects true or false, not 1"),
        ({"truncated": "no"}, "samples[1]: truncated: expects true or false, not 'no'"),
        ({"behaviour": [0.0, 0.0]}, "samples[1]: unknown key 'behaviour': did you mean 'behavior'?"),
    ],
)
def test_a_bad_sample_is_named(change: dict[str, Any], sentence: str, step: Any) -> None:
    step["samples"][1] |= change
    with pytest.raises(DataError) as caught:
        weigh("grpo", step)
    assert str(caught.value) == sentence


def test_keys_that_are_no_slip_are_the_files_own_business(step: Any) -> None:
    noted = deepcopy(step)
    noted["samples"][0]["text"] = "7+5=12"
    assert weigh("hpt", noted) == weigh("hpt", step)


def test_a_reward_that_is_read_must_be_there(tmp_path: Path, step: Any) -> None:
    path = tmp_path / "mixed.py"
    path.write_text(
        "from obverse.estimator.formula import Term\n"
        "from obverse.estimator.method import Method\n"
        "from obverse.estimator.parts import Centered, PerToken, Request\n"
        "from obverse.types import Source\n"
        "def mixed():\n"
        "    terms = (Term(Source.DEMONSTRATION, Centered(), normalizer=PerToken()),)\n"
        "    return Method(Request(1, 1), terms)\n"
    )
    assert sum(weigh(f"{path}:mixed", step)["samples"][0]["coefficient"]) == 0.0
    del step["samples"][0]["reward"]
    with pytest.raises(DataError, match=r"samples\[0\]: reward is missing, and the method reads it"):
        weigh(f"{path}:mixed", step)


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        ([], 'an object with a list "samples"'),
        ({"samples": {}}, 'an object with a list "samples"'),
        ({"samples": [3]}, "samples[0]: expects an object, not 3"),
        ({"samples": [], "progress": 2}, "progress must be between 0 and 1, not 2"),
        ({"samples": [], "progress": 10**400}, "progress: must be finite, not 1000"),
        ({"samples": [], "progress": "0"}, "progress: expects a number, not '0'"),
    ],
)
def test_a_bad_step_is_named(step: Any, sentence: str) -> None:
    with pytest.raises(DataError) as caught:
        weigh("grpo", step)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"samples": [}', "step.json:1: not JSON: "),
        (b'{"samples": [], "progress": NaN}', "NaN: every number must be finite"),
        (b"\xff\xfe", "is not a text in UTF-8"),
        (None, "cannot read"),
        (b'{"samples": [], "samples": []}', "'samples' twice in one object"),
        (b'{"samples": [{"problem": "a", "problem": "b"}]}', "'problem' twice in one object"),
        (b'{"samples": [], "progress": 1' + b"0" * 5000 + b"}", "step.json: "),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_file_is_named(content: bytes | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_step(path)
    assert sentence in str(caught.value)


def test_what_a_method_refuses_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def mine(k: int = 1):\n    raise ValueError('k must be even')\n")
    with pytest.raises(ConfigError, match="mine: k must be even"):
        weigh(f"{tmp_path / 'mine.py'}:mine", {"samples": []})


# What other methods bring along


def own(problem: str, reward: float, logp: list[float], **columns: Any) -> dict[str, Any]:
    return {"problem": problem, "kind": "rollout", "reward": reward, "source": ["rollout"] * len(logp)} | {
        "logp": logp, "behavior": logp, **columns,
    }  # fmt: skip


def written(problem: str, kind: str, logp: list[float], **columns: Any) -> dict[str, Any]:
    return {"problem": problem, "kind": kind, "source": [kind] * len(logp), "logp": logp, **columns}


def coefficients(name: str, samples: list[dict[str, Any]], progress: float = 0.0, **options: Any) -> list[list[float]]:
    found = weigh(name, {"progress": progress, "samples": samples}, options)["samples"]
    return [sample["coefficient"] for sample in found]


def test_what_is_remembered_is_taken_from_the_file() -> None:
    samples = [own("a", 1.0, [-1.0, -2.0], memory=0.25), own("b", 0.0, [-1.0])]
    found = coefficients("reinforce", samples, baseline="running")
    assert found == [[pytest.approx(0.75 / 2)] * 2, [0.0]]
    greedy = [own("a", 1.0, [-1.0]), own("b", 0.0, [-1.0]), own("b", 1.0, [-1.0]) | {"kind": "greedy"}]
    assert coefficients("reinforce", greedy, baseline="greedy") == [[pytest.approx(0.5)], [pytest.approx(-0.5)], [0.0]]


def test_a_problems_draw_is_taken_from_the_file() -> None:
    """Rejection of demonstration tokens: the first token of p = 1/2 is accepted below a half and not above."""
    half = [
        written("a", "demonstration", [math.log(0.5)] * 2, behavior=[-1.0] * 2, reward=1.0, draw=draw)
        for draw in (0.1, 0.7)
    ]
    both = [coefficients("luffy", [each, own("a", 0.0, [-1.0])], shaping="classic_reject_token") for each in half]
    assert both[0][0][0] != 0.0 and both[1][0][0] == 0.0


@pytest.mark.parametrize(("progress", "trained"), [(0.0, [True, False]), (0.5, [False, True])])
def test_stages_weigh_what_is_theirs(progress: float, trained: list[bool]) -> None:
    samples = [written("a", "demonstration", [-1.0]), own("a", 1.0, [-1.0]), own("a", 0.0, [-1.0])]
    found = coefficients("sft_then_rl", samples, progress)
    assert [any(found[0]), any(found[1])] == trained


def test_lanes_that_take_turns_are_updates_of_their_own() -> None:
    samples = [written("a", "demonstration", [-1.0] * 4), own("a", 1.0, [-1.0]), own("a", 0.0, [-1.0])]
    shown, better, worse = coefficients("alternate", samples)
    assert shown == [0.25] * 4, "the own samples are in another update"
    assert better[0] == pytest.approx(-worse[0]) and better[0] > 0


def test_a_reward_models_scores_are_weighed_at_the_last_token() -> None:
    samples = [
        written("a", "chosen", [0.0, 0.0], value=[9.0, 1.0]),
        written("a", "rejected", [0.0], value=[0.0]),
    ]
    found = weigh("reward_model", {"samples": samples})["samples"]
    pull = 1 / (1 + exp(1.0))
    assert found[0]["value_coefficient"] == [0.0, pytest.approx(pull)]
    assert found[1]["value_coefficient"] == [pytest.approx(-pull)]
    assert [each["coefficient"] for each in found] == [[0.0, 0.0], [0.0]]
    del samples[1]["value"]
    with pytest.raises(DataError, match=r"samples\[1\]: value is missing"):
        weigh("reward_model", {"samples": samples})


def test_a_critic_is_weighed_by_what_it_should_have_said() -> None:
    columns = {"advantage": [0.5, -1.0], "value": [0.2, 0.0], "old_value": [0.2, 0.0], "returns": [1.0, 0.4]}
    (found,) = weigh("ppo", {"samples": [own("a", 1.0, [-1.0, -2.0], **columns)]})["samples"]
    assert found["coefficient"] == pytest.approx([0.25, -0.5])
    assert found["value_coefficient"] == pytest.approx([0.4, 0.2])
