"""The samples of an evaluation on the disk: written as they come, found again at the next start, graded anew at will.

A folder holds `asked.json` (what fixes a sample beside its problem and seed), `problems.jsonl` and `samples.jsonl.gz`.
The last is a chain of sealed gzip members, one per write (obverse.runtime.integrity), so that a kill costs at most the
one being written. One program at a time writes there, and nothing that was damaged is ever written over.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from obverse.errors import ConfigError, DamageError, StorageError
from obverse.rewards.versions import without_folders
from obverse.runtime import checkpoint, fingerprint
from obverse.runtime import integrity as sealing
from obverse.runtime.file_writes import exclusive_lock, storage_errors
from obverse.runtime.integrity import FIRST, add_seal
from obverse.runtime.json_lines import parse
from obverse.runtime.run_dir import RunFolder
from obverse.types import Finish, GradeResult, ModelInput, Problem, to_json

SCHEMA = 2
ASKED, PROBLEMS, SAMPLES, RESULT = "asked.json", "problems.jsonl", "samples.jsonl.gz", "result.json"
LOCK = "eval.lock"
ADVICE = "give another --output"
ROOM = "make room, and the same command goes on there"


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
        cls, seed: int, number: int, finish: Finish, num_tokens: int, grade: GradeResult, answer: str | None
    ) -> Graded:
        return cls(
            seed,
            number,
            finish,
            num_tokens,
            grade.correct,
            grade.reward,
            grade.reason,
            grade.formatted,
            answer,
        )

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Graded:
        return cls(**{name: row[name] for name in cls.__slots__})


class Row(TypedDict):
    """A line of samples.jsonl.gz, as far as it is read again."""

    problem: str
    digest: str
    round: int
    seed: int
    number: int
    finish: Finish
    num_tokens: int
    correct: bool | None
    reward: float
    reason: str
    formatted: bool
    answer: str | None
    text: str


class Asked(TypedDict):
    """A line of problems.jsonl, as far as it is read again."""

    id: str
    prompt: str | list[dict[str, str]]
    verifier: str | None
    meta: dict[str, Any]
    digest: str


_ROW, _ASKED = TypeAdapter(Row), TypeAdapter(Asked)


def is_of(kind: TypeAdapter[Any], row: Any) -> bool:
    """Whether a row has all fields of a kind, as they must be."""
    try:
        kind.validate_python(row, strict=True)
    except ValidationError:
        return False
    return True


def sample_row(
    problem: Problem, digest: str, round_seed: int, graded: Graded, text: str, grader: str = ""
) -> dict[str, Any]:
    """A line of samples.jsonl.gz; `grader` names the version of what gave the verdict."""
    row = {"problem": problem.id, "digest": digest, "round": round_seed, **asdict(graded)}
    return {**row, "grader": grader, "text": text}


class Store:
    """The folder of one evaluation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seal, self.size = FIRST, 0  # of what stands in the file of samples, once `begin` has read it

    def writing(self) -> AbstractContextManager[None]:
        """Keep other programs out for a block; InUseError, which names the one that writes there."""
        return exclusive_lock(self.folder / LOCK, f"evaluation {self.folder}", ADVICE)

    def begin(self, asked: Mapping[str, Any]) -> list[str]:
        """Make the folder, or go on in one whose samples were asked for in the same way; what was mended, in words.

        Raises ConfigError when it holds samples of another model, law, template or verifier, DamageError when a file of
        it is not what was written, StorageError when it cannot be written.
        """
        RunFolder(self.folder).create()
        wanted = json.loads(json.dumps(asked))
        there = self.asked()
        if there is not None and (self.folder / SAMPLES).is_file() and content(there) != content(wanted):
            changed = "; ".join(differences(content(there), content(wanted)))
            raise ConfigError(
                f"{self.folder} holds samples that were asked for in another way ({changed}): "
                "give another --output, or remove the folder"
            )
        notes = self.mend()
        self.write_json(ASKED, {**wanted, sealing.SCHEMA: SCHEMA})
        return notes

    def write_json(self, name: str, value: Mapping[str, Any]) -> Path:
        """Write an object with its seal, whole or not at all. Raises StorageError when the disk refuses."""
        with storage_errors(self.folder / name, ROOM):
            return RunFolder(self.folder).write_json(name, add_seal(value))

    def asked(self) -> dict[str, Any] | None:
        """What the samples were asked for with; None where nothing was. DamageError where that cannot be known."""
        path = self.folder / ASKED
        if not path.exists():
            if (self.folder / SAMPLES).exists():
                raise DamageError(f"{path} is missing, so the samples beside it are of an unknown model: put it back")
            return None
        found = sealing.read_sealed(path)
        found.pop(sealing.SCHEMA, None)
        return found

    def mend(self) -> list[str]:
        """Cut off what a kill left unfinished at the end of the samples, and say so; DamageError for anything else."""
        path = self.folder / SAMPLES
        self.seal, self.size = FIRST, 0
        if not path.exists():
            return []
        for each in sealing.read_members(path):
            self.seal, self.size = each.seal, each.end
        rest = path.stat().st_size - self.size
        if not rest:
            return []
        os.truncate(path, self.size)
        return [f"{path}: the last {rest:,} bytes were a write that did not end; they are cut off, and drawn again"]

    def write_problems(self, problems: Mapping[str, Problem]) -> None:
        """All that grading needs of the problems, by digest; what JSON cannot say is written as text."""
        lines = []
        for name, each in problems.items():
            row = {"id": each.id, "prompt": each.prompt, "answer": each.answer, "verifier": each.verifier}
            row |= {"demonstration": each.demonstration}
            row = json.loads(json.dumps({**row, "meta": dict(each.meta), "digest": name}, default=str))
            lines.append(json.dumps(add_seal(row)) + "\n")
        with storage_errors(self.folder / PROBLEMS, ROOM):
            RunFolder(self.folder).write_text(PROBLEMS, "".join(lines))

    def problems(self) -> dict[str, Problem]:
        """The problems as they were written, by digest. DamageError where the file is not what was written."""
        path = self.folder / PROBLEMS
        rows = sealing.read_sealed_rows(path)
        for number, row in enumerate(rows, 1):
            if not is_of(_ASKED, row):
                raise DamageError(f"{path}:{number} is no problem of an evaluation: {sealing.REMEDY}")
        if len({row["digest"] for row in rows}) < len(rows):
            raise DamageError(f"{path}: a problem stands there twice: {sealing.REMEDY}")
        try:
            rows = [{**row, "demonstration": tuple(row.get("demonstration", ()))} for row in rows]
            return {row.pop("digest"): Problem(**row) for row in rows}
        except TypeError as error:
            raise DamageError(f"{path}: a row is no problem of an evaluation ({error}): put the file back") from None

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows, all of them or none. Raises StorageError, with the file as it was, when the disk refuses."""
        data, seal = sealing.pack_member(as_bytes(rows), self.seal)
        path = self.folder / SAMPLES
        try:
            with path.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if self.size:
                os.truncate(path, self.size)
            else:
                path.unlink(missing_ok=True)
            raise StorageError(
                f"{path} cannot be written: {error.strerror}; the samples before are whole: {ROOM}"
            ) from error
        self.seal, self.size = seal, self.size + len(data)

    def rewrite(self, batches: Iterable[Sequence[Mapping[str, Any]]]) -> None:
        """Put other rows in the place of all that there are, the whole or not at all; StorageError as of `append`."""
        path = self.folder / SAMPLES
        part = path.with_name(f".{SAMPLES}.part")
        seal, size = FIRST, 0
        with storage_errors(path, ROOM):
            try:
                with part.open("wb") as file:
                    for batch in batches:
                        data, seal = sealing.pack_member(as_bytes(batch), seal)
                        size += file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
        self.seal, self.size = seal, size

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every whole row, in the order of writing. DamageError where a row is not what was written."""
        path = self.folder / SAMPLES
        if path.is_file():
            for each in sealing.read_members(path):
                for line in each.data.split(b"\n"):
                    if line:
                        yield self._row(line, path)

    def _row(self, line: bytes, path: Path) -> dict[str, Any]:
        row = parse(line.decode("utf-8", "surrogatepass"), str(path), DamageError)
        if not is_of(_ROW, row):
            raise DamageError(f"{path} holds what is no sample of an evaluation: {sealing.REMEDY}")
        return dict(row)

    def stored(self) -> dict[str, dict[int, Graded]]:
        """What there is already: by digest, by seed."""
        found: dict[str, dict[int, Graded]] = {}
        for row in self.rows():
            found.setdefault(row["digest"], {})[row["seed"]] = Graded.read(row)
        return found

    def belongs_to(self, source: str, digests: Collection[str] = ()) -> None:
        """Raise ConfigError where the folder has the results of another data set, of the same name.

        It is the same one if the problems of one of both, by their digests, are all among the other's.
        """
        path = self.folder / RESULT
        there = str(sealing.read_sealed(path).get("dataset", source)) if path.exists() else source
        if Path(there).resolve() == Path(source).resolve():
            return
        stored = set(self.problems()) if (self.folder / PROBLEMS).exists() else set()
        now = set(digests)
        if not (now and stored and (now <= stored or stored <= now)):
            raise ConfigError(f"{self.folder} holds results on {there}, and this is {source}: {ADVICE}")


def as_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as lines of JSON."""
    return "".join(to_json(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def content(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for without where it lay: a template's name, the folders of verifiers."""
    found = {name: dict(value) if isinstance(value, dict) else value for name, value in asked.items()}
    found.get("template", {}).pop("name", None)
    return {**found, "verifier": without_folders(str(found["verifier"]))} if found.get("verifier") else found


def digest(problem: Problem, prompt: ModelInput) -> str:
    """Names a problem by what is sent and what is right: with another template or answer it is another one.

    The verifier counts by its name; which version of it gave a verdict stands in each row.
    """
    verifier = problem.verifier and without_folders(problem.verifier)
    text = json.dumps([problem.id, prompt.token_ids, problem.answer, verifier], default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def identity(place: str, revision: str | None = None) -> str:
    """Names the weights at a place, so that samples of others are never taken for theirs.

    A whole checkpoint is named by its manifest, any other folder by all of its model's files, a hub name by itself and
    its revision.
    """
    folder = Path(place)
    if not folder.is_dir():
        return f"{place}@{revision}" if revision else place
    if (folder / checkpoint.MANIFEST).is_file() and checkpoint.find_damage(folder) is None:
        return hashlib.blake2b((folder / checkpoint.MANIFEST).read_bytes(), digest_size=8).hexdigest()
    return fingerprint.model(folder)


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
