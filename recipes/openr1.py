"""Training data of the HPT recipes: `Elliott/Openr1-Math-46k-8192` from the hub, without its system prompt.

    python -m recipes.openr1 --output_dir data

46,000 problems, each with an answer and DeepSeek-R1's solution of at most 8,192 tokens (2504.14945, section 4.1). HPT's
authors drop the first message of every prompt, the system prompt; nothing else is changed. Needs a network and the
library `datasets` (pip install 'obverse[data]').
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HUB = "Elliott/Openr1-Math-46k-8192"


def without_system(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row without the system messages of its prompt."""
    return {**row, "prompt": [message for message in row["prompt"] if message["role"] != "system"]}


def main() -> None:
    """Write openr1.parquet into the folder."""
    import datasets  # takes seconds, and is an extra of the installation

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path("data"))
    folder = parser.parse_args().output_dir
    folder.mkdir(parents=True, exist_ok=True)
    rows = datasets.load_dataset(HUB, split="train").map(without_system)
    rows.to_parquet(str(folder / "openr1.parquet"))
    print(f"{len(rows):,} rows in {folder / 'openr1.parquet'}")


if __name__ == "__main__":
    main()
