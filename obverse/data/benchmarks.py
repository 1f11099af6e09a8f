"""Benchmarks by name: where their problems are, how rows become problems, and the protocols that papers measured by.

`aime24` is a benchmark, `aime24@avg32` a benchmark under a protocol: samples, law, template and verifier, all fixed. A
result says which protocol it is of, where that is from, and every option that was not the protocol's.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from obverse.data.file_formats import READERS, Rows, read_file
from obverse.data.layouts import Flaw, Place
from obverse.data.load import load_dataset
from obverse.data.readers import hub_rows, read_rows
from obverse.errors import ConfigError, DataError
from obverse.rewards.choice import LETTERS
from obverse.seeds import seed_for
from obverse.types import Problem

ASKED = "Put the letter of the right option within \\boxed{}."  # after the options; no source fixes these words


@dataclass(frozen=True)
class Protocol:
    """How a benchmark is measured; `source` says by whom, and what the source leaves open."""

    name: str
    num_samples: int
    temperature: float
    top_p: float
    max_completion_length: int
    source: str
    chat_template: str = "auto"  # the one that trained the model, else the tokenizer's own
    verifier: str | None = None  # None: the benchmark's own

    def options(self) -> dict[str, Any]:
        """What it fixes, by the names of the command line's options."""
        params = {
            name: getattr(self, name) for name in ("temperature", "top_p", "max_completion_length", "chat_template")
        }
        return {"num_generations": self.num_samples, "top_k": 0, "min_p": 0.0, **params, "verifier": self.verifier}


_PUBLISHED = (
    "Unify-Post-Training (arXiv 2509.04419): avg@32, temperature 0.6, top_p 0.95, 8,192 tokens; the template is "
    "the one that the model was trained with"
)
_ONE = (
    _PUBLISHED.replace("avg@32", "pass@1 of one sample")
    + "; the law is printed for avg@32 and taken to be the same here"
)

AVG32 = Protocol("avg32", 32, 0.6, 0.95, 8192, _PUBLISHED)
AVG1 = Protocol("avg1", 1, 0.6, 0.95, 8192, _ONE)
GREEDY = Protocol("greedy", 1, 0.0, 1.0, 8192, "one greedy sample of at most 8,192 tokens: obverse's own")
AVG8 = Protocol("avg8", 8, 1.0, 1.0, 96, "obverse's own, for its embedded tasks and base")
SHORT = Protocol("greedy", 1, 0.0, 1.0, 96, AVG8.source)


Row = dict[str, Any]
Adapt = Callable[[Row], Row]


@dataclass(frozen=True)
class Benchmark:
    """A set of problems that people measure by. The first protocol is the one that papers quote."""

    name: str
    protocols: tuple[Protocol, ...]
    adapt: Adapt
    hub: str | None = None  # owner/name or owner/name:config
    hub_split: str = "test"
    embedded: str | None = None  # made here, from this data set's name
    files: tuple[str, ...] = ()  # names beside the usual ones
    verifier: str = "math"

    def candidates(self) -> list[str]:
        """The names that its file may have in a folder, in the order they are looked for."""
        usual = [form.format(self.name) + suffix for form in ("bench_{}", "{}_test", "{}") for suffix in READERS]
        return [*self.files, *usual]


class Found(NamedTuple):
    """A benchmark's problems and where they came from."""

    problems: list[Problem]
    source: str


@dataclass(frozen=True)
class Named:
    """What `NAME` or `NAME@PROTOCOL` means."""

    benchmark: Benchmark
    protocol: Protocol | None = field(default=None)

    @property
    def name(self) -> str:
        return self.benchmark.name + (f"@{self.protocol.name}" if self.protocol else "")


def plain(row: Row) -> Row:
    """A question and its answer, whatever they are called, a list of answers with commas; messages stay as they are."""
    if not isinstance(row.get("prompt", ""), str):
        return row
    answer = next((row[key] for key in ("answer", "final_answer", "solution") if row.get(key) is not None), None)
    answer = ", ".join(map(str, answer)) if isinstance(answer, list) else answer
    prompt = next((row[key] for key in ("prompt", "problem", "question") if row.get(key) is not None), None)
    return {"prompt": prompt, "answer": answer, **_kept(row)}


def as_it_is(row: Row) -> Row:
    """A row in one of the layouts that every data set may have."""
    return row


def arc(row: Row) -> Row:
    """ARC: `question`, `choices` {text, label} and `answerKey`, a letter or a number."""
    if not isinstance(row.get("choices"), dict) or "answerKey" not in row:
        return plain(row)
    options, labels = list(row["choices"]["text"]), list(row["choices"]["label"])
    key = row["answerKey"]
    answer = LETTERS[labels.index(key)] if key in labels else None
    return {"prompt": asked(str(row["question"]), options), "answer": answer, **_kept(row), "choices": options}


def gpqa(row: Row) -> Row:
    """GPQA: the right answer and three wrong ones, in an order that the question alone decides."""
    if "Question" not in row:
        return plain(row)
    right = str(row["Correct Answer"]).strip()
    options = [right, *(str(row[f"Incorrect Answer {n}"]).strip() for n in (1, 2, 3))]
    random.Random(seed_for(0, "gpqa", row["Question"])).shuffle(options)
    answer = LETTERS[options.index(right)]
    return {"prompt": asked(str(row["Question"]).strip(), options), "answer": answer, **_kept(row), "choices": options}


def asked(question: str, options: list[str]) -> str:
    """A question with lettered options, and how the answer is to be given."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question, "", *lines, "", ASKED])


def _kept(row: Row) -> Row:
    """The name of a row, what results are split by, and what else says what it is."""
    found = {key: row[key] for key in ("level", "difficulty", "subject", "source", "choices") if row.get(key)}
    name = next((row[key] for key in ("id", "unique_id", "Record ID") if row.get(key) not in (None, "")), None)
    return found if name is None else {"id": name, **found}


_PAPER = (AVG32, GREEDY)
_PAPER_ONE = (AVG1, GREEDY)

BENCHMARKS: Mapping[str, Benchmark] = {
    each.name: each
    for each in (
        Benchmark("aime24", _PAPER, plain, "math-ai/aime24"),
        Benchmark("aime25", _PAPER, plain, "math-ai/aime25"),
        Benchmark("amc23", _PAPER, plain, "math-ai/amc23"),
        Benchmark("math500", _PAPER_ONE, plain, "HuggingFaceH4/MATH-500"),
        Benchmark("minerva", _PAPER_ONE, plain, "math-ai/minervamath"),
        Benchmark("olympiadbench", _PAPER_ONE, plain, "math-ai/olympiadbench"),
        Benchmark("gsm8k", (GREEDY,), as_it_is, "openai/gsm8k:main"),
        Benchmark("arc_c", _PAPER_ONE, arc, "allenai/ai2_arc:ARC-Challenge", verifier="choice"),
        Benchmark("gpqa", _PAPER_ONE, gpqa, "Idavidrein/gpqa:gpqa_diamond", "train", verifier="choice"),
        Benchmark(
            "countdown", (AVG8, SHORT), as_it_is, None, "heldout", "countdown", ("uft_countdown_test.parquet",), ""
        ),
        Benchmark("knights", (AVG8, SHORT), as_it_is, None, "heldout", "knights", ("uft_kk_logic_test.parquet",), ""),
        Benchmark("arithmetic", (AVG8, SHORT), as_it_is, None, "heldout", "arithmetic:1-6", (), ""),
    )
}


def find(name: str) -> Named:
    """The benchmark, and the protocol if one is named. Raises ConfigError with the nearest name."""
    bench, at, protocol = name.partition("@")
    if bench not in BENCHMARKS:
        raise ConfigError(f"unknown benchmark {bench!r}: {_nearest(bench, list(BENCHMARKS))}")
    found = BENCHMARKS[bench]
    if not at:
        return Named(found)
    known = {each.name: each for each in found.protocols}
    if protocol not in known:
        raise ConfigError(f"benchmark {bench} has no protocol {protocol!r}: {_nearest(protocol, list(known))}")
    return Named(found, known[protocol])


def read(
    benchmark: Benchmark,
    folder: Path | None = None,
    num_problems: int | None = None,
    seed: int = 42,
    verifier: str | None = None,
) -> Found:
    """A benchmark's problems: from its file in `folder`, made here where it is an embedded task, else from the hub.

    `num_problems` takes the first ones; `seed` is for embedded tasks. Raises DataError when there is no such file (it
    says which were looked for), or no such data set on the hub, or with all bad rows.
    """
    verifier = verifier or benchmark.verifier or None
    if folder is not None:
        file = next((folder / name for name in benchmark.candidates() if (folder / name).is_file()), None)
        if file is not None:
            return Found(_adapted(benchmark, read_file(file), str(file), num_problems, verifier), str(file))
        if benchmark.embedded is None:
            raise DataError(
                f"benchmark {benchmark.name}: there is none of {', '.join(benchmark.candidates())} in {folder}; "
                f"put one there, or leave out --benchmark_dir to take {benchmark.hub} from the hub"
            )
    if benchmark.embedded is not None:
        found = load_dataset(
            benchmark.embedded, split="heldout", num_problems=num_problems or 100, seed=seed, verifier=verifier
        )
        return Found(found, f"embedded {benchmark.embedded}, heldout")
    assert benchmark.hub is not None
    rows = hub_rows(benchmark.hub, benchmark.hub_split)
    return Found(_adapted(benchmark, rows, benchmark.hub, num_problems, verifier), f"hub {benchmark.hub}")


def _adapted(
    benchmark: Benchmark, rows: Rows, source: str, num_problems: int | None, verifier: str | None
) -> list[Problem]:
    adapted = ((place, _row(benchmark, place, row)) for place, row in rows)
    return read_rows(adapted, source, num_problems, verifier)


def _row(benchmark: Benchmark, place: Place, row: object) -> object:
    """The row in a layout that every data set may have, or the flaw that it lacks a key."""
    if not isinstance(row, dict):
        return row
    try:
        return benchmark.adapt(row)
    except KeyError as error:
        return Flaw(place, str(error.args[0]), "missing")


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
