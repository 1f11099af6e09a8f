"""C3 to C6: what a save leaves whatever happens. C1, C2, C7: test_c_kills.py; C8 to C10: test_c_resume.py."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Count
from reliability import faults
from reliability.forks import Forks

import runs
from obverse.distributed import collective_save as saving
from obverse.errors import CheckpointError, StorageError
from obverse.runtime import checkpoint, manifest
from obverse.runtime.callbacks import Silent
from obverse.runtime.run_dir import RunFolder
from obverse.training import setup as prepare
from obverse.training.loop import train

FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json", "config.json", "tokenizer.json")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with two checkpoints of one run."""
    faults.save(tmp_path, 1)
    faults.save(tmp_path, 2)
    return tmp_path


# C3: the order of a save, and a cut after every call


def test_c3_every_file_is_on_the_disk_before_the_name_and_the_old_one_goes_last(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []
    sync, rename, write = checkpoint.sync, os.replace, Path.write_text

    def traced_sync(path: Path) -> None:
        told.append(("sync", path.name))
        sync(path)

    def traced_rename(first: Path, second: Path) -> None:
        told.append(("rename", Path(second).name))
        rename(first, second)

    def traced_write(path: Path, text: str, *args: object, **options: object) -> int:
        told.append(("write", path.name))
        return write(path, text, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "sync", traced_sync)
    monkeypatch.setattr(checkpoint.os, "replace", traced_rename)
    monkeypatch.setattr(Path, "write_text", traced_write)
    path = faults.save(saved, 3, keep=1)
    manifest_at = told.index(("write", "manifest.json"))
    files = json.loads((path / "manifest.json").read_text())["files"]
    assert sorted(name for kind, name in told[:manifest_at] if kind == "sync") == sorted(
        Path(name).name for name in files
    )
    assert len(files) == 8 and {str(each.relative_to(path)) for each in path.rglob("*") if each.is_file()} == {
        *files,
        "manifest.json",
    }
    named = told.index(("rename", "checkpoint-3"))
    assert told.index(("sync", "manifest.json")) < told.index(("sync", ".checkpoint-3.part")) < named
    assert told[named + 1] == ("sync", saved.name)
    assert told[named + 2 :] == [("rename", ".checkpoint-1.gone"), ("rename", ".checkpoint-2.gone")]


@pytest.mark.parametrize(
    "again", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["the next step", "the same step again"]
)
def test_c3_a_kill_at_every_call_leaves_a_whole_checkpoint(again: bool, tmp_path: Path, count: Count) -> None:
    step = 2 if again else 3

    def fresh(name: str) -> Path:
        root = tmp_path / name
        faults.save(root, 1)
        faults.save(root, 2)
        return root

    counted = fresh("counted")
    number = faults.num_calls(lambda: faults.save(counted, step, keep=1))
    assert number > 30
    for at in range(1, number + 1):
        root = fresh(str(at))
        assert faults.in_child(lambda root=root: faults.save(root, step, keep=1), "kill", at) == -signal.SIGKILL
        checkpoint.remove_leftovers(root)
        found = checkpoint.newest(root, "mine")
        assert found is not None and faults.number_in(found) in (2, step), f"call {at}"
        assert all(manifest.find_damage(path) is None for path in checkpoint.folders(root)), f"call {at}"
        assert [path.name for path in root.iterdir() if path.name.startswith(".")] == [], f"call {at}"
        faults.save(root, step + 1, keep=1)
        assert [path.name for path in checkpoint.folders(root)] == [f"checkpoint-{step + 1}"]
        count("C3 saves killed at a call")
        shutil.rmtree(root)


# C4: corruption


def corrupt(root: Path, name: str, how: str) -> None:
    """Change one file of checkpoint-2; a swap takes that of checkpoint-1."""
    file = root / "checkpoint-2" / name
    content = file.read_bytes()
    changed = {
        "truncate": content[: len(content) // 2],
        "flip": content[:-2] + bytes([content[-2] ^ 1]) + content[-1:],
        "empty": b"",
        "grow": content + b"\0",
        "swap": (root / "checkpoint-1" / name).read_bytes(),
    }
    if how == "delete":
        file.unlink()
    elif changed[how] == content:  # the two checkpoints share it: let it come from elsewhere
        file.write_bytes(content[::-1])
    else:
        file.write_bytes(changed[how])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["truncate", "flip", "empty", "grow", "swap", "delete"])
def test_c4_a_changed_file_is_named_and_the_checkpoint_before_it_is_taken(
    name: str, how: str, saved: Path, count: Count
) -> None:
    corrupt(saved, name, how)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as refusal:
        checkpoint.load(saved / "checkpoint-2")
    assert refusal.value.exit_code == 4 and "\n" not in str(refusal.value)
    found, passed = checkpoint.search(saved, "mine")
    assert found == saved / "checkpoint-1" and len(passed) == 1 and name in passed[0]
    count("C4 damaged files named")


@pytest.mark.parametrize(("name", "reason"), [("manifest.json", "cannot be read"), ("state.json", "is missing")])
def test_c4_what_cannot_be_read_is_passed_by(name: str, reason: str, saved: Path) -> None:
    file = saved / "checkpoint-2" / name
    file.unlink()
    file.mkdir()
    found, passed = checkpoint.search(saved)
    assert found == saved / "checkpoint-1" and reason in passed[0] and name in passed[0]


def test_c4_a_whole_folder_under_another_ones_name_is_noticed(saved: Path) -> None:
    shutil.rmtree(saved / "checkpoint-2")
    shutil.copytree(saved / "checkpoint-1", saved / "checkpoint-2")
    assert manifest.find_damage(saved / "checkpoint-2") == "manifest.json is of step 1: it belongs to another folder"


def edits(root: Path, num: int, count: Count) -> int:
    """How many of `num` random edits of a checkpoint's files are not noticed."""
    draw, path, missed, num_tried = random.Random(7), root / "checkpoint-2", 0, 0
    names = [str(each.relative_to(path)) for each in sorted(path.rglob("*")) if each.is_file()]
    for _ in range(num):
        file = path / draw.choice(names)
        content = file.read_bytes()
        place, length = draw.randrange(len(content)), draw.choice((0, 1, 1, 8))
        filling = draw.randbytes(draw.choice((0, 1, 1, 8)))
        changed = content[:place] + filling + content[place + length :]
        if changed == content:
            changed = content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
        file.write_bytes(changed)
        missed += manifest.find_damage(path) is None
        num_tried += 1
        file.write_bytes(content)
    assert manifest.find_damage(path) is None
    count("C4 random edits caught", num_tried - missed)
    return missed


def test_c4_random_edits_are_caught(saved: Path, count: Count) -> None:
    assert edits(saved, 300, count) == 0


@pytest.mark.release
def test_c4_thousands_of_random_edits_are_caught(saved: Path, count: Count) -> None:
    assert edits(saved, 5_000, count) == 0


def test_c4_a_run_that_passes_a_damaged_checkpoint_by_says_so(tiny: Path, problems: Path, tmp_path: Path) -> None:
    told: list[str] = []

    class Notes(Silent):
        def note(self, text: str) -> None:
            told.append(text)

    options = {"max_steps": 2, "save_steps": 1}
    train(runs.config("sft", tmp_path, tiny, problems, **options))
    (tmp_path / "checkpoint-2" / "state.json").unlink()
    train(runs.config("sft", tmp_path, tiny, problems, resume_from_checkpoint="auto", **options), Notes())
    assert any("checkpoint-2 is skipped: file state.json is missing" in note for note in told)
    assert [row["step"] for row in RunFolder(tmp_path).metrics()] == [1, 2]
    for path in checkpoint.folders(tmp_path):
        (path / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"state\.json is missing"):
        train(runs.config("sft", tmp_path, tiny, problems, resume_from_checkpoint="auto", **options))


# What may be removed


def test_only_what_a_run_has_written_under_its_very_name_may_be_removed(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        faults.save(tmp_path, step, keep=9, run="other" if step == 4 else "mine")
    for name in ("checkpoint-backup-77", "checkpoint-2-copy", "checkpoint-", "checkpoint-77"):
        (tmp_path / name).mkdir()
    shutil.copytree(tmp_path / "checkpoint-2", tmp_path / "checkpoint-9")
    shutil.copytree(tmp_path / "checkpoint-2", tmp_path / "checkpoint-02")
    (tmp_path / "checkpoint-8").symlink_to(tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-3" / "critic" / "notes.txt").write_text("of a user")
    assert [path.name for path in checkpoint.written_by_run(tmp_path, "mine")] == ["checkpoint-1", "checkpoint-2"]


# C5: the disk refuses


def test_c5_a_full_disk_at_every_call_leaves_what_was_there(tmp_path: Path, count: Count) -> None:
    def fresh(name: str) -> Path:
        root = tmp_path / name
        faults.save(root, 2)
        return root

    counted = fresh("counted")
    number = faults.num_calls(lambda: faults.save(counted, 3))
    codes = []
    for at in range(1, number + 1):
        root = fresh(str(at))
        codes.append(faults.in_child(lambda root=root: faults.save(root, 3), "full", at))
        found = checkpoint.newest(root, "mine")
        # the last two calls are the new name, which needs no room, and forcing it to the disk
        assert found is not None and faults.number_in(found) == (3 if at >= number - 1 else 2), f"call {at}"
        assert not list(root.glob(".*")), f"call {at}"
        shutil.rmtree(root)
    assert set(codes) == {6} and len(codes) > 20
    count("C5 writes refused", len(codes))


@pytest.mark.parametrize("limit", [3, 100, 300, 700])
def test_c5_a_file_that_may_not_grow_is_one_sentence(limit: int, saved: Path) -> None:
    """RLIMIT_FSIZE is kept by the system, below whatever writes: json, safetensors or tokenizers."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        faults.save(saved, 3)

    assert faults.in_child(limited) == 6
    assert faults.number_in(checkpoint.newest(saved) or saved) == 2


def test_c5_the_sentence_says_what_is_kept(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise saving.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(saving, "save_file", refuse)
    with pytest.raises(StorageError, match=r"No space left .*checkpoint-2"):
        faults.save(saved, 3)


@pytest.mark.slow
def test_c5_every_writer_of_a_real_checkpoint_may_be_the_one_that_finds_no_room(
    forks: Forks, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    options = {"max_steps": 1, "log_completions": False}
    assert forks.run(tmp_path / "whole", tiny, problems, "sft", **options)["code"] == 0
    sizes = sorted({path.stat().st_size for path in (tmp_path / "whole" / "checkpoint-1").iterdir()})
    for number, size in enumerate(sizes[-3:]):  # weights, moments, the tokenizer
        folder = tmp_path / str(number)
        assert forks.run(folder, tiny, problems, "sft", limit=size - 1, **options)["code"] == 6
        assert not list(folder.glob("*checkpoint*"))


@pytest.mark.parametrize("name", ["append_metrics", "write_samples", "write_json"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EACCES], ids=errno.errorcode.get)
def test_c5_a_row_that_finds_no_room_is_a_sentence_too(
    number: int, name: str, tiny: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    class Later(Silent):
        def step(self, step: int, total_steps: int, metrics: object) -> None:
            monkeypatch.setattr(RunFolder, name, refuse)

    options = {"max_steps": 3, "save_steps": 1, "eval_dataset": "arithmetic:1", "eval_steps": 2, "num_eval_problems": 1}
    told = rf"step 2: a file of .* cannot be written: {os.strerror(number)}: .*checkpoint-[12]"
    with pytest.raises(StorageError, match=told) as refusal:
        train(runs.config("sft", tmp_path, tiny, problems, **options), Later())
    assert refusal.value.exit_code == 6


def test_c5_a_disk_without_room_for_one_checkpoint_is_told_before_the_first_step(
    tiny: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"[0-9.]+ MB, 0\.0 MB"):
        train(runs.config("sft", tmp_path / "run", tiny, problems, max_steps=1))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def on_a_small_disk(tmp_path: Path, what: str, *words: Path) -> list[dict[str, Any]]:
    """What small_disk.py found, size by size; skipped where nobody may mount a file system."""
    disk, tests = tmp_path / "disk", Path(__file__).parents[1]
    disk.mkdir()
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    probe = "command -v unshare && " + " ".join([*alone, "mount", "-t", "tmpfs", "tmpfs", shlex.quote(str(disk))])
    allowed = subprocess.run(["sh", "-c", probe], capture_output=True, text=True)
    if allowed.returncode:
        pytest.skip(f"no file system can be mounted here: {allowed.stderr.strip()[:200] or 'there is no unshare'}")
    environment = os.environ | {"PYTHONPATH": f"{tests.parent}:{tests}"}
    command = [*alone, sys.executable, "-W", "ignore", str(tests / "reliability" / "small_disk.py"), what, str(disk)]
    done = subprocess.run([*command, *map(str, words)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.release
@pytest.mark.parametrize("what", ["toy", "run"])
def test_c5_a_disk_of_any_size_leaves_the_checkpoint_before(
    what: str, tiny: Path, problems: Path, tmp_path: Path, count: Count
) -> None:
    """Every size from what two checkpoints take to what three do: page by page and name by name, or in a real run."""
    tried = on_a_small_disk(tmp_path, what, *([tiny, problems] if what == "run" else []))
    refused = [each for each in tried if each["code"]]
    assert all(each["code"] == 6 for each in refused), refused
    assert all(each["newest"] == "checkpoint-2" and not each["left"] for each in refused), refused
    assert [each["newest"] for each in tried if each["code"] == 0] == ["checkpoint-3"] * (2 if what == "toy" else 1)
    assert len(refused) > 15
    count("C5 disks too small by a page or a name", len(refused))


# C6: a folder that cannot be written is refused before a model is loaded


def test_c6_an_unwritable_folder_is_refused_before_the_model_is_read(
    tiny: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "load_models", lambda *args: pytest.fail("a model was loaded"))
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="--output_dir") as refusal:
        train(runs.config("sft", tmp_path / "file" / "run", tiny, problems))
    assert refusal.value.exit_code == 6
