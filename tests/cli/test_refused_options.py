"""Options that `obverse train` refuses with a hint, and that `--dry-run` refuses as a run does."""

from __future__ import annotations

import pytest

from obverse.cli.main import main


@pytest.mark.parametrize("words", [["--push_to_hub", "me/model"], ["--push_to_hub=me/model"]])
def test_a_repository_after_push_to_hub_has_a_hint(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "sft", *words]) == 2
    error = capsys.readouterr().err
    assert "push_to_hub" in error and "hub_model_id" in error and "owner/name" in error


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["sft", "--reward_model", "m"], "--reward_model: sft samples nothing"),
        (["grpo", "--verifier", "mathh"], "did you mean 'math'?"),
        (["grpo", "--num_generations", "1"], "--num_generations"),
    ],
)
def test_a_dry_run_refuses_what_a_run_refuses(words: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words, "--dry-run"]) == 2
    out, err = capsys.readouterr()
    assert part in err and not out
