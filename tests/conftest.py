"""What every test shares: no network, one torch thread, tiny models built once."""

from __future__ import annotations

import os
from pathlib import Path

# Before anything imports torch or transformers: both read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"  # two threads on a busy machine are slower than one, and sums would depend on their number

import pytest
from tiny_templates import FAMILIES


@pytest.fixture(scope="session", params=FAMILIES)
def tiny_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny random model, once for every family; `from_pretrained` reads it.

    One family only: `@pytest.mark.parametrize("tiny_dir", ["llama"], indirect=True)`.
    """
    from tiny_models import save_tiny  # here: it imports torch, which most tests do not need

    return save_tiny(request.param, tmp_path_factory.mktemp("tiny") / request.param)
