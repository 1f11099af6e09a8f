"""Freed memory of tensors is used again, and settings of the user are not overridden."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from obverse.models.cpu_allocator import SETTINGS, keep_freed_memory

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")


@glibc
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_the_user_are_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory.__wrapped__()  # without the cache


@glibc
def test_intermediate_tensors_use_freed_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    assert keep_freed_memory.__wrapped__()
    state = torch.ones(2**21)  # 8 MB, 2,048 pages

    def page_faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            (state * 2 + state * 3).exp()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    page_faults()
    assert page_faults() < 2048  # 20 times 4 tensors of 2,048 pages without the setting
