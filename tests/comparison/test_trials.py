"""What a comparison keeps, checks and removes: small ones, whose files are changed when they are done."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import runs
from obverse.cli.main import main
from obverse.comparison import run as comparison_run
from obverse.comparison import run_trial as trial
from obverse.comparison.plan import make_plan
from obverse.config.compare import CompareConfig
from obverse.config.resolve import read
from obverse.config.sources import Layer
from obverse.errors import DamageError
from obverse.runtime.run_dir import RunFolder

BREAKS = "\u2028\u2029\x85"  # ends of lines for Python, not for JSON Lines
RUN = Path("runs", "sft", "seed-42")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = runs.write_problems(tmp_path_factory.mktemp("trials") / "d.jsonl", num_problems=6, difficulty=(1, 2))
    rows = [json.loads(line) for line in path.read_text().split("\n") if line]
    path.write_text("".join(json.dumps({**row, "id": f"a{BREAKS}{row['id']}"}) + "\n" for row in rows))
    return [
        "compare", "sft", "--dataset", str(path), "--tests", f"t={path}", "--budget", "3", "--budget_in", "steps",
        "--seeds", "1", "--num_generations_test", "1", "--num_generations_eval", "1", "--k", "1", "--no-report",
        "--num_validation_problems", "1", "--num_test_problems", "2", "--max_completion_length", "4",
        "--prompts_per_step", "2", "--learning_rates", "1e-4", "--num_marks", "1",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that is over, with one mark: at the end."""
    root = tmp_path_factory.mktemp("whole") / "c"
    assert main([*words, "--output_dir", str(root)]) == 0
    return root


@pytest.fixture
def done(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "c"))


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_one_mark_is_the_end(whole: Path) -> None:
    assert [path.name for path in (whole / RUN / "eval").iterdir()] == ["step-000003.json"]
    assert [path.name for path in (whole / RUN).glob("checkpoint-*")] == ["checkpoint-3"]
    stored = json.loads((whole / RUN / "trial.json").read_text())
    assert stored["last"] == stored["best"] == 3 and stored["validation"].keys() == {"3"}


@pytest.mark.parametrize(
    "name",
    ["comparison.yaml", "plan.json", "problems/t.jsonl", "problems/validation.jsonl", "trial.json", "metrics.jsonl",
     "config.yaml", "environment.json", "eval/step-000003.json", "figures/base/last/t/seed-42.jsonl",
     "figures/sft/best/t/seed-42.jsonl"],
)  # fmt: skip
def test_a_changed_file_is_named_and_kept(name: str, done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = done / name if (done / name).exists() else done / RUN / name
    old = path.read_bytes()
    offset = max(offset for offset in range(len(old) - 2) if chr(old[offset]).isdigit())
    new = old[:offset] + (b"7" if old[offset : offset + 1] != b"7" else b"1") + old[offset + 1 :]
    path.write_bytes(new)
    before = content(done)
    code = main(["compare", "--output_dir", str(done)])
    err = capsys.readouterr().err
    assert code == 4 and str(path) in err and "Traceback" not in err
    after = content(done)
    assert {key: after[key] for key in before if not key.endswith(".claim")} == {
        key: value for key, value in before.items() if not key.endswith(".claim")
    }


def test_rows_stay_where_every_checkpoint_is_damaged(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (done / RUN / "trial.json").unlink()
    weights = done / RUN / "checkpoint-3" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    before = content(done / RUN)
    assert main(["compare", "--output_dir", str(done)]) == 4
    assert "model.safetensors" in capsys.readouterr().err
    assert before.items() <= content(done / RUN).items()


def test_rows_of_a_run_without_a_checkpoint_are_set_aside(done: Path) -> None:
    run = done / RUN
    for name in ("trial.json", "checkpoint-3"):
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    rows = (run / "metrics.jsonl").read_bytes()
    assert main(["compare", "--output_dir", str(done)]) == 0
    (aside,) = (run / "set_aside").iterdir()
    assert (aside / "metrics.jsonl").read_bytes() == rows and (aside / "eval").is_dir()
    assert [row["step"] for row in RunFolder(run).metrics()] == [1, 2, 3]


def test_folders_of_others_are_never_removed(done: Path) -> None:
    run = done / RUN
    (run / "trial.json").unlink()
    for name in ("checkpoint-backup-77", "checkpoint-2-copy", "checkpoint-", "checkpoint-1"):
        (run / name).mkdir()
        (run / name / "precious").write_text("mine")
    shutil.copytree(run / "checkpoint-3", run / "checkpoint-2")
    (run / "checkpoint-4").symlink_to("checkpoint-3")
    before = {path.name for path in run.glob("checkpoint-*")}
    assert main(["compare", "--output_dir", str(done)]) == 0
    assert {path.name for path in run.glob("checkpoint-*")} == before
    assert (run / "checkpoint-1" / "precious").read_text() == "mine"


@pytest.mark.parametrize(
    "number", [pytest.param(number, marks=pytest.mark.slow) if number in (1, 2, 4) else number for number in range(6)]
)
def test_a_full_disk_is_one_sentence(number: int, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the files that are written when only the measurement of a run is left, each may be the one without room."""
    (done / RUN / "trial.json").unlink()
    shutil.rmtree(done / "figures" / "sft")
    files, names = content(done), []
    write = RunFolder.write_text

    def refuse(folder: RunFolder, name: str, text: str) -> Path:
        names.append(name)
        if len(names) > number:
            raise OSError(28, os.strerror(28), str(folder.path / name))
        return write(folder, name, text)

    monkeypatch.setattr(RunFolder, "write_text", refuse)
    assert main(["compare", "--output_dir", str(done)]) == 6
    monkeypatch.undo()
    after = content(done)
    changed = {name for name, old in files.items() if after.get(name) != old}
    again = ("standings.json", "standings.md", ".claim", ".lock", "manifest.json")  # a run that is over is saved again
    again += ("environment.json", "config.yaml")  # and says when it went on
    assert not [name for name in changed if not name.endswith(again)]
    assert not [name for name in after if name.endswith(".part")]


def test_two_calls_without_a_folder_have_one_each(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {name.removeprefix("--"): value for name, value in zip(words[2::2], words[3::2], strict=False)}
    options = {
        name: value for name, value in options.items() if name in ("dataset", "tests", "k", "num_generations_test")
    }
    config = read(CompareConfig, [Layer("x", {"methods": "sft", "budget": "3", **options})], "")
    plans = [make_plan(config), make_plan(config)]
    assert len({plan.root for plan in plans}) == 1
    assert len({comparison_run.reserve_folder(plan).root for plan in plans}) == 2


def test_a_damaged_trial_is_no_result(done: Path) -> None:
    path = done / RUN / "trial.json"
    config = read(CompareConfig, [Layer("x", {"methods": "sft", "budget": "3", "dataset": "arithmetic:1",
                                              "seeds": 1, "output_dir": str(done)})], "")  # fmt: skip
    plan = make_plan(config)
    (only_trial,) = plan.trials()
    assert trial.result(plan, only_trial) is not None
    for text in ("", "{", "[]", "{}", '{"schema": 2}', "\xff", path.read_text().replace('"steps": 3', '"steps": 4')):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(DamageError, match=r"trial\.json"):
            trial.result(plan, only_trial)
