"""What cannot work is refused in one sentence before any weights are read, and leaves nothing behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tiny_models import save_tiny

import runs
from obverse import methods
from obverse.cli.main import main
from obverse.errors import ConfigError
from obverse.estimator.method import Method
from obverse.estimator.requests import samples_initial, wants
from obverse.estimator.schedule import Stage, TrainingSchedule, as_schedule
from obverse.methods.grpo import grpo
from obverse.methods.reward_model import reward_model
from obverse.models.load import load, load_scalar
from obverse.training import setup as prepare
from obverse.training.validate import check

METHODS = """
from obverse.estimator.formula import Term
from obverse.estimator.method import Method
from obverse.estimator.parts import GAE, Itself, PerToken, Request, Written
from obverse.types import Source

OWN = Term(Source.ROLLOUT, Written(), Itself(), normalizer=PerToken())

def orphan() -> Method:
    return Method(ask=Request(rollouts=2), terms=(OWN,), run={"learning_rate": 1e-3})

def deaf() -> Method:
    return Method(ask=Request(rollouts=2), terms=(OWN,), critic=GAE(), run={"learning_rate": 1e-3})
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`policy`, `scorer` (a reward model), `two` (a classifier with two labels), `nothing` (no model)."""
    folder = tmp_path_factory.mktemp("requirements")
    tokenizer = load(str(save_tiny("qwen2", folder / "policy")))[1]
    scorer, _, _ = load_scalar(str(folder / "policy"))
    for name, labels in (("scorer", 1), ("two", 2)):
        scorer.config.num_labels = labels
        scorer.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "nothing").mkdir()
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with data sets of every poverty, where loading weights is a failure."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    full = [json.loads(line) for line in runs.write_problems(tmp_path / "all.jsonl", 6).read_text().splitlines()]
    poor = {
        "answers": ("prompt", "answer", "verifier"),
        "shown": ("prompt", "demonstration"),
        "pairs": ("prompt", "chosen", "rejected"),
    }
    for name, columns in poor.items():
        lines = [json.dumps({column: row[column] for column in columns}) for row in full]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    labels = [
        {"prompt": f"{n}+0=", "completion": str(n), "label": (True, False, "good", None)[n % 4]} for n in range(6)
    ]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, labels)))
    (tmp_path / "mine.py").write_text(METHODS)

    def loaded(*_: object) -> None:
        raise AssertionError("something was loaded")

    monkeypatch.setattr(prepare, "load_models", loaded)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("hpt --dataset answers.jsonl", "needs demonstrations and 'answers.jsonl' has none: add the column"),
        (
            "dpo --dataset answers.jsonl",
            "needs pairs and 'answers.jsonl' has none: add the columns chosen and rejected",
        ),
        ("dpo --dataset labels.jsonl", "needs pairs and 'labels.jsonl' has none"),
        ("kto --dataset labels.jsonl", "needs a label of every response: 2 of the 6 rows of 'labels.jsonl' have none"),
        ("una --dataset answers.jsonl", "needs demonstrations or pairs and 'answers.jsonl' has none"),
        ("grpo --dataset shown.jsonl", "needs answers that can be checked: 6 of 6 problems of 'shown.jsonl' have none"),
        ("grpo --num_generations 1", "a group of one gives no gradient; raise --num_generations to 2 or more"),
        ("dpo --pairs own --num_generations 1", "a group of one gives no gradient"),
        ("mine.py:orphan", "reads the column `advantage`, which only a critic writes"),
        ("mine.py:deaf", 'has a critic that is not trained: give it a term with on="value"'),
        (
            "reward_model --eval_dataset all.jsonl",
            "--eval_dataset: reward_model trains a reward model, which generates no",
        ),
        ("sft --reward_model {scorer}", "--reward_model: sft samples nothing to score"),
        ("discriminative --reward_model {scorer}", "--reward_model: discriminative samples nothing to score"),
        ("grpo --reward_model {policy}", "it has no trained head: train it with 'obverse train reward_model'"),
        ("grpo --reward_model {two}", "its head gives 2 numbers in place of one"),
        ("grpo --reward_model {nothing}", "this folder has no config.json"),
        ("sft --model {scorer}", "it scores texts and cannot write one: give it as --reward_model"),
        ("dpo --anchor_model ./gone", "model './gone': there is no such folder"),
        ("grpo --kl_coef 0.1 --kl_estimator k1", "k1 in the loss"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    words: str, sentence: str, models: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {path.name: path for path in models.iterdir()}
    given = words.format(**places).split()
    base = [] if "--model" in given else ["--model", str(models / "policy")]
    data = [] if "--dataset" in given else ["--dataset", "all.jsonl"]
    assert main(["train", *given, *base, *data, "--max_steps", "1", "--learning_rate", "1e-3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and sentence in line
    assert not (here / "runs").exists(), "a mistake left a run folder behind"


@pytest.mark.parametrize("words", ["una --dataset pairs.jsonl", "una --dataset shown.jsonl", "rft --dataset all.jsonl"])
def test_what_can_work_gets_as_far_as_the_weights(words: str, models: Path, here: Path) -> None:
    with pytest.raises(AssertionError, match="something was loaded"):
        main(["train", *words.split(), "--model", str(models / "policy"), "--max_steps", "1"])


def test_a_reward_model_needs_no_answers(models: Path, here: Path) -> None:
    words = ["--dataset", "shown.jsonl", "--model", str(models / "policy"), "--reward_model", str(models / "scorer")]
    with pytest.raises(AssertionError, match="something was loaded"):
        main(["train", "grpo", *words])


def test_evaluating_a_reward_model_is_one_sentence(
    models: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(models / "scorer"), "--dataset", "all.jsonl"]) == 2
    assert "scores" in capsys.readouterr().err


def test_a_course_trains_one_kind_of_model(tmp_path: Path) -> None:
    from obverse.estimator.schedule import InTurns

    schedule = TrainingSchedule((Stage(reward_model()), Stage(grpo())), InTurns())
    with pytest.raises(ConfigError, match="cannot be trained"):
        check(schedule, runs.config("grpo", tmp_path, "embedded", "arithmetic"))


def test_a_reward_for_the_format_is_no_reward_kept_apart(tmp_path: Path) -> None:
    schedule = as_schedule(methods.build("gdpo"))
    with pytest.raises(ConfigError, match="--format_reward"):
        check(schedule, runs.config("gdpo", tmp_path, "embedded", "arithmetic", format_reward=0.1))


def asks(name: str, kind: str) -> bool:
    return any(wants(method, kind) for method in as_schedule(methods.build(name)).methods)


def test_what_methods_want_is_read_off_their_wishes() -> None:
    found = {
        kind: {name for name in methods.names() if asks(name, kind)}
        for kind in ("rollouts", "demonstrations", "pairs", "greedy")
    }
    assert found["pairs"] == {"dpo", "una", "reward_model", "simpo", "orpo", "cpo", "apo_zero", "apo_down"}
    assert {"sft", "hpt", "uft", "prefix_rft", "relift"} <= found[
        "demonstrations"
    ]  # hints are pieces of demonstrations
    assert not {"sft", "dpo", "reward_model"} & found["rollouts"]
    assert found["greedy"] == set()
    greedy = methods.build("reinforce", {"baseline": "greedy"})
    assert isinstance(greedy, Method) and wants(greedy, "greedy")
    initial = {name for name in methods.names() if any(map(samples_initial, as_schedule(methods.build(name)).methods))}
    assert {"discriminative", "rft"} <= initial and "grpo" not in initial
