"""The notebooks: stored outputs are small and without errors, and a new execution gives the same kinds of outputs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from house.source import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
MAX_BYTES = 300_000
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/<])/(?:home|root|tmp|usr|var|work|Users|private)/")


def shape(notebook: Any) -> list[list[str]]:
    """For each code cell, its outputs without their values: the name of a stream, or the formats of a value."""
    return [
        [output.get("name") or " ".join(sorted(output["data"])) for output in cell["outputs"]]
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]


def test_the_docs_name_every_notebook() -> None:
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert {*re.findall(r"\(\.\./examples/(\w+\.ipynb)\)", page)} == {path.name for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert len(text.encode()) < MAX_BYTES
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)], "not executed from top to bottom"
    assert outputs and {output["output_type"] for output in outputs} <= {"stream", "execute_result", "display_data"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert not ABSOLUTE_PATH.search(json.dumps(outputs)), "a path of the machine that executed it"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_execution(path: Path, tmp_path: Path) -> None:
    """A cell that fails is an error; a cell with other kinds of outputs than those stored is not up to date."""
    from recipes.notebooks import executed, tidied  # here: the libraries of notebooks cost a second

    new = tidied(executed(path, tmp_path))
    assert shape(new) == shape(json.loads(path.read_text(encoding="utf-8"))), "make notebooks"
