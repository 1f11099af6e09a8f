"""`obverse analyze` on a run: its checkpoints, its stored samples, the command line, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from obverse.analysis.coefficients import coefficients
from obverse.analysis.context import Point, initial_of, load_context, points, sampling_point, with_run_options
from obverse.analysis.gradients import DEMONSTRATIONS, ROLLOUTS, WHOLE, gradients
from obverse.analysis.stored_samples import read_groups
from obverse.cli.main import main
from obverse.config.analyze import QUESTIONS, CoefficientsConfig, GradientsConfig
from obverse.errors import ConfigError, DataError
from obverse.training.loop import train
from runs import config

STEPS = 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of a hybrid on the embedded model, every one of them saved."""
    folder = tmp_path_factory.mktemp("analyze") / "run"
    options = {"max_steps": STEPS, "save_steps": 1, "num_generations": 4, "max_completion_length": 32}
    train(
        config("hpt", folder, "embedded", "arithmetic:1-4", prompts_per_step=8, learning_rate=1e-2, seed=7, **options)
    )
    return folder


def test_a_run_is_its_initial_model_and_its_checkpoints(run: Path) -> None:
    saved = points(str(run))
    assert [(point.name, point.progress) for point in saved] == [("step 0", 0), ("step 1", 0.5), ("step 2", 1)]
    assert saved[0].path == "embedded" and points("embedded") == [Point("embedded", "embedded")]
    assert initial_of(GradientsConfig(model=str(run))) == "embedded"
    assert initial_of(GradientsConfig(model=str(run), initial="x")) == "x"
    options = with_run_options(GradientsConfig(model=str(run)))
    assert (options.dataset, options.max_completion_length, options.seed) == ("arithmetic:1-4", 32, 7)
    assert with_run_options(GradientsConfig(model=str(run), dataset="countdown")).dataset == "countdown"
    assert with_run_options(GradientsConfig(model="embedded")).max_completion_length == 96


@pytest.mark.slow
def test_the_parts_over_training(run: Path) -> None:
    result = gradients(GradientsConfig(model=str(run), num_batches=2, num_problems=6, num_generations=2))
    assert [stage.name for stage in result.stages] == ["step 0", "step 1", "step 2"]
    for stage in result.stages:
        assert [row.part for row in stage.rows] == [WHOLE, DEMONSTRATIONS, ROLLOUTS, WHOLE]
        assert stage.rows[-1].bias in (0, None) and len(stage.cosines) == 4
        assert [parts.name for parts in stage.parts] == ["hpt"]
    rows = [stage.cosines[1][0] for stage in result.stages]
    assert len(set(rows)) > 1  # the policy moved, and so did the angles
    assert json.dumps(result.plain(), allow_nan=False)


def test_stored_samples_under_the_policy_that_drew_them(run: Path) -> None:
    options = with_run_options(CoefficientsConfig(model=str(run), step=2, methods="hpt,grpo"))
    point, about = sampling_point(options)
    assert point.path.endswith("checkpoint-1") and "step 1" in about
    result = coefficients(options)
    rows = [json.loads(line) for line in (run / "samples" / "step-000002.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["kept"]]
    for kind in ("rollout", "demonstration"):
        num_tokens = sum(len(row["ids"]) for row in trained if row["kind"] == kind)
        assert sum(m.num_tokens for m in result.masses["hpt"] if (m.by, m.name) == ("source", kind)) == num_tokens
    assert any(
        completion.kind == "demonstration" and completion.coefficients["grpo"] is not None
        for completion in result.completions
    )
    assert json.dumps(result.plain(), allow_nan=False)


def test_stored_samples_are_of_the_run_s_problems(run: Path) -> None:
    """The prompts are made anew: with the run's own seed they are those that the demonstrations answer."""
    options = with_run_options(CoefficientsConfig(model=str(run), step=1))
    context = load_context(options, "embedded", "embedded")
    demonstrations = [
        (g.problem, s)
        for g in read_groups(str(run), 1, context.renderer, context.problems)
        for s in g.of("demonstration")
    ]
    assert len(demonstrations) == 8
    assert all(context.renderer.demonstration(problem).ids == sample.ids for problem, sample in demonstrations)
    assert all(sample.prompt == context.renderer.prompt(problem) for problem, sample in demonstrations)


def test_another_policy_sampled(run: Path) -> None:
    """Two large steps behind, ratios are not 1: a clip shuts tokens out."""
    options = {"model": str(run), "methods": "dr_grpo", "num_problems": 12, "num_generations": 4, "num_completions": 0}
    fresh, old = (
        coefficients(CoefficientsConfig(**options)),
        coefficients(CoefficientsConfig(**options, sampler="embedded")),
    )
    assert "sampled by embedded" in old.about and fresh.completions == []
    clipped = [next(m.clipped for m in result.masses["dr_grpo"] if m.by == "source") for result in (fresh, old)]
    assert clipped[0] == 0 < clipped[1]


def test_what_a_run_lacks(run: Path) -> None:
    with pytest.raises(DataError, match="step-000009"):
        coefficients(CoefficientsConfig(model=str(run), step=9))
    with pytest.raises(DataError, match="has no problem"):
        coefficients(CoefficientsConfig(model=str(run), step=1, dataset="countdown"))
    (run.parent / "empty").mkdir(exist_ok=True)
    (run.parent / "empty" / "config.yaml").write_text("method: sft\nmodel: embedded\n")
    with pytest.raises(ConfigError, match="no undamaged checkpoint"):
        points(str(run.parent / "empty"))


def test_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "figures")
    small = ["--num_problems", "4", "--max_completion_length", "24"]
    words = {
        "variance": ["--methods", "sft", "--rates", "0.5"],
        "gradients": ["embedded", "--methods", "sft", "--num_batches", "2", *small],
        "coefficients": [str(run), *small],
        "shift": [str(run), *small],
        "coverage": ["embedded", "--against", str(run), "--num_generations", "4", *small],
    }
    assert words.keys() == QUESTIONS.keys()
    for question, given in words.items():
        assert main(["analyze", question, *given, "--output", out]) == 0
        plain = json.loads((tmp_path / "figures" / f"{question}.json").read_text())
        assert plain["question"] == question and f"{question}.json" in capsys.readouterr().out
    assert main(["analyze", "shift", str(run), *small]) == 0  # of a run the answer stays with it
    assert json.loads((run / "analysis" / "shift.json").read_text())["after"].startswith("step 2")


def test_the_command_line_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze"]) == 2
    assert "analyze what? variance, gradients, coefficients, shift, coverage" in capsys.readouterr().err
    assert main(["analyze", "--help"]) == 0 and main(["analyze", "shift", "--help"]) == 0
    output = capsys.readouterr().out
    assert "usage: obverse analyze QUESTION" in output and "usage: obverse analyze shift MODEL" in output
    assert main(["analyze", "variance", "--rates", "0.5,0.1"]) == 2
    assert "rise" in capsys.readouterr().err
