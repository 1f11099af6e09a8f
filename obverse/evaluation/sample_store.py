"""Samples of an evaluation on disk: appended while sampling, reused by a later start, and graded again on request.

A folder contains `asked.json` (everything that determines a sample except its problem and seed), `problems.jsonl` and
`samples.jsonl.gz`. The latter is a chain of sealed gzip members, one per write (obverse.runtime.integrity), so that a
kill loses at most the member that is being written. One program at a time writes to a folder, and damaged files are
never overwritten.
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
from obverse.runtime import fingerprint, manifest
from obverse.runtime import integrity as sealing
from obverse.runtime.file_writes import exclusive_lock, storage_errors
from obverse.runtime.integrity import FIRST, add_seal
from obverse.runtime.json_lines import parse
from obverse.runtime.run_dir import RunFolder
from obverse.types import Finish, GradeResult, ModelInput, Problem, to_json

SCHEMA = 2
REQUEST, PROBLEMS, SAMPLES, RESULT = "asked.json", "problems.jsonl", "samples.jsonl.gz", "result.json"
LOCK = "eval.lock"
OTHER_OUTPUT = "give another --output"
MAKE_SPACE = "free some space and repeat the command to continue"


@dataclass(frozen=True, slots=True)
class GradedSample:
    """A sample with its grade, without its text."""

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
    ) -> GradedSample:
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
    def read(cls, row: Mapping[str, Any]) -> GradedSample:
        return cls(**{name: row[name] for name in cls.__slots__})


class SampleRow(TypedDict):
    """The fields of a line of samples.jsonl.gz that are read back."""

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


class ProblemRow(TypedDict):
    """The fields of a line of problems.jsonl that are read back."""

    id: str
    prompt: str | list[dict[str, str]]
    verifier: str | None
    meta: dict[str, Any]
    digest: str


_SAMPLE_SCHEMA, _PROBLEM_SCHEMA = TypeAdapter(SampleRow), TypeAdapter(ProblemRow)


def is_valid(schema: TypeAdapter[Any], row: Any) -> bool:
    """Return whether a row has all fields of a schema with the right types."""
    try:
        schema.validate_python(row, strict=True)
    except ValidationError:
        return False
    return True


def sample_row(
    problem: Problem, digest: str, round_seed: int, graded: GradedSample, text: str, grader: str = ""
) -> dict[str, Any]:
    """Return a line of samples.jsonl.gz; `grader` is the `grader_version` that gave the grade."""
    row = {"problem": problem.id, "digest": digest, "round": round_seed, **asdict(graded)}
    return {**row, "grader": grader, "text": text}


class SampleStore:
    """The folder of one evaluation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seal, self.size = FIRST, 0  # of the file of samples, after `begin` has read it

    def writing(self) -> AbstractContextManager[None]:
        """Lock the folder for a block. Raises InUseError, which names the other program, if it is locked."""
        return exclusive_lock(self.folder / LOCK, f"evaluation {self.folder}", OTHER_OUTPUT)

    def begin(self, request: Mapping[str, Any]) -> list[str]:
        """Create the folder, or continue one with samples of the same request; return notes on repairs.

        Raises ConfigError if it has samples of another model, template, verifier or other sampling parameters,
        DamageError if a file in it was changed, StorageError if it cannot be written.
        """
        RunFolder(self.folder).create()
        new_request = json.loads(json.dumps(request))
        stored = self.stored_request()
        if stored is not None and (self.folder / SAMPLES).is_file() and comparable(stored) != comparable(new_request):
            changed = "; ".join(differences(comparable(stored), comparable(new_request)))
            raise ConfigError(
                f"{self.folder} holds samples of another request ({changed}): "
                "give another --output, or remove the folder"
            )
        notes = self.truncate_unfinished()
        self.write_json(REQUEST, {**new_request, sealing.SCHEMA: SCHEMA})
        return notes

    def write_json(self, name: str, value: Mapping[str, Any]) -> Path:
        """Write an object with its seal atomically. Raises StorageError if that fails."""
        with storage_errors(self.folder / name, MAKE_SPACE):
            return RunFolder(self.folder).write_json(name, add_seal(value))

    def stored_request(self) -> dict[str, Any] | None:
        """Return the request of the stored samples, None without samples. Raises DamageError if it is missing."""
        path = self.folder / REQUEST
        if not path.exists():
            if (self.folder / SAMPLES).exists():
                raise DamageError(f"{path} is missing, so the model of the stored samples is unknown: restore the file")
            return None
        request = sealing.read_sealed(path)
        request.pop(sealing.SCHEMA, None)
        return request

    def truncate_unfinished(self) -> list[str]:
        """Truncate an unfinished write at the end of the samples; return notes. Raises DamageError for other damage."""
        path = self.folder / SAMPLES
        self.seal, self.size = FIRST, 0
        if not path.exists():
            return []
        for member in sealing.read_members(path):
            self.seal, self.size = member.seal, member.end
        num_unfinished = path.stat().st_size - self.size
        if not num_unfinished:
            return []
        os.truncate(path, self.size)
        return [
            f"{path}: the last {num_unfinished:,} bytes were an unfinished write; they are removed and sampled again"
        ]

    def write_problems(self, problems: Mapping[str, Problem]) -> None:
        """Write the problems, by digest, with all that grading needs; values that JSON lacks are written as text."""
        lines = []
        for problem_digest, problem in problems.items():
            row = {"id": problem.id, "prompt": problem.prompt, "answer": problem.answer, "verifier": problem.verifier}
            row |= {"demonstration": problem.demonstration}
            row = json.loads(json.dumps({**row, "meta": dict(problem.meta), "digest": problem_digest}, default=str))
            lines.append(json.dumps(add_seal(row)) + "\n")
        with storage_errors(self.folder / PROBLEMS, MAKE_SPACE):
            RunFolder(self.folder).write_text(PROBLEMS, "".join(lines))

    def problems(self) -> dict[str, Problem]:
        """Return the stored problems by digest. Raises DamageError if the file was changed."""
        path = self.folder / PROBLEMS
        rows = sealing.read_sealed_rows(path)
        for number, row in enumerate(rows, 1):
            if not is_valid(_PROBLEM_SCHEMA, row):
                raise DamageError(f"{path}:{number} is no problem of an evaluation: {sealing.REMEDY}")
        if len({row["digest"] for row in rows}) < len(rows):
            raise DamageError(f"{path}: a problem occurs twice: {sealing.REMEDY}")
        try:
            rows = [{**row, "demonstration": tuple(row.get("demonstration", ()))} for row in rows]
            return {row.pop("digest"): Problem(**row) for row in rows}
        except TypeError as error:
            raise DamageError(f"{path}: a row is no problem of an evaluation ({error}): put the file back") from None

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows, all or none. Raises StorageError, with the file unchanged, if that fails."""
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
                f"{path} cannot be written: {error.strerror}; the samples before are whole: {MAKE_SPACE}"
            ) from error
        self.seal, self.size = seal, self.size + len(data)

    def rewrite(self, batches: Iterable[Sequence[Mapping[str, Any]]]) -> None:
        """Replace all rows atomically. Raises StorageError if that fails."""
        path = self.folder / SAMPLES
        part = path.with_name(f".{SAMPLES}.part")
        seal, size = FIRST, 0
        with storage_errors(path, MAKE_SPACE):
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
        """Yield all complete rows in the order of writing. Raises DamageError for a row that was changed."""
        path = self.folder / SAMPLES
        if path.is_file():
            for member in sealing.read_members(path):
                for line in member.data.split(b"\n"):
                    if line:
                        yield self._row(line, path)

    def _row(self, line: bytes, path: Path) -> dict[str, Any]:
        row = parse(line.decode("utf-8", "surrogatepass"), str(path), DamageError)
        if not is_valid(_SAMPLE_SCHEMA, row):
            raise DamageError(f"{path} holds what is no sample of an evaluation: {sealing.REMEDY}")
        return dict(row)

    def stored(self) -> dict[str, dict[int, GradedSample]]:
        """Return the stored samples by problem digest and sample seed."""
        samples: dict[str, dict[int, GradedSample]] = {}
        for row in self.rows():
            samples.setdefault(row["digest"], {})[row["seed"]] = GradedSample.read(row)
        return samples

    def belongs_to(self, source: str, digests: Collection[str] = ()) -> None:
        """Raise ConfigError if the folder has results of another data set with the same name.

        Data sets are the same if the problems of one of them, by digest, are a subset of the other's.
        """
        path = self.folder / RESULT
        stored_source = str(sealing.read_sealed(path).get("dataset", source)) if path.exists() else source
        if Path(stored_source).resolve() == Path(source).resolve():
            return
        stored_digests = set(self.problems()) if (self.folder / PROBLEMS).exists() else set()
        current = set(digests)
        if not (current and stored_digests and (current <= stored_digests or stored_digests <= current)):
            raise ConfigError(f"{self.folder} holds results on {stored_source}, and this is {source}: {OTHER_OUTPUT}")


def as_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return rows as lines of JSON."""
    return "".join(to_json(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def comparable(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request without the parts that depend on paths: the template's name, the folders of verifiers."""
    fields = {name: dict(value) if isinstance(value, dict) else value for name, value in request.items()}
    fields.get("template", {}).pop("name", None)
    return {**fields, "verifier": without_folders(str(fields["verifier"]))} if fields.get("verifier") else fields


def digest(problem: Problem, prompt: ModelInput) -> str:
    """Return a hash of a problem's id, prompt tokens, reference answer and verifier name.

    The version of the verifier is not part of it; every row has the version that graded it.
    """
    verifier = problem.verifier and without_folders(problem.verifier)
    text = json.dumps([problem.id, prompt.token_ids, problem.answer, verifier], default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def identity(model: str, revision: str | None = None) -> str:
    """Return an identity of a model's weights, so that stored samples of other weights are not reused.

    A complete checkpoint is identified by its manifest, any other folder by all files of its model, a hub model by its
    name and revision.
    """
    folder = Path(model)
    if not folder.is_dir():
        return f"{model}@{revision}" if revision else model
    if (folder / manifest.MANIFEST).is_file() and manifest.find_damage(folder) is None:
        return hashlib.blake2b((folder / manifest.MANIFEST).read_bytes(), digest_size=8).hexdigest()
    return fingerprint.model(folder)


def differences(stored: Mapping[str, Any], requested: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the differences of two requests, such as `law.temperature 1.0 there, 0.6 now`."""
    changes = []
    for name in dict.fromkeys([*stored, *requested]):
        old, new = stored.get(name), requested.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            changes += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            changes.append(f"{prefix}{name} {str(old)[:60]} there, {str(new)[:60]} now")
    return changes
