"""Reports of damaged folders: the right page, or one sentence with the name of the file. Never a traceback."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Count
from report.folders import summary, write_analyses, write_comparison, write_run

from obverse.config.commands import ReportConfig
from obverse.errors import UserError
from obverse.report.write import report

HUGE = 10**400
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 3, 10**18, HUGE, 0.5, float("nan"), float("inf"), -1e308, "", "3", "x", "\u2028", [], [1], ["x"],
    [None], [[0, 1]], {}, {"x": 1}, {"all": None},
)  # fmt: skip
RAW = (b"", b"\0", b"\xff\xfe", b"{", b"[", b"null", b"[]", b"3", b'"x"', b"\xef\xbb\xbf{}", b"[" * 5000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison and a demo in one, with a file of every analysis and a result of obverse eval."""
    root = write_comparison(tmp_path_factory.mktemp("damage") / "whole", num_steps=3, num_problems=2)
    shutil.rmtree(root / "grid")
    shutil.rmtree(root / "runs" / "grpo")
    shutil.rmtree(root / "runs" / "hpt-gate-1" / "seed-2")
    write_analyses(root / "analysis")
    rows = {"1": {"pass@1": 0.5, "pass@8": 0.75}, "all": {"pass@1": 0.5, "pass@8": 0.75}}
    (root / "demo.json").write_text(json.dumps({"base": rows, "hpt": rows}))
    results = root / "runs" / "hpt-gate-1" / "seed-1" / "eval" / "checkpoint-3" / "bench"
    results.mkdir(parents=True)
    result = {"schema": 1, "name": "bench", "model": {"name": "m"}, "summary": summary(0.5, 1)}
    result |= {"grader": {"verifiers": ["v.py"], "code": {"v.py": f"verify@{'5d' * 32}*1.0"}}}
    (results / "result.json").write_text(json.dumps(result))
    return root


def test_a_measured_figure_says_which_version_of_the_verifier_graded(folder: Path) -> None:
    (page,) = report(ReportConfig(run=folder / "runs" / "hpt-gate-1" / "seed-1"))
    assert f"verify@{'5d' * 6}*1.0" in page.read_text() and "5d" * 7 not in page.read_text()


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a JSON value, at every depth."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, element in inside:
        yield from paths_in(element, (*path, key))


def changed(value: Any, dice: random.Random) -> Any:
    """A copy with one random element removed, duplicated, renamed or replaced."""
    copy = json.loads(json.dumps(value))
    *way, last = dice.choice([path for path in paths_in(copy) if path] or [(None,)])
    if last is None:
        return dice.choice(ODD)
    inner = copy
    for key in way:
        inner = inner[key]
    choice = dice.random()
    if choice < 0.25:
        del inner[last]
    elif choice < 0.3 and isinstance(inner, list):
        inner.append(inner[last])
    elif choice < 0.35 and isinstance(inner, dict):
        inner[f"{last}x"] = inner.pop(last)
    else:
        inner[last] = dice.choice(ODD)
    return copy


def text_of(value: Any) -> str:
    return "9" * 5000 if value == HUGE else json.dumps(value)


def damage(path: Path, dice: random.Random) -> None:
    """Damage a file: its values, its bytes, or the file itself."""
    content, choice = path.read_bytes(), dice.random()
    if choice < 0.04:
        path.unlink()
    elif choice < 0.08:
        path.unlink()
        path.mkdir()
    elif choice < 0.16:
        path.write_bytes(dice.choice(RAW))
    elif choice < 0.24:
        path.write_bytes(content[: dice.randrange(len(content))])
    elif choice < 0.36:
        offset = dice.randrange(len(content))
        path.write_bytes(content[:offset] + bytes([content[offset] ^ 1 << dice.randrange(8)]) + content[offset + 1 :])
    elif path.suffix == ".json":
        path.write_text(text_of(changed(json.loads(content), dice)))
    elif path.suffix == ".yaml":
        path.write_text(yaml.safe_dump(changed(yaml.safe_load(content), dice), allow_unicode=True))
    elif path.suffix == ".jsonl":
        rows = [json.loads(line) for line in content.split(b"\n") if line]
        number = dice.randrange(len(rows))
        rows[number] = changed(rows[number], dice)
        rows += dice.choice(([], [], [rows[0]]))
        path.write_text("".join(text_of(row) + "\n" for row in rows))
    elif path.suffix == ".gz":
        path.write_bytes(b"")
    else:
        size = int.from_bytes(content[:8], "little")
        header = text_of(changed(json.loads(content[8 : 8 + size]), dice)).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header)


def damage_and_report(folder: Path, num: int, seed: int, count: Callable[..., None]) -> None:
    """Damage one file after the other, make a report, and restore the file."""
    dice = random.Random(seed)
    run = folder / "runs" / "hpt-gate-1" / "seed-1"
    names = sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "html" not in path.name
    )
    for _ in range(num):
        path = folder / dice.choice(names)
        content = path.read_bytes()
        damage(path, dice)
        damaged = path.read_bytes() if path.is_file() else None
        target = dice.choice((run, folder)) if run in path.parents else folder
        try:
            (page,) = report(ReportConfig(run=target))
            assert page.read_bytes().startswith(b"<!doctype html>")
            count("reports of damaged folders: pages")
        except UserError as error:
            is_named = str(path) in str(error) or "contains no run" in str(error)
            assert is_named and "\n" not in str(error), (path, damaged, error)
            count("reports of damaged folders: sentences")
        except Exception as error:
            raise AssertionError(f"{path.relative_to(folder)}: {damaged!r:.2000}") from error
        shutil.rmtree(path, ignore_errors=True)
        path.write_bytes(content)


def test_a_damaged_file_is_named_or_its_page_is_whole(folder: Path, count: Count) -> None:
    damage_and_report(folder, 30, 7, count)


@pytest.mark.slow
def test_hundreds_of_damaged_files(folder: Path, count: Count) -> None:
    damage_and_report(folder, 200, 9, count)


@pytest.mark.release
def test_thousands_of_damaged_files(folder: Path, count: Count) -> None:
    damage_and_report(folder, 5_000, 8, count)


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", num_steps=2)
    secret, is_file, opened = run / "environment.json", Path.is_file, Path.read_bytes

    def refuse(path: Path) -> Any:
        if path == secret:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"environment\.json"):
        report(ReportConfig(run=run))
    monkeypatch.undo()

    def refuse_too(path: Path) -> bool:
        if path == secret:
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refuse_too)
    with pytest.raises(UserError, match=r"environment\.json"):
        report(ReportConfig(run=run))
