"""Runs with adapters: every family of methods, resumed to the bit, evaluated, exported; and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import save_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

import runs
from obverse.api.export import export
from obverse.config.commands import ExportConfig
from obverse.config.eval import EvalConfig
from obverse.config.train import TrainConfig
from obverse.errors import CheckpointError, ConfigError, StorageError
from obverse.evaluation.evaluate import evaluate
from obverse.models.adapter_io import CONFIG, ORIGIN, WEIGHTS, base_of, load_any
from obverse.runtime.callbacks import Silent
from obverse.training.loop import train

peft = pytest.importorskip("peft", reason="the extra obverse[peft] is not installed")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen2", tmp_path_factory.mktemp("adapters") / "qwen2")


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_problems(tmp_path_factory.mktemp("adapters") / "chains.jsonl")


@pytest.fixture(scope="module")
def trained(tiny: Path, problems: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on demonstrations, whose adapters have moved."""
    folder = tmp_path_factory.mktemp("adapters") / "run"
    train(runs.config("sft", folder, tiny, problems, use_peft=True, max_steps=2, learning_rate=5e-2))
    return folder


@pytest.fixture(scope="module")
def lucky(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A verifier that finds something right in what a random model writes, so that there is a gradient."""
    path = tmp_path_factory.mktemp("adapters") / "lucky.py"
    path.write_text("def lucky(problem, text):\n    return float(len(text) % 2)\n")
    return f"{path}:lucky"


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        pytest.param("sft", {}, marks=pytest.mark.slow),
        ("grpo", {"beta": 0.1, "gradient_checkpointing": True}),
        pytest.param("grpo", {"beta": 0.1, "dtype": "mixed"}, marks=pytest.mark.slow),
        ("hpt", {"dtype": "bfloat16"}),
        pytest.param("dpo", {}, marks=pytest.mark.slow),
        ("ift", {}),
        ("ppo", {"lora_target_modules": "q_proj,v_proj"}),
        pytest.param("rft", {}, marks=pytest.mark.slow),
        pytest.param("sft_then_rl", {"kl_coef": 0.1, "max_steps": 4, "save_total_limit": 9}, marks=pytest.mark.slow),
        ("reft", {"max_steps": 4, "save_total_limit": 9}),
    ],
)
def test_every_family_takes_adapters_and_resumes_to_the_bit(
    method: str, options: dict[str, Any], tiny: Path, problems: Path, lucky: str, tmp_path: Path
) -> None:
    given = {"use_peft": True, "lora_r": 4, "max_steps": 2, "save_steps": 1, "learning_rate": 1e-2, **options}
    given |= {"verifier": lucky}
    whole, again = tmp_path / "whole", tmp_path / "again"
    train(runs.config(method, whole, tiny, problems, **given))
    shutil.copytree(whole, again)
    last = given["max_steps"]
    shutil.rmtree(again / f"checkpoint-{last}")
    train(runs.config(method, again, tiny, problems, resume_from_checkpoint="auto", **given))
    assert runs.figures(again) == runs.figures(whole)
    names = [str(path.relative_to(whole)) for path in whole.glob(f"checkpoint-{last}/**/*.safetensors")]
    assert f"checkpoint-{last}/{WEIGHTS}" in names
    for name in names:
        assert (again / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_checkpoint_is_an_adapters_folder_that_transformers_loads(trained: Path, tiny: Path) -> None:
    place = trained / "checkpoint-2"
    assert {CONFIG, WEIGHTS, ORIGIN, "tokenizer.json"} <= {path.name for path in place.iterdir()}
    assert not list(place.glob("model*.safetensors"))
    config = json.loads((place / CONFIG).read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == (str(tiny), 16, 32)
    assert config["inference_mode"] and "lm_head" not in config["target_modules"]
    ids = torch.tensor([AutoTokenizer.from_pretrained(place)("7+5=")["input_ids"]])
    with torch.inference_mode():
        by_transformers = AutoModelForCausalLM.from_pretrained(place).eval()(ids).logits
        torch.testing.assert_close(load_any(str(place))[0].model(ids).logits, by_transformers, rtol=1e-4, atol=1e-5)


def test_other_shapes_or_another_base_are_refused(trained: Path, tiny: Path, problems: Path, tmp_path: Path) -> None:
    def resumed(**options: Any) -> TrainConfig:
        given = {"use_peft": True, "max_steps": 3, "learning_rate": 5e-2, **options}
        model = given.pop("model", tiny)
        return runs.config("sft", tmp_path / "run", model, problems, resume_from_checkpoint="auto", **given)

    shutil.copytree(trained, tmp_path / "run")
    for name, value in {"lora_r": 8, "lora_alpha": 8, "lora_target_modules": ("q_proj",), "use_rslora": True}.items():
        with pytest.raises(CheckpointError, match=f"{name}: .* then, .* now"):
            train(resumed(**{name: value}))
    for name, value in {"lora_r": 8, "lora_target_modules": ("q_proj",)}.items():
        with pytest.raises(CheckpointError, match="lora_r and lora_target_modules"):
            train(resumed(**{name: value}, allow_config_change=name))
    with pytest.raises(CheckpointError, match="use_peft"):
        train(resumed(use_peft=False, allow_config_change="use_peft"))
    other = save_tiny("qwen2", tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="qwen2.*other"):
        train(resumed(model=other, allow_config_change="model"))
    moved = shutil.copytree(tiny, tmp_path / "moved")  # the same weights in another place are the same base
    assert train(resumed(model=moved, allow_config_change="model")).step == 3


def test_a_whole_checkpoint_is_no_adapter(tiny: Path, problems: Path, tmp_path: Path) -> None:
    train(runs.config("sft", tmp_path / "run", tiny, problems, max_steps=1))
    options = {"use_peft": True, "max_steps": 2, "resume_from_checkpoint": "auto", "allow_config_change": "use_peft"}
    with pytest.raises(CheckpointError, match="no adapter"):
        train(runs.config("sft", tmp_path / "run", tiny, problems, **options))


def test_a_run_with_adapters_is_evaluated(trained: Path, problems: Path, tmp_path: Path) -> None:
    for number, place in enumerate((trained, trained / "checkpoint-2")):
        config = EvalConfig(
            model=str(place), dataset=str(problems), num_problems=2, k=(1,), output=tmp_path / str(number)
        )
        evaluate(config)
    said = [json.loads((tmp_path / each / "chains" / "result.json").read_text())["summary"] for each in ("0", "1")]
    assert said[0] == said[1]


def test_an_adapter_on_another_base_is_not_evaluated(trained: Path, tiny: Path, tmp_path: Path) -> None:
    place = shutil.copytree(trained / "checkpoint-2", tmp_path / "adapter")
    told = json.loads((place / ORIGIN).read_text())
    (place / ORIGIN).write_text(json.dumps({**told, "sha256": "0" * 64}))
    with pytest.raises(CheckpointError, match="000000000000"):
        load_any(str(place))
    (place / ORIGIN).write_text("[]")
    with pytest.raises(ConfigError, match="is not an object"):
        load_any(str(place))
    (place / ORIGIN).write_text(json.dumps({**told, "name": "embedded"}))
    assert base_of(str(place)).endswith("assets/base")  # wherever it was installed when the run was made
    (place / WEIGHTS).unlink()
    with pytest.raises(ConfigError, match=f"has no {WEIGHTS}, and weights in another format are not read"):
        load_any(str(place))


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
def test_an_exported_adapter_is_one_plain_model(dtype: str, trained: Path, tiny: Path, tmp_path: Path) -> None:
    notes = Notes()
    out = export(ExportConfig(model=str(trained), output=tmp_path / "plain", dtype=dtype), notes)
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names and not {CONFIG, ORIGIN} & names
    kind = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    assert {each.dtype for each in load_file(out / "model.safetensors").values()} == {kind}
    assert "adapter merged into" in notes.lines[-1] and str(kind).removeprefix("torch.") in notes.lines[-1]
    base, plain = (AutoModelForCausalLM.from_pretrained(each, dtype="float32").eval() for each in (tiny, out))
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        found = plain(ids).logits
        first = base(ids).logits.clone()
        adapted = peft.PeftModel.from_pretrained(base, trained / "checkpoint-2").eval()(ids).logits
    gap = 1e-5 if kind == torch.float32 else 0.03 * float(adapted.abs().max())
    assert float((found - adapted).abs().max()) < gap < float((first - adapted).abs().max())


def test_a_whole_checkpoint_is_copied_without_its_optimizer(tiny: Path, problems: Path, tmp_path: Path) -> None:
    train(runs.config("ppo", tmp_path / "run", tiny, problems, max_steps=1))
    place = tmp_path / "run" / "checkpoint-1"
    out = export(ExportConfig(model=str(tmp_path / "run"), output=tmp_path / "deep" / "plain"))
    gone = {"optimizer.safetensors", "state.json", "manifest.json", "critic"}
    names = {path.name for path in place.iterdir()} - gone
    assert {path.name for path in out.iterdir()} == names | {"README.md"}
    assert all((out / name).read_bytes() == (place / name).read_bytes() for name in names)
    half = export(ExportConfig(model=str(place), output=tmp_path / "half", dtype="bfloat16"))
    assert {each.dtype for each in load_file(half / "model.safetensors").values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(half).dtype == torch.bfloat16


def test_a_reward_model_is_exported_as_one(tiny: Path, problems: Path, tmp_path: Path) -> None:
    train(runs.config("reward_model", tmp_path / "run", tiny, problems, max_steps=1))
    half = export(ExportConfig(model=str(tmp_path / "run"), output=tmp_path / "half", dtype="bfloat16"))
    found = load_file(half / "model.safetensors")
    assert found["score.weight"].dtype == torch.bfloat16 and found["score.weight"].any()


def test_what_cannot_be_exported_is_one_sentence(
    trained: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exported(model: Path, output: str = "out") -> None:
        export(ExportConfig(model=str(model), output=tmp_path / output))

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        exported(trained, "full")
    with pytest.raises(ConfigError, match="no such folder"):
        exported(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="--dtype"):
        export(ExportConfig(model=str(trained), output=tmp_path / "out", merge_adapter=False, dtype="bfloat16"))
    with pytest.raises(ConfigError, match="has no config.json"):
        exported(tmp_path / "full")
    run = shutil.copytree(trained, tmp_path / "run")
    with (run / "checkpoint-2" / WEIGHTS).open("ab") as file:
        file.write(b"more")
    with pytest.raises(CheckpointError, match="is truncated or grown"):
        exported(run / "checkpoint-2")
    with pytest.raises(ConfigError, match="checkpoint"):
        exported(run)
    monkeypatch.setattr("obverse.api.export.sync", lambda path: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(StorageError, match="No space left"):
        exported(trained)
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.part").exists()


@pytest.mark.parametrize(
    ("method", "options", "sentence"),
    [
        (
            "sft",
            {"use_peft": True, "lora_target_modules": "q_proj,qq"},
            "no layer that can have an adapter is called qq",
        ),
        (
            "sft",
            {"use_peft": True, "lora_target_modules": "lm_head"},
            "an adapter is called lm_head .available: down_proj",
        ),
        ("reward_model", {"use_peft": True}, "trains a whole model with a head of its own"),
        ("sft", {"lora_r": 8}, "lora_r is an option of adapters: add use_peft"),
        ("sft", {"load_in_4bit": True}, "load_in_4bit is an option of adapters: add use_peft"),
        ("sft", {"use_peft": True, "lora_dropout": 0.05}, "--lora_dropout"),
        ("sft", {"use_peft": True, "load_in_8bit": True}, "--load_in_8bit: use load_in_4bit"),
    ],
)
def test_what_adapters_cannot_do_is_one_sentence(
    method: str, options: dict[str, Any], sentence: str, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=sentence) as error:
        train(runs.config(method, tmp_path / "run", tiny, problems, **options))
    assert "\n" not in str(error.value)


def test_an_adapter_is_no_model_to_train(trained: Path, problems: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="obverse export"):
        train(runs.config("sft", tmp_path / "run", trained / "checkpoint-2", problems))


def test_a_rate_for_whole_weights_and_a_whole_critic_are_said(tiny: Path, problems: Path, tmp_path: Path) -> None:
    notes = Notes()
    config = runs.config("ppo", tmp_path / "run", tiny, problems, use_peft=True, max_steps=1, learning_rate=None)
    train(config, notes)
    assert any("learning_rate 1e-06" in line for line in notes.lines)
    assert any(line.startswith("the critic trains whole") for line in notes.lines)


@pytest.mark.release
def test_thirty_steps_of_grpo_raise_the_reward_of_the_embedded_base(tmp_path: Path) -> None:
    options = {"prompts_per_step": 16, "num_generations": 8, "max_completion_length": 48, "learning_rate": 2e-3}
    train(runs.config("grpo", tmp_path / "run", "embedded", "arithmetic:2-3", use_peft=True, max_steps=30, **options))
    rewards = [row["reward"] for row in runs.figures(tmp_path / "run")]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.05
