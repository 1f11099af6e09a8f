"""What is read of run folders: whole ones, broken ones, several; the axes; what runs have in common over seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report.folders import metrics_row, write_comparison, write_run

from obverse.errors import DataError
from obverse.report.figures import across, compared, smooth, table_of, together
from obverse.report.load_runs import arms, entry_labels, find_runs, num_parameters, read_run
from obverse.report.svg_chart import Chart, Series


def test_a_run(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", seed=2))
    assert run.method == "hpt" and run.num_parameters == 250 and sorted(run.evals) == [0, 6, 12]
    assert run.axes["tokens"][-1] == 12_000 and run.axes["steps"] == [float(step) for step in range(1, 13)]
    assert run.axes["seconds"][3] == pytest.approx(4 * 0.7)
    assert run.axes["flops"][1] == 2 * 250 * (6 * 400 + 2 * 600)
    assert run.axis_value("tokens", 6) == 6000 and run.axis_value("tokens", 0) == 0
    assert run.values("nll")[2] != run.values("nll")[2], "null is no number"


def test_axes_that_a_run_lacks(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "checkpoint-12" / "model.safetensors").unlink()
    assert list(read_run(folder).axes) == ["steps", "tokens", "seconds"]


def test_operations_that_a_run_counted_itself(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    rows = [metrics_row(step, 1) | {"flops": 7.0 * step} for step in range(1, 4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_run(folder).axes["flops"] == [7.0, 14.0, 21.0]


def test_parameters_of_the_newest_checkpoint_in_several_files(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "checkpoint-9").mkdir()
    data = (folder / "checkpoint-12" / "model.safetensors").read_bytes()
    for i in range(3):
        (folder / "checkpoint-12" / f"model-0000{i}-of-00003.safetensors").write_bytes(data)
    (folder / "checkpoint-12" / "model.safetensors").unlink()
    assert num_parameters(folder) == 750


def test_weights_that_are_none(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    for data in (b"", b"\xff" * 8, b"\x04" + bytes(7) + b"nono" + bytes(9)):
        (folder / "checkpoint-12" / "model.safetensors").write_bytes(data)
        with pytest.raises(DataError, match="not a safetensors file"):
            read_run(folder)


def test_a_line_that_a_kill_left_half_written(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "rew')
    assert len(read_run(folder).rows) == 12


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.jsonl", '{"step": 1}\nnonsense\n{"step": 2}\n', "metrics.jsonl:2: not JSON"),
        ("metrics.jsonl", "[1]\n", "metrics.jsonl:1: expects an object"),
        ("metrics.jsonl", '{"reward": 1}\n', "a row has no step"),
        ("config.yaml", "a: [", "config.yaml:1: not YAML"),
        ("config.yaml", "- a", "expects lines such as"),
        ("environment.json", "{", "environment.json: not JSON"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_run(folder)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run"):
        find_runs(tmp_path)


def test_runs_below_a_folder_are_named_by_what_differs(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path / f"a-{seed}", seed=seed)
    write_run(tmp_path / "deeper" / "b", gate=2)
    write_run(tmp_path / "c", "sft")
    runs_by_arm = arms(find_runs(tmp_path), entry_labels(tmp_path))
    assert {label: len(members) for label, members in runs_by_arm.items()} == {
        "hpt": 2,
        "hpt (gate=2)": 1,
        "sft": 1,
    }


def test_a_comparison_gives_its_own_names(tmp_path: Path) -> None:
    root = write_comparison(tmp_path / "comparison")
    runs_by_arm = arms(find_runs(root), entry_labels(root))
    assert [(label, len(members)) for label, members in runs_by_arm.items()] == [("hpt gate=1", 2), ("grpo", 2)]


def test_several_curves_as_one() -> None:
    joined = together("a", [[(1, 0.0), (2, 1.0)], [(1, 0.5), (2, 0.0)]])
    assert joined is not None and (joined.x, joined.y) == ((1, 2), (0.25, 0.5))
    assert (joined.low, joined.high) == ((0.0, 0.0), (0.5, 1.0))
    single = together("a", [[(1, 0.0), (2, 1.0)]])
    assert single is not None and not single.low and together("a", []) is None
    resampled = together("a", [[(0, 0.0), (10, 10.0)], [(2, 2.0), (8, 8.0), (12, 12.0)]])
    assert resampled is not None and (resampled.x[0], resampled.x[-1]) == (2, 10), "the stretch that all cover"
    assert resampled.y == pytest.approx(resampled.x) and resampled.low == pytest.approx(resampled.high)


def test_a_table_reads_lines_between_their_points() -> None:
    lines = (Series("a", (0, 2), (0.0, 1.0)), Series("b", (0, 1, 2), (0.0, 0.2, 0.4), low=(0, 0, 0), high=(1, 1, 1)))
    header, rows = table_of(Chart("x", "y", lines))
    assert header == ["x", "a", "b"] and rows[1] == ["1", "0.5", "0.2 (0 to 1)"]
    marks = Series("c", (0, 2), (0.0, 1.0), marks=True)
    assert table_of(Chart("x", "y", (lines[1], marks)))[1][1] == ["1", "0.2 (0 to 1)", ""], (
        "no interpolation between measurements"
    )


def test_a_running_mean() -> None:
    assert smooth([1.0, float("nan"), 3.0])[0] == 1.0, "few steps are shown as they are"
    values = [float(i % 2) for i in range(100)]  # 100 // 25 // 2 = 2 to either side
    assert smooth(values)[50] == pytest.approx(2 / 5) and smooth(values)[0] == pytest.approx(1 / 3)


def test_an_arm_over_its_seeds(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / str(seed), seed=seed)) for seed in (1, 3)]
    series = across("hpt", runs, "reward", "steps")
    assert series is not None and series.y[0] == pytest.approx(0.03)
    assert (series.low[0], series.high[0]) == pytest.approx((0.02, 0.04))
    figures = {figure.key: figure for figure in compared({"hpt": runs})}
    assert list(figures["reward"].charts) == ["steps", "tokens", "seconds", "flops"] and "mask" not in figures


def test_an_arm_keeps_its_color_where_another_has_no_curve(tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "1", "sft"), write_run(tmp_path / "2", "grpo")
    rows = [{k: v for k, v in metrics_row(step, 1).items() if k != "entropy"} for step in range(1, 4)]
    (first / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = {f.key: f for f in compared({"sft": [read_run(first)], "grpo": [read_run(second)]})}
    assert [(s.name, s.color) for s in figures["entropy"].chart("steps").series] == [("grpo", 1)]
