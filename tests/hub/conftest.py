"""The fixture `hub`: a hub on this machine, which huggingface_hub uses in place of the real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub.fake_hub import TOKEN, FakeHub
from huggingface_hub import constants


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A running hub without repositories; huggingface_hub is online, with a token and an empty cache."""
    fake = FakeHub()
    server = fake.start()
    template = fake.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    # the library reads these from the environment when it is imported, which other tests have done already
    for name, value in (
        ("ENDPOINT", fake.endpoint),
        ("HUGGINGFACE_CO_URL_TEMPLATE", template),
        ("HF_HUB_OFFLINE", False),
        ("HF_HUB_DISABLE_XET", True),  # the fake hub has the protocol of LFS
        ("HF_HUB_CACHE", str(tmp_path / "hub-cache")),
    ):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield fake
    server.shutdown()
    server.server_close()
