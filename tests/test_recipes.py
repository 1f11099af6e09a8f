"""The recipes: every option in them is one, their data are read, and their costs are those that are computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from obverse.cli.main import main
from obverse.config.resolve import resolve
from obverse.config.yaml_file import read
from obverse.data import load_dataset
from obverse.methods import find
from recipes.costs import HERE, RECIPES, comment, configuration, expected
from recipes.openr1 import without_system

MODELS = Path(__file__).parent / "data" / "models"
GPU = 80 * 2**30  # bytes that a card of 80 GB has
MESSAGES = [{"role": "system", "content": "Think."}, {"role": "user", "content": "2+2?"}]
TARGET = [{"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\\boxed{4}"}]
# A row in the layout of each recipe's data; made up but for UFT's.
ROWS = {
    "openr1": {"prompt": MESSAGES, "target": TARGET, "reward_model": {"ground_truth": "4", "style": "rule"},
               "data_source": "deepscaler", "ability": "math", "extra_info": {"index": 0, "split": "train"}},
    "numina": {"source": "synthetic_math", "problem": "2+2?", "solution": "It is $\\boxed{4}$.",
               "messages": [MESSAGES[1], {"role": "assistant", "content": "It is $\\boxed{4}$."}]},
}  # fmt: skip


def test_there_is_a_cost_for_every_recipe() -> None:
    assert {path.stem for path in HERE.glob("*.yaml")} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_line_is_an_option(name: str) -> None:
    file = read(HERE / f"{name}.yaml")
    config = resolve(str(file.values["method"]), find(str(file.values["method"])), {}, file)
    assert config.max_prompt_length and config.device == "cuda"
    paper = {"hpt": 5e-6, "luffy": 1e-6, "uft": 1e-6, "dft": 5e-5}
    assert config.learning_rate == paper[config.method]


@pytest.mark.parametrize("name", RECIPES)
def test_without_a_network_a_dry_run_is_a_file_and_a_sentence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", str(HERE / f"{name}.yaml"), "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "# memory: no plan: model " in out and "is not downloaded" in out and not err


def test_positions_are_the_authors() -> None:
    for name in ("hpt-qwen2.5-math-7b", "hpt-qwen2.5-math-1.5b", "luffy-qwen2.5-math-7b"):
        config = read(HERE / f"{name}.yaml").values
        assert (config["rope_theta"], config["max_position_embeddings"]) == (40000, 16384)


def test_the_data_are_read(tmp_path: Path) -> None:
    plain_row = without_system(ROWS["openr1"])
    for name, row in {"openr1": ROWS["openr1"], "hpt": plain_row, "numina": ROWS["numina"]}.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    (whole,), (plain,), (numina,) = (
        load_dataset(str(tmp_path / f"{name}.jsonl")) for name in ("openr1", "hpt", "numina")
    )
    assert [message["role"] for message in whole.prompt] == ["system", "user"]  # type: ignore[index]
    assert [message["role"] for message in plain.prompt] == ["user"]  # type: ignore[index]
    assert whole.answer == "4" and "<think>" in whole.demonstration_text and plain.verifier == "math"
    assert numina.demonstration_text == "It is $\\boxed{4}$."
    countdown = load_dataset(str(MODELS.parent / "rows" / "uft_countdown.parquet"))
    assert all(message.verifier == "countdown" and len(message.demonstration) > 1 for message in countdown)


@pytest.mark.release
@pytest.mark.parametrize("name", RECIPES)
def test_it_fits_and_the_comment_says_what_it_needs(name: str) -> None:
    about, text = RECIPES[name], (HERE / f"{name}.yaml").read_text()
    memory = expected(configuration(name, str(MODELS / about.model)), about.gpus)
    assert memory.peak < GPU
    assert "\n".join(comment(name, MODELS)) in text
