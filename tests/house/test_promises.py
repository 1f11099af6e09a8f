"""What an extra, the doctor or an option promises is used by something."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from house.source import ROOT

from obverse.cli import doctor
from obverse.config import analyze as config_analysis
from obverse.config import commands as config_commands
from obverse.config import compare, fields
from obverse.config import eval as config_eval
from obverse.config import train as config
from obverse.config.fields import Options

SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "obverse").rglob("*.py"))}
SCHEMAS = (config, config_analysis, config_commands, config_eval)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
FOR_DEVELOPERS = {"dev", "docs", "notebooks", "parity"}  # what make installs


def imported(module: str) -> bool:
    """Whether some module but the doctor imports it, or asks whether it is installed for a library that does."""
    asks = rf"(?:import_module|find_spec|installed)\(\"{module}\b"
    pattern = re.compile(rf"^\s*(?:import|from) {module}\b|{asks}", re.MULTILINE)
    return any(pattern.search(text) for path, text in SOURCES.items() if path.stem != "doctor")


@pytest.mark.parametrize(
    "package",
    [re.split(r"[><=;\[ ]", text)[0] for name, each in EXTRAS.items() if name not in FOR_DEVELOPERS for text in each],
)
def test_an_extra_brings_what_is_imported(package: str) -> None:
    assert imported(package.replace("-", "_"))


@pytest.mark.parametrize("package", [name for name in doctor.OPTIONAL if name != "vllm"])  # it is started, not imported
def test_the_doctor_looks_for_what_is_imported(package: str) -> None:
    assert imported(package)


def test_every_option_is_read_somewhere() -> None:
    made = [value for module in (*SCHEMAS, compare) for value in vars(module).values()]
    schemas = [each for each in made if isinstance(each, type) and issubclass(each, Options)]
    names = {name for schema in schemas for name in schema.model_fields}
    declaring = {Path(module.__file__ or "") for module in (*SCHEMAS, compare, fields)}
    properties = {"tokens_at_once": "micro_batch_tokens", "updates_per_step": "num_iterations num_mini_batches"}
    properties |= {"positions": "rope_theta max_position_embeddings", "num_samples": "k num_generations"}
    readers = "\n".join(text for path, text in SOURCES.items() if path not in declaring)
    names -= {name for read, parts in properties.items() if f".{read}" in readers for name in parts.split()}
    assert len(names) > 100
    assert not [name for name in sorted(names) if not re.search(rf"\.{name}\b|\"{name}\"|={name}\b", readers)]
