"""Uploads to a hub on this machine: what is sent, and every refusal as one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub.fake_hub import OWNER, TOKEN, FakeHub, Repository
from huggingface_hub import constants

from obverse import methods
from obverse.config.commands import ExportConfig
from obverse.config.resolve import read, resolve
from obverse.config.sources import arguments
from obverse.errors import ConfigError, HubError
from obverse.hub.model_card import CardFacts, MethodFacts, model_card
from obverse.hub.push import check_credentials, push
from obverse.runtime.callbacks import Silent

CARD = model_card(CardFacts("model", None, None, MethodFacts(), (), None), "model")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An exported folder: a card, weights, a configuration."""
    out = tmp_path / "model"
    out.mkdir()
    for name, text in (("README.md", CARD), ("model.safetensors", "weights"), ("config.json", "{}")):
        (out / name).write_text(text)
    return out


def refusal(folder: Path, name: str = f"{OWNER}/model", private: bool = True) -> str:
    """The message with which a push is refused, which is one line."""
    with pytest.raises(HubError) as error:
        push(folder, name, private, Silent())
    message = str(error.value)
    assert "\n" not in message and TOKEN not in message and str(folder) in message
    assert {path.name for path in folder.iterdir()} == {"README.md", "model.safetensors", "config.json"}
    return message


def test_a_push_is_one_commit_to_a_private_repository(hub: FakeHub, folder: Path) -> None:
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "optimizer.safetensors").write_text("moments")
    url = push(folder, "model", True, Silent())
    repository = hub.repositories[f"{OWNER}/model"]
    assert repository.private and url.startswith(f"{hub.endpoint}/{OWNER}/model/commit/")
    assert repository.commits == [{"README.md", "model.safetensors", "config.json"}]
    assert repository.files["model.safetensors"] == b"weights" and repository.files["README.md"].decode() == CARD


def test_a_later_export_replaces_the_former(hub: FakeHub, folder: Path) -> None:
    push(folder, "model", True, Silent())
    (folder / "model.safetensors").write_text("later weights")
    push(folder, "model", True, Silent())
    assert hub.repositories[f"{OWNER}/model"].files["model.safetensors"] == b"later weights"


def test_a_public_repository_is_created_only_on_request(hub: FakeHub, folder: Path) -> None:
    push(folder, "model", False, Silent())
    assert not hub.repositories[f"{OWNER}/model"].private
    assert "--no-hub_private_repo" in refusal(folder)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"pytorch_model.bin": b"x"}, "pytorch_model.bin"),
        ({"README.md": b"# written by hand"}, "README.md"),
        ({"README.md": CARD.replace("model", "edited", 1).encode()}, "README.md"),
        ({"config.json": b"{}"}, "without a card"),
    ],
)
def test_other_content_is_never_replaced(files: dict[str, bytes], words: str, hub: FakeHub, folder: Path) -> None:
    repository = Repository(private=True)
    repository.files |= files
    hub.repositories[f"{OWNER}/model"] = repository
    assert words in refusal(folder)
    assert not repository.commits and not any("preupload" in request for request in hub.requests)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/repos/create", 403, "may not write"),
        ("/api/repos/create", 401, "not valid"),
        ("/commit/", 403, "may not write"),
        ("/commit/", 412, "412"),
        ("^/lfs/", 403, "upload failed"),
        ("/objects/batch", 507, "507"),
        ("/api/validate-yaml", 400, "upload failed"),
    ],
)
def test_a_refusal_is_one_sentence(path: str, status: int, words: str, hub: FakeHub, folder: Path) -> None:
    hub.refused[path] = (status, f"refused, see https://host/?token={TOKEN}")
    assert words in refusal(folder)
    assert not any(repository.commits for repository in hub.repositories.values())


def test_a_repository_that_changes_meanwhile_is_left_alone(hub: FakeHub, folder: Path) -> None:
    hub.meanwhile = {"README.md": b"# of another upload"}
    assert "412" in refusal(folder)
    assert hub.repositories[f"{OWNER}/model"].files.keys() == {".gitattributes", "README.md"}


def test_without_a_connection(hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port, where nothing listens
    assert "cannot be reached" in refusal(folder)


def test_without_a_token_nothing_is_sent(
    hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    assert "HF_TOKEN" in refusal(folder) and not hub.requests
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        check_credentials()


@pytest.mark.parametrize(
    "name", ["", "a b", "a/b/c", "a//b", "/a", "a/", "a/..", "a/b--c", "-a/-b", "a/b.git", "a" * 97]
)
def test_a_name_that_no_repository_has_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="owner/name"):
        read(ExportConfig, [arguments({"model": "m", "output": tmp_path, "push_to_hub": name})], "")


@pytest.mark.parametrize(
    ("option", "word"), [("hub_token", "HF_TOKEN"), ("hub_strategy", "push_to_hub"), ("hub_revision", "main")]
)
def test_other_options_of_transformers_are_explained(option: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        resolve("sft", methods.find("sft"), {option: "x"})
