"""The samples of an evaluation on the disk: written as they come, found again at the next start, graded anew at will.

A folder holds `asked.json` (what fixes a sample beside its problem and seed), `problems.jsonl` and `samples.jsonl.gz`.
The last is one gzip member per write, so that a kill costs at most the one being written.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from obverse import checkpoint
from obverse.errors import ConfigError, DataError
from obverse.records import Finish, Problem, Verdict, to_json
from obverse.runlog import RunFolder

SCHEMA = 1
ASKED, PROBLEMS, SAMPLES = "asked.json", "problems.jsonl", "samples.jsonl.gz"
BLOCK = 2**20  # bytes read at a time
NUM_PROBES, PROBE = 64, 2**16  # of a weights file, to tell it from another


@dataclass(frozen=True, slots=True)
class Graded:
    """A sample without its text: what scores are made of."""

    seed: int
    number: int
    finish: Finish
    num_tokens: int
    correct: bool | None
    reward: float
    reason: str
    formatted: bool
    answer: str | None

    @classmethod
    def of(
        cls, seed: int, number: int, finish: Finish, num_tokens: int, verdict: Verdict, answer: str | None
    ) -> Graded:
        return cls(
            seed,
            number,
            finish,
            num_tokens,
            verdict.correct,
            verdict.reward,
            verdict.reason,
            verdict.formatted,
            answer,
        )

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Graded:
        return cls(**{name: row[name] for name in cls.__slots__})


def sample_row(problem: Problem, digest: str, round_seed: int, graded: Graded, text: str) -> dict[str, Any]:
    """A line of samples.jsonl.gz."""
    return {"problem": problem.id, "digest": digest, "round": round_seed, **asdict(graded), "text": text}


class Store:
    """The folder of one evaluation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, asked: Mapping[str, Any]) -> None:
        """Make the folder, or go on in one whose samples were asked for in the same way.

        Raises ConfigError when it holds samples of another model, law, template or verifier, StorageError when it
        cannot be written.
        """
        files = RunFolder(self.folder)
        files.create()
        wanted = json.loads(json.dumps({"schema": SCHEMA, **asked}))
        there = read_json(self.folder / ASKED) if (self.folder / ASKED).is_file() else None
        if there is not None and (self.folder / SAMPLES).is_file() and there != wanted:
            changed = "; ".join(differences(there, wanted))
            raise ConfigError(
                f"{self.folder} holds samples that were asked for in another way ({changed}): "
                "give another --output, or remove the folder"
            )
        files.write_json(ASKED, wanted)
        self.mend()

    def mend(self) -> None:
        """Cut off what a kill left unfinished at the end of the samples."""
        path = self.folder / SAMPLES
        if not path.is_file():
            return
        end = 0
        for end, _ in members(path):  # noqa: B007
            pass
        if end < path.stat().st_size:
            os.truncate(path, end)

    def write_problems(self, problems: Mapping[str, Problem]) -> None:
        """All that grading needs of the problems, by digest; what JSON cannot say is written as text."""
        lines = []
        for name, each in problems.items():
            row = {"id": each.id, "prompt": each.prompt, "answer": each.answer, "verifier": each.verifier}
            row |= {"meta": dict(each.meta), "digest": name}
            lines.append(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        RunFolder(self.folder).write_text(PROBLEMS, "".join(lines))

    def problems(self) -> dict[str, Problem]:
        """The problems as they were written, by digest."""
        lines = (self.folder / PROBLEMS).read_bytes().splitlines()  # of bytes: Unicode has more ends of lines
        return {(row := json.loads(line)).pop("digest"): Problem(**row) for line in lines}

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows, all of them or, to whoever reads, none."""
        data = gzip.compress("".join(to_json(row) + "\n" for row in rows).encode("utf-8", "surrogatepass"), mtime=0)
        with (self.folder / SAMPLES).open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every whole row, in the order of writing."""
        path = self.folder / SAMPLES
        if path.is_file():
            for _, data in members(path):
                for line in data.splitlines():  # of bytes: a text's own line ends are escaped, but for Unicode's
                    yield json.loads(line.decode("utf-8", "surrogatepass"))

    def stored(self) -> dict[str, dict[int, Graded]]:
        """What there is already: by digest, by seed."""
        found: dict[str, dict[int, Graded]] = {}
        for row in self.rows():
            found.setdefault(row["digest"], {})[row["seed"]] = Graded.read(row)
        return found


def members(path: Path) -> Iterator[tuple[int, bytes]]:
    """The whole gzip members of a file: where each ends, and what it holds. Stops at one that is cut off or damaged."""
    with path.open("rb") as file:
        end, parts, reader = 0, [], zlib.decompressobj(31)
        block = file.read(BLOCK)
        while block:
            try:
                parts.append(reader.decompress(block))
            except zlib.error:
                return
            if not reader.eof:
                block = file.read(BLOCK)
                continue
            block = reader.unused_data or file.read(BLOCK)
            end = file.tell() - len(block)
            yield end, b"".join(parts)
            parts, reader = [], zlib.decompressobj(31)


def digest(problem: Problem, prompt_ids: Sequence[int]) -> str:
    """Names a problem by what is sent and what is right: with another template or answer it is another one."""
    text = json.dumps([problem.id, list(prompt_ids), problem.answer, problem.verifier], default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def identity(place: str, revision: str | None = None) -> str:
    """Names the weights at a place, so that samples of others are never taken for theirs.

    A checkpoint is named by its manifest, a folder by its configuration and by probes all over its weights (training
    changes every one of them), a hub name by itself and its revision.
    """
    folder, found = Path(place), hashlib.blake2b(digest_size=8)
    if not folder.is_dir():
        return f"{place}@{revision}" if revision else place
    if (folder / checkpoint.MANIFEST).is_file():
        found.update((folder / checkpoint.MANIFEST).read_bytes())
        return found.hexdigest()
    for path in sorted(folder.iterdir()):
        if path.suffix == ".json":
            found.update(path.name.encode() + path.read_bytes())
        elif path.suffix in (".safetensors", ".bin"):
            size = path.stat().st_size
            found.update(f"{path.name} {size}".encode())
            with path.open("rb") as file:
                for number in range(NUM_PROBES):
                    file.seek(number * max(0, size - PROBE) // (NUM_PROBES - 1))
                    found.update(file.read(PROBE))
    return found.hexdigest()


def read_json(path: Path) -> Any:
    """What a file of an evaluation holds. Raises DataError when it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable result of obverse eval ({error})") from None


def differences(there: Mapping[str, Any], wanted: Mapping[str, Any], before: str = "") -> list[str]:
    """What differs, as `law.temperature 1.0 there, 0.6 now`."""
    found = []
    for name in dict.fromkeys([*there, *wanted]):
        old, new = there.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{before}{name}.")
        elif old != new:
            found.append(f"{before}{name} {str(old)[:60]} there, {str(new)[:60]} now")
    return found
