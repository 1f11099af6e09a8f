"""What a comparison is made of, and what is refused before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from obverse.cli.main import main
from obverse.comparison import run_trial
from obverse.comparison.plan import Entry, Plan, Trial, make_plan, shared, write_problems
from obverse.comparison.test_sets import Column
from obverse.config.compare import CompareConfig
from obverse.config.resolve import read
from obverse.config.sources import Layer
from obverse.config.train import TrainConfig
from obverse.data import load_dataset
from obverse.errors import ConfigError, UserError


def plan(root: Path | None = None, **options: Any) -> Plan:
    given = {"methods": "sft grpo", "budget": "20K", **options}
    if root is not None:
        given["output_dir"] = str(root)
    return make_plan(read(CompareConfig, [Layer("command line", given)], "see"))


def test_an_entry_is_a_method_with_options() -> None:
    entry = Entry("hpt,gate=1,failed=off_policy")
    assert (entry.method, entry.options) == ("hpt", {"gate": "1", "failed": "off_policy"})
    assert (entry.label, entry.name) == ("hpt gate=1 failed=off_policy", "hpt-gate-1-failed-off_policy")
    assert Entry("path/to/mine.py:mine").label == "mine"


def test_one_call_is_one_run_per_method_rate_and_seed() -> None:
    comparison = plan(seeds=2, learning_rates="1e-4,1e-3", methods="sft hpt,gate=1,learning_rate=0.01")
    names = [str(trial.folder) for trial in comparison.trials()]
    assert names == [
        "grid/sft/rate-0.0001",
        "grid/sft/rate-0.001",
        *(f"runs/{name}/seed-{seed}" for seed in (42, 43) for name in ("sft", "hpt-gate-1-learning_rate-0.01")),
    ]
    assert {trial.seed for trial in comparison.trials() if trial.is_grid}.isdisjoint(comparison.seeds)


def test_runs_are_one_group_of_their_trackers(tmp_path: Path) -> None:
    comparison = plan(tmp_path / "series", report_to="jsonl", learning_rates="1e-4,1e-3", methods="sft")
    configs = [comparison.resolved(trial, 1e-4) for trial in comparison.trials()]
    assert {config.run_group for config in configs} == {"series"}
    assert [config.run_name for config in configs][:3] == [
        "grid-sft-rate-0.0001",
        "grid-sft-rate-0.001",
        "runs-sft-seed-42",
    ]
    assert (
        plan(tmp_path, report_to="jsonl", run_group="mine").run_options(comparison.trials()[0], 1e-4)["run_group"]
        == "mine"
    )
    assert "run_group" not in plan(tmp_path).run_options(comparison.trials()[0], 1e-4)
    with pytest.raises(ConfigError, match="run_name"):
        plan(tmp_path, run_name="pilot")


@pytest.mark.parametrize(
    ("unit", "limits"),
    [
        ("tokens", {"budget": 20_000, "budget_in": "tokens"}),
        ("flops", {"budget": 20_000, "budget_in": "flops"}),
        ("seconds", {"budget": 20_000, "budget_in": "seconds"}),
        ("steps", {"budget": None, "max_steps": 20_000}),
    ],
)
def test_the_budget_ends_every_run(unit: str, limits: dict[str, Any], tmp_path: Path) -> None:
    comparison = plan(tmp_path, budget_in=unit, prompts_per_step=7)
    for entry in comparison.entries:
        config = comparison.resolved(Trial(entry, 42), 1e-4)
        assert {name: getattr(config, name) for name in limits} == limits
        assert (config.prompts_per_step, config.learning_rate, config.seed) == (7, 1e-4, 42)
        assert config.lr_scheduler_type == "constant" and config.adam_beta2 == 0.95  # the embedded preset stands


def test_own_options_of_an_entry_reach_its_run(tmp_path: Path) -> None:
    comparison = plan(tmp_path, methods="hpt hpt,gate=2,weight_decay=0.5")
    first, second = (comparison.resolved(Trial(entry, 42), None) for entry in comparison.entries)
    assert (first.method_options["gate"], second.method_options["gate"]) == (0, 2)
    assert (first.weight_decay, second.weight_decay) == (0.01, 0.5)


def test_baselines_learn_from_one_source() -> None:
    assert plan(methods="sft grpo hpt sft_then_rl").baselines == {"sft", "grpo"}
    assert plan(methods="hpt luffy").baselines == {"hpt"}
    assert plan(methods="sft hpt,gate=1", baselines="hpt gate=1").baselines == {"hpt-gate-1"}


def test_the_levels_of_an_embedded_task() -> None:
    tests = [(test.name, test.dataset, test.split, test.role) for test in plan().tests]
    assert tests == [
        ("easy", "arithmetic:1-2", "heldout", "in"),
        ("medium", "arithmetic:3-4", "heldout", "in"),
        ("hard", "arithmetic:5-6", "heldout", "in"),
        ("ood", "arithmetic", "ood", "ood"),
    ]
    assert [test.dataset for test in plan(dataset="countdown:3").tests] == ["countdown:3-3", "countdown"]


def test_validation_and_tests_share_no_problem(tmp_path: Path) -> None:
    comparison = plan(tmp_path, num_validation_problems=10, num_test_problems=12)
    write_problems(comparison)

    def prompts(name: str) -> set[str]:
        return {json.loads(line)["prompt"] for line in comparison.problems_path(name).read_text().splitlines()}

    validation, tested = prompts("validation"), [prompts(test.name) for test in comparison.tests]
    assert len(validation) == 10 and [len(prompts_of_test) for prompts_of_test in tested] == [12] * 4
    assert not any(validation & prompts_of_test for prompts_of_test in tested)
    again = load_dataset(str(comparison.problems_path("ood")))
    assert again[0].verifier == "exact" and again[0].meta["difficulty"] == 7


def test_validation_of_its_own_takes_nothing_from_the_tests(tmp_path: Path) -> None:
    options = {"num_validation_problems": 5, "num_test_problems": 8}
    write_problems(plan(tmp_path / "own", validation="knights:2", **options))
    assert len((tmp_path / "own/problems/validation.jsonl").read_text().splitlines()) == 5
    first = json.loads((tmp_path / "own/problems/easy.jsonl").read_text().splitlines()[0])
    assert first["id"] == "easy-arithmetic-heldout-0"


def test_a_benchmark_is_a_column_of_its_own(tmp_path: Path) -> None:
    row = {"question": "1+1?", "answer": "It is two.\n#### 2"}
    (tmp_path / "gsm8k_test.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    comparison = plan(
        tmp_path / "own", tests="easy=arithmetic:1-2,gsm8k", benchmark_dir=tmp_path, num_validation_problems=2
    )
    assert [test.role for test in comparison.tests] == ["in", "benchmark"]
    write_problems(comparison)
    problems = load_dataset(str(comparison.problems_path("gsm8k")))
    assert [problem.answer for problem in problems] == ["2"] * 3 and problems[0].verifier == "math"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"methods": "sft grpp"}, "unknown method 'grpp': did you mean 'grpo'?"),
        ({"methods": "sft sft"}, None),  # the same word twice is one row
        ({"methods": "sft hpt,gate=0 hpt,gate=0"}, None),
        ({"methods": "hpt,gate hpt"}, "'gate' is not an option"),
        ({"methods": "hpt,gaet=1"}, "did you mean --gate?"),
        ({"methods": "hpt,gate=x"}, "hpt gate=x: --gate: expects a whole number"),
        ({"methods": "hpt,seed=1"}, "seed is the same for all methods"),
        ({"methods": "hpt,a=1 base"}, "unknown method 'base'"),
        ({"methods": "reward_model"}, "trains no policy"),
        ({"seeds": 0}, "--seeds: must be at least 1, not 0"),
        ({"budget": "20X"}, "--budget: expects a whole number"),
        ({"budget": "0"}, "--budget: must be at least 1"),
        ({"learning_rate": 1e-3}, "--learning_rate: give --learning_rates"),
        ({"max_steps": 5}, "--budget_in steps"),
        ({"baselines": "dft"}, "'dft' is not compared"),
        ({"tests": "arithmetic=,knights"}, "expects name=dataset"),
        ({"tests": "aime"}, "unknown benchmark 'aime': did you mean"),
        ({"tests": "easy=arithmetic:1,gsm8k@greedy"}, "a benchmark without a protocol, not 'gsm8k@greedy'"),
        ({"tests": "gsm8k"}, "give --validation"),
        ({"tests": "a=arithmetic:1,a=arithmetic:2"}, "must be distinct"),
        ({"tests": "ood=arithmetic@ood"}, "give --validation"),
        ({"k": "1,64"}, "num_generations_test 8 is too few for k = 64"),
        ({"dataset": "arithmetic:9"}, "difficulties 1 to 6"),
    ],
)
def test_a_mistake_is_one_sentence(options: dict[str, Any], sentence: str | None) -> None:
    if sentence is None:
        assert len(plan(**options).entries) == len(dict.fromkeys(options["methods"].split()))
        return
    with pytest.raises(ConfigError) as error:
        plan(**options)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_data_without_tests_of_its_own_needs_them(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1=", "answer": "2", "demonstration": "2"}\n')
    with pytest.raises(ConfigError, match="--tests: is required"):
        plan(dataset=str(tmp_path / "rows.jsonl"))


def test_the_command_line_says_it_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["compare", "sft", "hpt,gate=1", "--seeds", "0", "--output_dir", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert "--seeds" in error and "--budget: is required" in error
    assert not (tmp_path / "none").exists()
    assert main(["compare", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--learning_rates" in out and "--max_steps" not in out


TAUGHT = """
from obverse.estimator import Method, Teacher, Term
from obverse.estimator.parts import Part, PerToken, Request
from obverse.types import Source


class Gap(Part):
    needs = frozenset({"teacher"})

    def __call__(self, inputs):
        return inputs.tokens.teacher - inputs.policy.logp


def taught() -> Method:
    term = Term(Source.ROLLOUT, Gap(), normalizer=PerToken())
    return Method(ask=Request(rollouts=2), terms=(term,), teacher=Teacher(), run={"learning_rate": 1e-4})
"""


def test_the_teachers_cost_is_spent_by_the_methods_that_read_it_alone(tmp_path: Path) -> None:
    file = tmp_path / "taught.py"
    file.write_text(TAUGHT, encoding="utf-8")
    options = {"methods": f"sft {file}:taught", "teacher_model": "embedded", "teacher_cost": "5K"}
    comparison = plan(tmp_path / "series", **options)
    configs = {trial.entry.label: comparison.resolved(trial, 1e-4) for trial in comparison.trials()}
    assert {label: (config.budget, config.teacher_model) for label, config in configs.items()} == {
        "sft": (20_000, None),
        "taught": (15_000, "embedded"),
    }
    assert comparison.resolved(Trial(Entry(f"{file}:taught"), 1), 1e-4).budget == 15_000
    for given, sentence in (
        ({"teacher_cost": "5K"}, "add teacher_model"),
        ({**options, "teacher_cost": "20K"}, "leaves nothing"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            plan(tmp_path / "series", **{"methods": "sft", **given})


@pytest.mark.parametrize(
    ("refused", "sentence"),
    [
        ({"methods": "opd"}, "--teacher_model"),
        ({"methods": "grpo sdpo", "teacher_model": "embedded"}, "--teacher_model: no method"),
        (
            {"methods": "opd", "teacher_model": "embedded", "teacher_template": "{prompt}{context}"},
            "_template: no method",
        ),
        ({"methods": "sdpo", "teacher_template": "{prompt}"}, "has no .context."),
        ({"methods": "gkd grpo", "teacher_url": "http://localhost:1"}, "--teacher_url: gkd"),
        ({"methods": "opd", "teacher_model": "a=embedded", "teacher_field": "subject"}, "no field subject"),
    ],
)
def test_a_teachers_options_are_checked_with_the_plan(refused: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        plan(**refused)


def test_a_teachers_options_are_given_to_the_methods_that_use_them(tmp_path: Path) -> None:
    options = {"methods": "sft", "budget": "20K", "teacher_model": "embedded", "teacher_template": "{prompt} {context}"}
    comparison = Plan(read(CompareConfig, [Layer("command line", options)], "see"), tmp_path, (), ())
    entries = [Entry("grpo"), Entry("opd"), Entry("sdpo"), Entry("gkd,lmbda=1")]
    given = [shared(comparison.config, comparison.teacher_options(entry)) for entry in entries]
    model, template = {"teacher_model": "embedded"}, {"teacher_template": "{prompt} {context}"}
    assert given == [{}, model, template, model]


def test_all_are_tested_at_the_comparisons_temperature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tested(Exception):
        pass

    def sampling_params(config: TrainConfig, stop_ids: object) -> None:
        raise Tested(config.temperature)

    policy = SimpleNamespace(model=SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=0)))
    stand_ins = {"load_any": (policy, None), "set_threads": 1, "embedded_sampler": None}
    for name, value in stand_ins.items():
        monkeypatch.setattr(run_trial, name, lambda *_, value=value, **__: value)
    monkeypatch.setattr(run_trial.Renderer, "of", lambda *_: SimpleNamespace(stop_ids=()))
    monkeypatch.setattr(run_trial, "sampling_params", sampling_params)
    config = read(CompareConfig, [Layer("command line", {"methods": "rft", "budget": "20K", "seeds": 1})], "see")
    tests = (Column("easy", "arithmetic:1", "heldout"),)
    comparison = Plan(config, tmp_path, (Entry("rft"),), tests)
    own = comparison.resolved(Trial(Entry("rft"), 42), 1e-4)
    assert own.temperature == 0.7
    for measure in (
        lambda: run_trial.measure_base(comparison),
        lambda: run_trial.measure_tests(comparison, "m", own, "rft", "last", 42, None),
    ):
        with pytest.raises(Tested, match=r"^1\.0$"):
            measure()
