"""Secrets are masked by the names they are kept under, by their forms and by their places; no option stores one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from obverse.cli.main import main
from obverse.config.resolve import refuse_secrets, resolve
from obverse.config.yaml_file import read, write
from obverse.errors import ConfigError
from obverse.methods import find
from obverse.redact import flat, masked, secret_in
from obverse.runtime.output_dir import slug

PLAIN = "abcdefabcdef123"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:hunter2@h/x", "https://***@h/x"),
        ("http://s3cr3ttoken99@127.0.0.1:1", "http://***@127.0.0.1:1"),
        ("http://me:p@ssw0rd@127.0.0.1:1", "http://***@127.0.0.1:1"),
        ("https:/u:hunter2@h/x.jsonl", "https:/***@h/x.jsonl"),  # as a Path writes it
        ("postgresql+psycopg://u:x@db/1", "postgresql+psycopg://***@db/1"),
        ("http://h/?api_key=x1&n=2", "http://h/?api_key=***&n=2"),
        ("http://h/?n=2&X-Amz-Signature=ab", "http://h/?n=2&X-Amz-Signature=***"),
        ("http://h/?access_token=a#b", "http://h/?access_token=***#b"),
        ("Authorization: Bearer abc", "Authorization: Bearer ***"),
        ("{'Authorization': 'Basic dTpw'}", "{'Authorization': 'Basic ***'}"),
        ("Bearer a1b2c3d4", "Bearer ***"),
        ("api_key=short1", "api_key=***"),
        ('"password": "hunter2"', '"password": "***"'),
        ("hf_" + "aB3d" * 8, "***"),
        ("github_pat_" + "a1B2" * 8, "***"),
        ("gho_" + "a1B2" * 6, "***"),
        ("ASIA" + "A1B2C3D4E5F6G7H8", "***"),
        ("xoxb-12345-abcdef", "***"),
        ("AIza" + "Sy0-" * 9, "***"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSM", "***"),
        ("https://host/a:b@c", "https://host/a:b@c"),
        ("the bearer of bad news, basic arithmetic", "the bearer of bad news, basic arithmetic"),
        ("pad_token: <pad>, max_tokens=12, tokenizer?tokens=3", "pad_token: <pad>, max_tokens=12, tokenizer?tokens=3"),
        ("mail me@host, half_hf_life, sk-ip", "mail me@host, half_hf_life, sk-ip"),
    ],
)
def test_forms_and_places(text: str, shown: str) -> None:
    assert masked(text) == shown and flat(text) == shown and masked(shown) == shown


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        *(
            (name, True)
            for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "SERVICE_KEY", "DB_PASSWORD")
        ),
        *((name, True) for name in ("hf_token", "OPENAI_APIKEY", "GITHUB_PAT", "MY_SECRET", "TOKEN", "X_TOKEN_2")),
        *(
            (name, False)
            for name in ("TOKENIZER_PATH", "TOKEN_FOLDER", "MAX_TOKENS", "KEYBOARD", "MONKEY", "SECRETARY")
        ),
    ],
)
def test_the_environment_is_known_by_names(name: str, is_secret: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, PLAIN)
    assert masked(f"k is {PLAIN}.") == ("k is ***." if is_secret else f"k is {PLAIN}.")
    assert (secret_in(f"k is {PLAIN}") != "") == is_secret


def test_a_path_and_a_word_are_no_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models-dir").mkdir()
    for value in ("models-dir", "/run/secrets/token", "~/token.txt", "half"):
        monkeypatch.setenv("MY_TOKEN", value)
        assert masked(f"{value} life") == f"{value} life" and not secret_in(value)
    monkeypatch.setenv("MY_TOKEN", "secretword")  # as a whole word only
    assert masked("secretwords secretword") == "secretwords ***"


@pytest.mark.parametrize(
    "given",
    [
        {"system_prompt": f"k is {PLAIN}"},
        {"vllm_url": "http://s3cr3ttoken99@127.0.0.1:1"},
        {"vllm_url": "http://127.0.0.1:1/?api_key=s3cr3tquery99"},
        {"vllm_url": "http://me:p@ssw0rdpass@127.0.0.1:1"},
        {"dataset": "https://u:hunter2hunter2@h/x.jsonl"},
        {"stop_strings": f"a,{PLAIN}"},
        {"model": "hf_" + "aB3d" * 8},
    ],
)
@pytest.mark.parametrize("place", ["command line", "file"])
def test_no_option_takes_a_secret(
    given: dict[str, Any],
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SERVICE_KEY", PLAIN)
    monkeypatch.chdir(tmp_path)
    ((name, value),) = given.items()
    words = [f"--{name}={value}"]
    if place == "file":
        (tmp_path / "t.yaml").write_text(f"{name}: '{value}'\n")
        words = ["--config", "t.yaml"]
    assert main(["train", "sft", *words, "--max_steps", "1", "--output_dir", "r"]) == 2
    told = capsys.readouterr()
    assert name in told.err and "VLLM_API_KEY" in told.err
    for secret in (PLAIN, "s3cr3t", "ssw0rd", "hunter2", "aB3daB3d"):
        assert secret not in told.err + told.out
    assert [path.name for path in tmp_path.iterdir()] == (["t.yaml"] if place == "file" else [])


@pytest.mark.parametrize("command", ["train sft --dry-run", "eval", "compare sft hpt --budget 1M", "data check x"])
def test_every_command_refuses_one_before_anything_else(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--model", "https://u:hunter2hunter2@h/x"]) == 2
    told = capsys.readouterr()
    assert "--model" in told.err and "hunter2" not in told.err + told.out


def test_a_configuration_made_in_python_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve("sft", find("sft"), {"system_prompt": f"k is {PLAIN}"})
    refuse_secrets(config)
    monkeypatch.setenv("SERVICE_KEY", PLAIN)
    with pytest.raises(ConfigError, match=r"SERVICE_KEY"):
        refuse_secrets(config)


def test_what_is_stored_is_what_was_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("TOKENIZER_PATH", "models")
    monkeypatch.setenv("HF_TOKEN", "models")
    config = resolve("sft", find("sft"), {"model": "models", "system_prompt": "the password: none"})
    (tmp_path / "c.yaml").write_text(write(config))
    again = resolve("sft", find("sft"), {}, read("c.yaml"))
    assert again.model_dump() == config.model_dump() and again.model == "models"


def test_a_folders_name_has_no_password() -> None:
    assert "hunter2" not in slug("https://u:hunter2@h/x.jsonl")
