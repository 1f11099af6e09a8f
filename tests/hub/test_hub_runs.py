"""Runs and exports that are pushed to a hub on this machine, and evaluated from it."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hub.fake_hub import OWNER, TOKEN, FakeHub, Repository
from tiny_models import save_tiny

import runs
from obverse.api.export import export
from obverse.api.train import train_and_report
from obverse.cli import main as cli
from obverse.config.commands import ExportConfig
from obverse.config.eval import EvalConfig
from obverse.errors import ConfigError, HubError
from obverse.evaluation.evaluate import evaluate
from obverse.hub.model_card import is_unchanged
from obverse.runtime.callbacks import Silent
from obverse.training.loop import train

FORM = "Question: {prompt}\nAnswer:"


class Notes(Silent):
    """Keeps the notes of a run."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny("qwen2", tmp_path_factory.mktemp("hub") / "qwen2")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_problems(tmp_path_factory.mktemp("hub") / "chains.jsonl")


@pytest.fixture(scope="module")
def trained(tiny: Path, problems: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step with another prompt format than the model's own, and an evaluation at its end."""
    folder = tmp_path_factory.mktemp("hub") / "run"
    options = {"chat_template": FORM, "eval_dataset": str(problems), "num_eval_problems": 3, "temperature": 0.5}
    train(runs.config("grpo", folder, tiny, problems, max_steps=1, **options))
    return folder


def evaluated(model: Path | str, problems: Path, output: Path) -> list[str]:
    """The completions of an evaluation without options of sampling, which come from the run or the card."""
    options = {"dataset": str(problems), "num_problems": 3, "k": (2,), "verifier": "exact", "output": output}
    path = evaluate(EvalConfig(model=str(model), **options)).path
    assert path is not None
    with gzip.open(path.with_name("samples.jsonl.gz"), "rt") as file:
        rows = [json.loads(line) for line in file]
    return sorted(f"{row['problem']} {row['seed']} {row['number']} {row['text']}" for row in rows)


def test_every_export_has_a_card_of_its_run(trained: Path, problems: Path, tmp_path: Path) -> None:
    evaluated(trained, problems, trained / "eval" / "checkpoint-1")
    card = (export(ExportConfig(model=str(trained), output=tmp_path / "out")) / "README.md").read_text()
    assert is_unchanged(card) and "license: mit" in card and "step 1 of run" in card
    assert card.count("| avg@") == 2 and "95 % interval" in card and "during training; 4 completions" in card
    assert f"at most {runs.SMALL['max_completion_length']} tokens" in card and "temperature 0.5" in card
    manifest = json.loads((trained / "checkpoint-1" / "manifest.json").read_text())
    assert manifest["inputs"]["dataset"] in card and "Question: QUESTION\nAnswer:" in card
    other = export(ExportConfig(model=str(tmp_path / "out"), output=tmp_path / "again", dtype="bfloat16"))
    assert (other / "README.md").read_text() == card  # it has the record that the exported folder lacks


def test_results_of_other_weights_are_refused(trained: Path, tiny: Path, problems: Path, tmp_path: Path) -> None:
    evaluated(tiny, problems, tmp_path / "evals")
    with pytest.raises(ConfigError, match="other weights"):
        export(ExportConfig(model=str(trained), output=tmp_path / "out", eval_results=tmp_path / "evals"))
    with pytest.raises(ConfigError, match="has no result"):
        export(ExportConfig(model=str(trained), output=tmp_path / "out", eval_results=tmp_path / "none"))
    assert not (tmp_path / "out").exists()


def test_a_readme_of_the_user_is_kept(tiny: Path, tmp_path: Path) -> None:
    notes = Notes()
    out = export(ExportConfig(model=str(tiny), output=tmp_path / "out"), notes)
    assert (out / "README.md").read_bytes() == (tiny / "README.md").read_bytes()
    assert any("README.md" in line and "kept" in line for line in notes.lines)


def test_a_pushed_model_is_evaluated_as_its_run_is(
    hub: FakeHub, trained: Path, problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{OWNER}/tiny"
    assert cli.main(["export", str(trained), "--output", str(tmp_path / "out"), "--push_to_hub", name]) == 0
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert hub.repositories[name].files == {".gitattributes": b"", **files} and hub.repositories[name].private
    assert not {"optimizer.safetensors", "state.json", "manifest.json"} & files.keys()
    assert f"vllm serve {name}" in files["README.md"].decode() and TOKEN not in "".join(capsys.readouterr())
    completions = evaluated(trained, problems, tmp_path / "eval-run")
    assert len(completions) == 6 and evaluated(tmp_path / "out", problems, tmp_path / "eval-folder") == completions
    assert evaluated(name, problems, tmp_path / "eval-hub") == completions


def test_a_run_pushes_its_adapter_at_the_end(hub: FakeHub, tiny: Path, problems: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra obverse[peft] is not installed")
    options = {"max_steps": 1, "use_peft": True, "learning_rate": 5e-2, "report": False, "push_to_hub": True}
    config = runs.config("sft", tmp_path / "lora", tiny, problems, **options)
    outcome = train_and_report(config, Silent())
    repository = hub.repositories[f"{OWNER}/lora"]
    assert outcome.exit_code == 0 and repository.private
    assert {"adapter_model.safetensors", "README.md"} <= repository.files.keys()
    assert not {"optimizer.safetensors", "state.json", "manifest.json"} & repository.files.keys()
    completions = evaluated(tmp_path / "lora", problems, tmp_path / "eval-run")
    assert evaluated(f"{OWNER}/lora", problems, tmp_path / "eval-hub") == completions


@pytest.mark.slow
@pytest.mark.parametrize("use_peft", [False, True])
def test_a_base_on_the_hub_is_named_with_its_licence(
    use_peft: bool, hub: FakeHub, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    if use_peft:
        pytest.importorskip("peft", reason="the extra obverse[peft] is not installed")
    files = {path.name: path.read_bytes() for path in tiny.iterdir()}
    hub.repositories["lab/base"] = Repository(private=False, files=files)
    options = {"max_steps": 1, "use_peft": use_peft, "report": False, "push_to_hub": True}
    assert train_and_report(runs.config("sft", tmp_path / "run", "lab/base", problems, **options), Silent()).step == 1
    card = hub.repositories[f"{OWNER}/run"].files["README.md"].decode()
    header = yaml.safe_load(card.split("---\n")[1])
    kind = ("peft", "adapter") if use_peft else ("transformers", "finetune")
    assert (header["base_model"], header["license"]) == ("lab/base", "mit")
    assert (header["library_name"], header["base_model_relation"]) == kind
    assert ('AutoModelForCausalLM.from_pretrained("lab/base")' in card) is use_peft
    assert len(evaluated(f"{OWNER}/run", problems, tmp_path / "eval")) == 6


def test_a_run_whose_push_fails_is_complete(hub: FakeHub, tiny: Path, problems: Path, tmp_path: Path) -> None:
    hub.refused["/api/repos/create"] = (403, "not yours")
    options = {"max_steps": 1, "report": False, "push_to_hub": True, "hub_model_id": "other/model"}
    config, notes = runs.config("sft", tmp_path / "run", tiny, problems, **options), Notes()
    outcome = train_and_report(config, notes)
    assert (outcome.step, outcome.stopped, outcome.exit_code) == (1, False, HubError.exit_code) and not hub.repositories
    assert (tmp_path / "run" / "checkpoint-1" / "manifest.json").is_file()
    assert (tmp_path / "run" / "export-1" / "model.safetensors").is_file()
    assert any("403" in line and "the run is complete" in line for line in notes.lines)
    hub.refused.clear()
    resumed = config.model_copy(update={"resume_from_checkpoint": "auto"})
    assert train_and_report(resumed, notes).exit_code == 0 and "other/model" in hub.repositories


def test_a_run_that_could_not_push_does_not_begin(
    hub: FakeHub, tiny: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with pytest.raises(HubError, match="HF_TOKEN"):
        train_and_report(runs.config("sft", tmp_path / "run", tiny, problems, push_to_hub=True), Silent())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_commands_alone(hub: FakeHub, trained: Path, problems: Path, tmp_path: Path) -> None:
    """The commands as a user gives them, in processes of their own that read HF_ENDPOINT and HF_TOKEN."""
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    environment = {**os.environ, **settings, "HF_HOME": str(tmp_path / "home")}

    def obverse(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "obverse", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)

    name = f"{OWNER}/tiny"
    pushed = obverse("export", str(trained), "--output", "out", "--push_to_hub", name)
    assert pushed.returncode == 0, pushed.stderr
    evaluation = obverse("eval", name, "--dataset", str(problems), "--num_problems", "3", "--k", "1")
    assert evaluation.returncode == 0 and "temperature 0.5" in evaluation.stdout, evaluation.stderr
    hub.refused["/commit/"] = (403, "not yours")
    refused = obverse("export", str(trained), "--output", "other", "--push_to_hub", name)
    assert refused.returncode == HubError.exit_code and refused.stderr.count("\n") == 1 and "403" in refused.stderr
    assert (tmp_path / "other" / "README.md").is_file() and TOKEN not in refused.stderr + refused.stdout
