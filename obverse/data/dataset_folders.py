"""The files of a split in a folder: plain files, the layout of hub repositories, or that of `save_to_disk`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from obverse.data.file_formats import kind_of, listed
from obverse.data.layouts import PACKINGS
from obverse.errors import ConfigError, DataError
from obverse.runtime.json_lines import read_object

SPLITS = ("train", "test", "validation")
OTHER_NAMES = {"valid": "validation", "dev": "validation", "val": "validation"}
ABOUT = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})  # files without rows
MAX_README = 2**20  # bytes
MAX_DEPTH = 3  # of nested folders

_WORD = re.compile("[A-Za-z]+")
_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


def split_files(folder: Path, split: str) -> list[Path]:
    """Return the data files of a split, in order.

    Errors: ConfigError for an unknown split, DataError if the folder has no files of it, or files of several kinds.
    """
    if (folder / "dataset_dict.json").is_file():
        names = read_object(folder / "dataset_dict.json").get("splits")
        if not isinstance(names, list) or split not in names:
            raise DataError(f"{folder}: there is no split {split!r}; its dataset_dict.json has {names!r:.200}")
        return _saved(folder / split, split)
    if (folder / "state.json").is_file():
        return _saved(folder, split)
    if (declared := _declared(folder)) is not None:
        if split not in declared:
            raise DataError(f"{folder}: there is no split {split!r}; its README.md has {', '.join(declared)}")
        return _together(folder, declared[split])
    if split not in SPLITS:
        raise ConfigError(f"{folder}: a folder has no split {split!r}; choose one of {', '.join(SPLITS)}")
    return _named(folder, _together(folder, _inside(folder)), split)


def splits_of(folder: Path) -> list[str]:
    """Return the splits of a folder; empty if its files are a single split."""
    if (folder / "dataset_dict.json").is_file():
        names = read_object(folder / "dataset_dict.json").get("splits")
        return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    if (folder / "state.json").is_file():
        return []
    if (declared := _declared(folder)) is not None:
        return list(declared)
    result = set().union(*map(_words, [item.relative_to(folder) for item in _inside(folder)]))
    return [split for split in SPLITS if split in result]


def _saved(folder: Path, split: str) -> list[Path]:
    """Return the files of a data set that was saved by `save_to_disk`."""
    state = read_object(folder / "state.json")
    files = state.get("_data_files")
    stored = state.get("_split")
    if isinstance(stored, str) and stored in SPLITS and stored != split:
        raise DataError(f"{folder}: it holds the split {stored!r}, not {split!r}")
    names = [item.get("filename") if isinstance(item, dict) else None for item in files or [None]]
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise DataError(f"{folder}: state.json does not list data files; save the data set again")
    return [folder / str(name) for name in names]


def _declared(folder: Path) -> dict[str, list[Path]] | None:
    """Return the files by split that the README.md of a hub repository declares; None without a declaration.

    Errors: DataError if it declares several data sets without a default, or files that do not exist.
    """
    readme = folder / "README.md"
    if not readme.is_file() or readme.stat().st_size > MAX_README:
        return None
    front = _FRONT.match(readme.read_text(encoding="utf-8", errors="replace"))
    try:
        about = yaml.safe_load(front[1]) if front else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    configs = about.get("configs") if isinstance(about, dict) else None
    usable = [item for item in configs if isinstance(item, dict)] if isinstance(configs, list) else []
    usable = [item for item in usable if item.get("data_files")]
    if not usable:
        return None
    default = [item for item in usable if item.get("default") is True or item.get("config_name") == "default"]
    if len(usable) > 1 and len(default) != 1:
        names = ", ".join(str(item.get("config_name")) for item in usable[:10])
        raise DataError(f"{folder}: its README.md has several data sets ({names}); name a file or a folder of one")
    chosen = (default or usable)[0]
    return {split: _matching(folder, patterns) for split, patterns in _patterns(chosen["data_files"])}


def _patterns(declared: Any) -> Iterator[tuple[str, list[str]]]:
    """Yield the splits and their patterns, from any of the notations of a README.md."""
    if isinstance(declared, Mapping):
        declared = [{"split": split, "path": path} for split, path in declared.items()]
    if isinstance(declared, str) or (isinstance(declared, list) and all(isinstance(entry, str) for entry in declared)):
        declared = [{"split": "train", "path": declared}]
    for entry in declared if isinstance(declared, list) else []:
        if isinstance(entry, Mapping) and isinstance(entry.get("split"), str):
            paths = entry.get("path")
            yield entry["split"], [paths] if isinstance(paths, str) else list(map(str, paths or []))


def _matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    result: list[Path] = []
    for pattern in patterns:
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise DataError(f"{folder}: its README.md names {pattern!r:.80}, which is not inside; name a file")
        matches = sorted(path for path in folder.glob(pattern) if not path.is_dir())
        if not matches:
            raise DataError(f"{folder}: its README.md names {pattern!r:.80}, and there is no such file")
        result += [path for path in matches if path not in result]
    return result


def _inside(folder: Path, depth: int = 0) -> list[Path]:
    """Return the data files of a folder or, without any, of its `data` folder, its splits' folders or its only folder.

    Broken links are included, so that reading them is an error rather than that they are skipped.
    """
    entries = sorted(item for item in folder.iterdir() if not item.name.startswith("."))
    files = [item for item in entries if kind_of(item) and item.name not in ABOUT and not item.is_dir()]
    if files or depth == MAX_DEPTH:
        return files
    folders = [item for item in entries if item.is_dir()]
    searched = [item for item in folders if item.name == "data"] or [
        item for item in folders if _words(Path(item.name))
    ]
    searched = searched or folders[:1] * (len(folders) == 1)
    result = [file for item in searched for file in _inside(item, depth + 1)]
    if not result and depth == 0:
        names = ", ".join(item.name for item in folders[:5])
        inside = f"; there are folders in it: {names}" if names else ""
        raise DataError(f"{folder}: no {listed()} file in this folder{inside}")
    return result


def _together(folder: Path, files: list[Path]) -> list[Path]:
    """Return the files. Errors: DataError if they are of several kinds, or a file exists both compressed and plain."""
    kinds = sorted({kind_of(file) or file.suffix or "no suffix" for file in files})
    if len(kinds) > 1:
        raise DataError(
            f"{folder}: files of several kinds ({', '.join(kinds)}); name one file, or move the others away"
        )
    if None in map(kind_of, files):
        raise DataError(f"{files[0]}: {kinds[0]} is not a kind of data; there are {listed()}")
    plain: dict[Path, Path] = {}
    for file in files:
        unpacked = file.with_name(
            next((file.name[: -len(end)] for end in PACKINGS if file.name.endswith(end)), file.name)
        )
        if unpacked in plain:
            raise DataError(f"{folder}: {plain[unpacked].name} and {file.name} are one file twice; move one away")
        plain[unpacked] = file
    return files


def _words(path: Path) -> set[str]:
    """Return the splits whose names are words in a path."""
    result = {word.lower() for part in path.parts for word in _WORD.findall(part)}
    return {OTHER_NAMES.get(word, word) for word in result} & {*SPLITS}


def _named(folder: Path, files: list[Path], split: str) -> list[Path]:
    """Return the files with the split's name in their path, or all files if no path has a split's name."""
    splits_by_file = {file: _words(file.relative_to(folder)) for file in files}
    if not any(splits_by_file.values()) and split == "train":
        return files
    chosen = [file for file in files if split in splits_by_file[file]]
    if not chosen:
        names = ", ".join(file.name for file in files[:5])
        raise DataError(f"{folder}: no file has {split!r} in its name ({names}); rename one or name a file")
    if ambiguous := [file for file in chosen if len(splits_by_file[file]) > 1]:
        words = " and ".join(sorted(splits_by_file[ambiguous[0]]))
        raise DataError(f"{ambiguous[0]}: its name has {words}; rename it or name a file")
    return chosen
