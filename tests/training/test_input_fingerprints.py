"""What a run reads beside its options: fingerprinted in checkpoints, compared when it goes on and between ranks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import runs
from obverse.distributed.process_group import ProcessGroup
from obverse.errors import CheckpointError, ConfigError
from obverse.models.load import EMBEDDED
from obverse.runtime import fingerprint, manifest
from obverse.training import input_fingerprints as inputs
from obverse.training.loop import train
from obverse.training.rank_checks import require_equal
from obverse.training.resume import refuse_changes
from obverse.types import Problem

PROBLEM = Problem("p", "2+2=", "4", ("2+2=4",), "math", "4", "5", {"tolerance": 0.1, "choices": ["A", "B"]})
CHANGES: dict[str, Any] = {
    "id": "q",
    "prompt": [{"role": "user", "content": "2+2="}],
    "answer": 4,
    "demonstration": ("2+2", "=4"),
    "verifier": "exact",
    "chosen": "6",
    "rejected": "7",
    "meta": {"tolerance": 0.2, "choices": ["A", "B"]},
    "template": {"tools": []},
}


@pytest.mark.parametrize("field", Problem.__dataclass_fields__)
def test_every_field_of_a_row_counts(field: str) -> None:
    assert fingerprint.rows([PROBLEM]) != fingerprint.rows([replace(PROBLEM, **{field: CHANGES[field]})])


def test_rows_are_known_by_what_they_say_and_by_their_order() -> None:
    other = replace(PROBLEM, id="other")
    turned = replace(PROBLEM, meta=dict(reversed(PROBLEM.meta.items())))
    assert fingerprint.rows([PROBLEM, other]) == fingerprint.rows([turned, other])
    assert fingerprint.rows([PROBLEM, other]) != fingerprint.rows([other, PROBLEM])


@pytest.mark.parametrize("place", [0, 700, -1])
def test_one_changed_byte_of_a_model_is_noticed(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "BLOCK", 512)  # several of them
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "notes.md"):
        (tmp_path / name).write_bytes(bytes(1_500))

    def change(name: str) -> tuple[bool, bool]:
        before = [fingerprint.model(tmp_path, only) for only in (False, True)]
        data = bytearray((tmp_path / name).read_bytes())
        data[place] ^= 1
        (tmp_path / name).write_bytes(data)
        return fingerprint.model(tmp_path) != before[0], fingerprint.model(tmp_path, True) != before[1]

    assert change("model.safetensors") == change("config.json") == (True, True)
    assert change("tokenizer.json") == change("chat_template.jinja") == (True, False)
    assert change("notes.md") == (False, False)


# Going on

VERIFIER = "from bonus import BONUS\ndef verify(problem, text):\n    return BONUS\n"
METHOD = (
    "from obverse.methods.grpo import grpo\ndef mine(num_generations: int = 2):\n    return grpo(num_generations)\n"
)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that a run of one step was made of, the run in `run`."""
    root = tmp_path_factory.mktemp("begun")
    runs.write_problems(root / "rows.jsonl", num_problems=8)
    (root / "v.py").write_text(VERIFIER)
    (root / "bonus.py").write_text("BONUS = 1.0\n")
    (root / "m.py").write_text(METHOD)
    (root / "t.jinja").write_text("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
    shutil.copytree(EMBEDDED, root / "anchor")
    train(again(root, max_steps=1, resume_from_checkpoint="never"))
    return root


def again(root: Path, **options: Any) -> Any:
    given = {"max_steps": 2, "resume_from_checkpoint": "auto", "verifier": str(root / "v.py"), "num_generations": 2}
    given |= {"chat_template": str(root / "t.jinja"), "anchor_model": str(root / "anchor"), **options}
    name, rows = f"{root / 'm.py'}:mine", given.pop("dataset", root / "rows.jsonl")
    return runs.config(name, root / "run", "embedded", rows, **given)


def edited(name: str, old: str, new: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_text((root / name).read_text().replace(old, new))


def saved_again(root: Path) -> None:
    """The last weight of the anchor is another one."""
    path = root / "anchor" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


CHANGED_FILES = {
    "verifier": edited("v.py", "return BONUS", "return BONUS / 2"),
    "helper": edited("bonus.py", "1.0", "0.5"),
    "method": edited("m.py", "grpo(num_generations)", "grpo(num_generations=num_generations, beta=0.2)"),
    "chat_template": edited("t.jinja", "eos_token", "'!' + eos_token"),
    "dataset": edited("rows.jsonl", "=", " ="),
    "anchor_model": saved_again,
}
IN_COMPARISONS = ("method", "chat_template", "dataset")  # tests/comparison/test_contents.py has them in every test run


@pytest.mark.parametrize(
    ("option", "change"),
    [
        pytest.param(*item, marks=pytest.mark.slow) if item[0] in IN_COMPARISONS else item
        for item in CHANGED_FILES.items()
    ],
)
def test_content_that_was_changed_is_refused(
    option: str, change: Callable[[Path], None], begun: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(begun, tmp_path / "begun"))
    option = {"helper": "verifier"}.get(option, option)
    change(root)
    with pytest.raises(
        CheckpointError, match=rf"{option}: '.* sha256 .*' then, '.* sha256 .*' now.*--allow_config_change"
    ) as error:
        train(again(root))
    allowed = str(error.value).rpartition(" ")[2]
    assert allowed == option
    assert train(again(root, allow_config_change=allowed)).step == 2
    before, after = (manifest.run_info(root / "run" / f"checkpoint-{step}").inputs for step in (1, 2))
    assert {name for name in before if before[name] != after[name]} == {option}


def test_equal_content_at_another_place_is_the_same(begun: Path, tmp_path: Path) -> None:
    """Files copied elsewhere, rows with their keys in another order."""
    root = Path(shutil.copytree(begun, tmp_path / "elsewhere"))
    rows = [json.loads(line) for line in (root / "rows.jsonl").read_text().splitlines()]
    (root / "same.jsonl").write_text("".join(json.dumps(dict(reversed(row.items()))) + "\n" for row in rows))
    assert train(again(root, dataset=root / "same.jsonl")).step == 2


def test_a_manifest_without_fingerprints_is_held_against_its_options(begun: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(begun, tmp_path / "begun"))
    path = root / "run" / "checkpoint-1"
    then, config = replace(manifest.run_info(path), inputs={}), again(begun)
    refuse_changes(config, then.data, path, then, {"dataset": "other", "verifier": "other"})
    with pytest.raises(CheckpointError, match="dataset"):
        refuse_changes(config, "0" * 64, path, then, {"dataset": "other", "verifier": "other"})


# Ranks


def test_ranks_with_other_code_are_told_apart(tmp_path: Path) -> None:
    told = []
    for rank in (0, 1):
        (tmp_path / "v.py").write_text(f"def verify(problem, text):\n    return {rank}.0\n")
        config = runs.config("grpo", tmp_path / "run", "embedded", verifier=str(tmp_path / "v.py"))
        told.append(inputs.fingerprint_facts(inputs.of_files(config, [PROBLEM])))

    class Two(ProcessGroup):
        def gather(self, value: Any) -> list[Any]:
            return told

    with pytest.raises(ConfigError, match=r"rank 1 has verifier with sha256 'verify@\w{12}\*1.0', rank 0 has 'verify@"):
        require_equal(Two(rank=0, size=2), told[0])
