"""The inputs of a run that the calling program holds in memory, as files of the run folder: rows and reward functions.

A file is named by the hash of its content: `data/train-HASH.jsonl`, `data/eval-HASH.jsonl`, `reward-HASH.py`,
`method-HASH.py`. Equal inputs have equal names, and the run can be resumed from its folder alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from obverse.api.function_source import FunctionFile
from obverse.api.reward_source import Reward, reward_files
from obverse.api.rows import Rows, by_index, is_name, json_lines
from obverse.errors import ConfigError, DataError
from obverse.runtime.file_writes import storage_errors, write_atomically
from obverse.runtime.output_dir import DATA_FOLDER

Dataset = str | Path | Rows

REWARD_OPTIONS = ("reward", "verifier", "reward_funcs")  # names of one option; `reward_funcs` is TRL's
ROWS = "rows"  # the data set's part of the name of a run folder
STEMS = {"dataset": "train", "eval_dataset": "eval"}


@dataclass(frozen=True)
class Inputs:
    """The data sets and rewards of a call: options that name them, and files to be written."""

    names: Mapping[str, str] = field(default_factory=dict)  # data sets that are given by name
    tables: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # by option, file name and text of rows
    rewards: Sequence[FunctionFile] = ()
    methods: Sequence[FunctionFile] = ()  # those of notebook cells

    @property
    def files(self) -> dict[str, str]:
        """The text of every file by its name in the run folder."""
        functions = [*self.rewards, *self.methods]
        return dict(self.tables.values()) | {function.file: function.text for function in functions if function.text}

    def options(self, folder: Path | None = None) -> dict[str, str]:
        """The options that name the inputs, once they are in `folder`; None: before there is one."""
        tables = {option: ROWS if folder is None else str(folder / name) for option, (name, _) in self.tables.items()}
        rewards = ",".join(reward.spec(folder or Path(ROWS)) for reward in self.rewards)
        return {**self.names, **tables, **({"verifier": rewards} if rewards else {})}

    @contextmanager
    def stored(self, folder: Path, is_first: bool = True) -> Iterator[None]:
        """Write the files into a run folder. If the block fails before the run has stored them, they are removed.

        Messages about bad rows name the row in the list that was passed, counted from 0. `is_first`: whether this
        process removes files; the other ranks only write the same content.
        """
        new = [name for name in self.files if not (folder / name).exists()]
        with storage_errors(folder, "choose another output_dir"):
            for name, text in self.files.items():
                write_atomically(folder / name, text.encode())
        try:
            yield
        except BaseException as error:
            if is_first:
                _remove_unused(folder, new)
            if isinstance(error, DataError):
                for option, (name, _) in self.tables.items():
                    error.args = (by_index(str(error), str(folder / name), option),)
            raise


def inputs_of(options: Mapping[str, Any], stems: Mapping[str, str] = STEMS) -> tuple[Inputs, dict[str, Any]]:
    """Return the inputs among the arguments of a call, and the other arguments; `stems` are names of files by option.

    Raises ConfigError or DataError for inputs that cannot be used.
    """
    remaining = {name: value for name, value in options.items() if name not in (*stems, *REWARD_OPTIONS)}
    given = {name: options[name] for name in stems if options.get(name) is not None}
    num_rows = options.get("num_problems")
    tables = {
        option: _named(stems[option], json_lines(dataset, option, num_rows if option == "dataset" else None))
        for option, dataset in given.items()
        if not is_name(dataset)
    }
    names = {option: str(dataset) for option, dataset in given.items() if is_name(dataset)}
    return Inputs(names, tables, rewards_of(options)), remaining


def rewards_of(options: Mapping[str, Any]) -> list[FunctionFile]:
    """Return the rewards among the arguments of a call. Raises ConfigError if two arguments give them."""
    given = [name for name in REWARD_OPTIONS if options.get(name) is not None]
    if len(given) > 1:
        raise ConfigError(f"{given[0]} and {given[1]} are one option: give one of them")
    rewards: list[FunctionFile] = []
    for name in given:
        value: Reward | Sequence[Reward] = options[name]
        rewards = reward_files(value)
    return rewards


def _named(stem: str, text: str) -> tuple[str, str]:
    return f"{DATA_FOLDER}/{stem}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl", text


def _remove_unused(folder: Path, names: Sequence[str]) -> None:
    """Remove files that the run's configuration does not name, and folders that are empty then."""
    configs = [folder / name for name in ("config.yaml", "comparison.yaml") if (folder / name).is_file()]
    stored = "".join(path.read_text(encoding="utf-8") for path in configs)
    for name in names:
        if name not in stored:
            (folder / name).unlink(missing_ok=True)
    for path in (folder / DATA_FOLDER, folder):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
