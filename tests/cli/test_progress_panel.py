"""The console of a run: what it shows, what it leaves out, and that nothing from outside reaches a terminal."""

from __future__ import annotations

import bz2
import gzip
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from obverse.cli import progress_panel as panel_module
from obverse.cli.progress_panel import Panel, clock, figures, sparkline, times
from obverse.data.file_formats import read_file
from obverse.runtime.callbacks import Watcher
from obverse.runtime.progress import report_progress, shown_by

ROW: dict[str, float] = {
    "reward": 0.4123,
    "reward_std": 0.3,
    "accuracy": 0.4,
    "frac_reward_zero_std": 0.25,
    "problems/demonstration": 0.375,
    "problems/rollout": 0.57,
    "problems/none": 0.055,
    "entropy": 0.83,
    "loss": -0.0001,
    "grad_norm": 0.412,
    "learning_rate": 2e-4,
    "completions/mean_length": 12.44,
    "completions/clipped_ratio": 0.01,
    "num_tokens": 123456.0,
    "tokens_per_second": 8123.4,
    "time/sample": 0.5,
    "time/grade": 0.01,
    "time/train": 0.6,
    "step_time": 1.11,
}


def a_panel(**options: Any) -> tuple[Panel, io.StringIO]:
    file = io.StringIO()
    return Panel(Console(file=file, width=80, highlight=False, **options)), file


def drawn(panel: Panel, **options: Any) -> str:
    """The live panel as it would be drawn now, without its colors."""
    console = Console(file=io.StringIO(), width=80, **options)
    panel.console, before = console, panel.console
    console.print(panel._render())
    panel.console = before
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_a_step_is_one_plain_line() -> None:
    panel, file = a_panel()
    watcher: Watcher = panel
    with panel:
        watcher.banner([("method", "hpt"), ("model", "embedded")])
        watcher.phase("sample", 3, 256)
        watcher.step(1, 20, ROW)
        watcher.note("saved runs/x")
    assert file.getvalue().splitlines() == [
        "method: hpt",
        "model: embedded",
        "step 1/20 | reward 0.412 | accuracy 40.0% | problems SFT 38%, RL 57%, neither 6% | entropy 0.830"
        " | length 12.4 tokens | speed 8,123 tokens/s | left 0:21",
        "saved runs/x",
    ]


def test_the_surrogate_loss_is_not_shown() -> None:
    assert not any("loss" in name for name in figures(ROW))


def test_missing_metrics_are_left_out() -> None:
    assert figures({}) == {}
    assert figures({"reward": 1.0, "problems/demonstration": 1.0}) == {"reward": "1.000"}
    sft = {"problems/demonstration": 1.0, "problems/rollout": 0.0, "problems/none": 0.0, "time/train": 0.5}
    assert figures(sft) == {"problems": "SFT 100%, RL 0%", "seconds": "(train 0.5)"}


def test_times_name_every_phase() -> None:
    assert times(ROW) == "1.1 (sample 0.5, grade 0.0, train 0.6)"
    assert times({"step_time": 2.0}) == "2.0"


def test_the_live_panel_shows_progress_and_figures() -> None:
    panel, _ = a_panel()
    panel.phase("sample", 64, 256)
    panel.step(5, 20, ROW)
    found = drawn(panel)
    assert "step 5/20" in found and "25%  left 0:17" in found
    assert "sampling" in found and "64/256" in found
    for name, text in figures(ROW).items():
        assert name in found and text in found
    assert max(map(len, found.splitlines())) <= 80


def test_before_the_first_step_only_the_phase_is_shown() -> None:
    panel, _ = a_panel()
    panel.phase("load", 0, 1)
    assert drawn(panel).split()[0] == "loading" and "step" not in drawn(panel)


def test_large_numbers_are_not_wrapped() -> None:
    panel, _ = a_panel()
    panel.phase("eval", 0, 1_038_400)
    panel.phase_began -= 100
    panel.phase("eval", 12_345, 1_038_400)
    (line,) = drawn(panel).strip().splitlines()
    assert "12,345/1,038,400  left 2:18:3" in line and len(line) <= 80


def test_the_terminal_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    panel, file = a_panel(force_terminal=True)
    with pytest.raises(KeyboardInterrupt), panel:
        panel.phase("sample", 1, 2)
        panel.step(1, 20, ROW)
        panel.note("a note")
        raise KeyboardInterrupt
    assert panel.live is None
    text = file.getvalue()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is hidden and shown again
    assert "a note" in text and "step 1/20" in text


@pytest.mark.parametrize("options", [{}, {"force_terminal": True}])
def test_no_escape_from_outside_reaches_the_console(options: dict[str, Any]) -> None:
    panel, file = a_panel(color_system=None, **options)
    with panel:
        panel.banner([("model", "evil\x1b]0;title\x07 [red]markup[/red]")])
        panel.note("name\x1b[31m\nline two \u202e")
    text = file.getvalue()
    assert "\x1b]" not in text and "\x1b[31m" not in text and "\u202e" not in text
    assert "evil\\x1b]0;title\\x07 [red]markup[/red]" in text and "name\\x1b[31m" in text


def test_a_run_goes_on_when_its_reader_is_gone() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    panel = Panel(Console(file=Closed(), width=80))
    panel.note("one")
    panel.step(1, 2, ROW)
    assert panel.is_closed


def test_the_time_left_follows_the_recent_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 100.0, 102.0, 110.0])
    monkeypatch.setattr(panel_module.time, "monotonic", lambda: next(now))
    panel, _ = a_panel()
    assert panel.seconds_left() == 0.0
    panel.step(10, 20, {"step_time": 3.0})  # a resumed run: its first step tells its own time
    assert panel.seconds_left() == 30.0
    panel.step(11, 20, {})
    assert panel.seconds_left() == 9 * 2.0
    panel.step(15, 20, {})  # every 4th step is reported
    assert panel.seconds_left() == 5 * 2.0


def test_the_speed_forgets_old_steps() -> None:
    panel, _ = a_panel()
    for number in range(1, 51):
        panel.step(number, 100, {})
    assert len(panel.marks) == panel_module.NUM_RECENT and panel.marks[0][0] == 31


def test_a_sparkline_goes_from_lowest_to_highest() -> None:
    assert sparkline([0.0, 0.5, 1.0], 10) == "\u2581\u2585\u2588"
    assert sparkline([1.0, 1.0], 10) == "\u2581\u2581"
    assert sparkline([], 10) == ""
    assert sparkline([0.0, float("nan"), 1.0], 10) == "\u2581 \u2588"
    assert len(sparkline([float(n) for n in range(1000)], 30)) == 30


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (243, "4:03"), (3765, "1:02:45")])
def test_clocks(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_pairs_and_a_critic_have_words_of_their_own() -> None:
    row = {"problems/demonstration": 0.0, "problems/rollout": 0.0, "problems/pairs": 1.0}
    row |= {"rewards/accuracies": 0.75, "rewards/margins": 0.0125, "critic/error": 0.25}
    found = figures(row)
    assert found["problems"] == "SFT 0%, RL 0%, pairs 100%"
    assert found["preferred"] == "75.0% of pairs, by 0.0125" and found["critic"] == "squared error 0.25"
    assert figures({"problems/demonstration": 0.5, "problems/rollout": 0.5})["problems"] == "SFT 50%, RL 50%"


def test_a_phase_shows_its_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(panel_module.time, "monotonic", lambda: now[0])
    panel, file = a_panel()
    panel.phase("eval", 100, 400)  # resumed: 100 are stored already
    now[0] = 20.0
    panel.phase("eval", 200, 400)
    assert panel.phase_text() == "200/400  left 0:40" and file.getvalue() == ""
    panel.phase("hash", 0, 2**30)
    now[0] = 24.0
    panel.phase("hash", 2**28, 2**30)
    assert panel.phase_text() == "25%  left 0:12"  # bytes are a share, and the clock began again
    panel.phase("load", 0, 0)
    now[0] = 30.0
    assert panel.phase_text() == "0:06"  # without a total: the time so far


def test_without_a_terminal_a_long_phase_is_a_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(panel_module.time, "monotonic", lambda: now[0])
    panel, file = a_panel()
    for done in range(10_000):
        now[0] = done / 100  # 100 seconds
        panel.phase("grade", done, 10_000)
    panel.phase("grade", 10_000, 10_000)
    assert file.getvalue().splitlines() == [
        "grading 3,000/10,000 left 1:10",
        "grading 6,000/10,000 left 0:40",
        "grading 9,000/10,000 left 0:10",
    ]


def test_reports_from_below_reach_the_open_panel_alone(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "p", "answer": "1"}\n' * 3)
    panel, _ = a_panel()
    with panel:
        assert len(list(read_file(rows))) == 3
        assert panel.current == ("read", rows.stat().st_size, rows.stat().st_size)
    report_progress("grade", 1, 2)
    assert panel.current[0] == "read"


@pytest.mark.parametrize("suffix", ["gz", "bz2"])
def test_packed_files_report_how_much_of_them_was_read(suffix: str, tmp_path: Path) -> None:
    rows = tmp_path / f"rows.jsonl.{suffix}"
    rows.write_bytes({"gz": gzip, "bz2": bz2}[suffix].compress(b'{"prompt": "p"}\n' * 100))
    reports: list[tuple[str, int, int]] = []
    with shown_by(lambda *report: reports.append(report)):
        assert len(list(read_file(rows))) == 100
    assert reports[-1] == ("read", rows.stat().st_size, rows.stat().st_size)


def test_a_panel_beside_results_is_on_stderr_where_stdout_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert Panel.beside_results().console.stderr


def test_commands_show_progress_before_torch_is_imported() -> None:
    imports = "import sys, obverse.cli.compare, obverse.cli.export, obverse.cli.report; print([*sys.modules])"
    result = subprocess.run([sys.executable, "-c", imports], capture_output=True, text=True, timeout=60)
    assert "'obverse.cli.report'" in result.stdout and "'torch'" not in result.stdout
