"""`obverse analyze` on a run: its checkpoints, its stored samples, the command line, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from obverse.analysis.coefficients import coefficients
from obverse.analysis.context import Point, filled, initial_of, points, sampled_at, scene
from obverse.analysis.gradients import OWN, SHOWN, WHOLE, gradients
from obverse.analysis.stored_samples import stored
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
    found = points(str(run))
    assert [(point.name, point.progress) for point in found] == [("step 0", 0), ("step 1", 0.5), ("step 2", 1)]
    assert found[0].place == "embedded" and points("embedded") == [Point("embedded", "embedded")]
    assert initial_of(GradientsConfig(model=str(run))) == "embedded"
    assert initial_of(GradientsConfig(model=str(run), initial="x")) == "x"
    own = filled(GradientsConfig(model=str(run)))
    assert (own.dataset, own.max_completion_length, own.seed) == ("arithmetic:1-4", 32, 7)
    assert filled(GradientsConfig(model=str(run), dataset="countdown")).dataset == "countdown"
    assert filled(GradientsConfig(model="embedded")).max_completion_length == 96


def test_the_parts_over_training(run: Path) -> None:
    found = gradients(GradientsConfig(model=str(run), num_batches=2, num_problems=6, num_generations=2))
    assert [stage.name for stage in found.stages] == ["step 0", "step 1", "step 2"]
    for stage in found.stages:
        assert [row.part for row in stage.rows] == [WHOLE, SHOWN, OWN, WHOLE]
        assert stage.rows[-1].bias in (0, None) and len(stage.cosines) == 4
        assert [each.name for each in stage.parts] == ["hpt"]
    rows = [stage.cosines[1][0] for stage in found.stages]
    assert len(set(rows)) > 1  # the policy moved, and so did the angles
    assert json.dumps(found.plain(), allow_nan=False)


def test_stored_samples_under_the_policy_that_drew_them(run: Path) -> None:
    asked = filled(CoefficientsConfig(model=str(run), step=2, methods="hpt,grpo"))
    point, about = sampled_at(asked)
    assert point.place.endswith("checkpoint-1") and "under step 1, which drew them" in about
    found = coefficients(asked)
    rows = [json.loads(line) for line in (run / "samples" / "step-000002.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["kept"]]
    for kind in ("rollout", "demonstration"):
        num_tokens = sum(len(row["ids"]) for row in kept if row["kind"] == kind)
        assert sum(m.num_tokens for m in found.masses["hpt"] if (m.by, m.name) == ("source", kind)) == num_tokens
    assert any(each.kind == "demonstration" and each.coefficients["grpo"] is not None for each in found.completions)
    assert json.dumps(found.plain(), allow_nan=False)


def test_stored_samples_are_of_the_run_s_problems(run: Path) -> None:
    """The prompts are made anew: with the run's own seed they are those that the demonstrations answer."""
    asked = filled(CoefficientsConfig(model=str(run), step=1))
    here = scene(asked, "embedded", "embedded")
    shown = [(g.problem, s) for g in stored(str(run), 1, here.renderer, here.problems) for s in g.of("demonstration")]
    assert len(shown) == 8
    assert all(here.renderer.demonstration(problem).ids == sample.ids for problem, sample in shown)
    assert all(sample.prompt == here.renderer.prompt(problem) for problem, sample in shown)


def test_another_policy_sampled(run: Path) -> None:
    """Two large steps behind, ratios are not 1: a clip shuts tokens out."""
    asked = {"model": str(run), "methods": "dr_grpo", "num_problems": 12, "num_generations": 4, "num_completions": 0}
    own, old = coefficients(CoefficientsConfig(**asked)), coefficients(CoefficientsConfig(**asked, sampler="embedded"))
    assert "sampled by embedded" in old.about and own.completions == []
    clipped = [next(m.clipped for m in found.masses["dr_grpo"] if m.by == "source") for found in (own, old)]
    assert clipped[0] == 0 < clipped[1]


def test_what_a_run_lacks(run: Path) -> None:
    with pytest.raises(DataError, match="step-000009"):
        coefficients(CoefficientsConfig(model=str(run), step=9))
    with pytest.raises(DataError, match="has no problem"):
        coefficients(CoefficientsConfig(model=str(run), step=1, dataset="countdown"))
    (run.parent / "empty").mkdir(exist_ok=True)
    (run.parent / "empty" / "config.yaml").write_text("method: sft\nmodel: embedded\n")
    with pytest.raises(ConfigError, match="no whole checkpoint"):
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
    said = capsys.readouterr().out
    assert "usage: obverse analyze QUESTION" in said and "usage: obverse analyze shift MODEL" in said
    assert main(["analyze", "variance", "--rates", "0.5,0.1"]) == 2
    assert "rise" in capsys.readouterr().err
