"""Execute the notebooks of examples/ and store their outputs: `make notebooks`, or python -m recipes.notebooks NAME...

To run after a change of a notebook or of what it shows. The outputs are stored so that a forge shows them. What differs
between two machines without a change of the notebook is removed: cell ids, times, the interpreter's version, and what
libraries write to stderr (progress bars, warnings about the environment). A page as large as a report is not stored.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SECONDS = 600  # per cell; a notebook takes less than a minute on one idle core
MAX_HTML = 100_000  # characters of one output


def executed(path: Path, folder: Path) -> NotebookNode:
    """The notebook with the outputs of a new execution in `folder`, where its runs are written.

    Raises nbclient.exceptions.CellExecutionError for a cell that fails.
    """
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": folder}}
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", coalesce_streams=True, resources=where)
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    client.execute(env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"})
    return notebook


def tidied(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what differs between two machines, and without large pages."""
    for number, cell in enumerate(notebook.cells, 1):
        cell.id, cell.metadata = f"cell-{number}", NotebookNode()
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if len(output.get("data", {}).get("text/html", "")) > MAX_HTML:
                    del output.data["text/html"]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = NotebookNode(kernelspec=kernel, language_info={"name": "python"})
    notebook.nbformat_minor = 5
    return notebook


def main() -> None:
    names = sys.argv[1:] or sorted(path.stem for path in EXAMPLES.glob("*.ipynb"))
    for name in names:
        path = EXAMPLES / f"{name}.ipynb"
        with TemporaryDirectory() as folder:
            nbformat.write(tidied(executed(path, Path(folder))), path)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
