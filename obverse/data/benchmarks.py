"""Benchmarks by name: the source of their problems, the conversion of rows, and the evaluation protocols of papers.

`aime24` is a benchmark, `aime24@avg32` a benchmark with a protocol, which fixes the number of samples, the sampling
parameters, the chat template and the verifier. A result contains the protocol with its source, and every option that
differs from it.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from obverse.data.file_formats import READERS, Rows, read_file
from obverse.data.layouts import Flaw, RowLocation
from obverse.data.load import load_dataset
from obverse.data.readers import hub_rows, read_rows
from obverse.errors import ConfigError, DataError
from obverse.rewards.choice import LETTERS
from obverse.seeds import seed_for
from obverse.types import Problem

CHOICE_INSTRUCTION = "Put the letter of the right option within \\boxed{}."  # own wording


@dataclass(frozen=True)
class Protocol:
    """The settings of an evaluation; `source` cites their origin and names what it does not specify."""

    name: str
    num_samples: int
    temperature: float
    top_p: float
    max_completion_length: int
    source: str
    chat_template: str = "auto"  # the one that trained the model, else the tokenizer's own
    verifier: str | None = None  # None: the benchmark's own

    def options(self) -> dict[str, Any]:
        """Return the fixed settings by option name."""
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
    + "; the sampling parameters are printed for avg@32 and assumed to be the same here"
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
    """A benchmark; its first protocol is the one of published results."""

    name: str
    protocols: tuple[Protocol, ...]
    adapt: Adapt
    hub: str | None = None  # owner/name or owner/name:config
    hub_split: str = "test"
    embedded: str | None = None  # the name of an embedded data set that generates it
    files: tuple[str, ...] = ()  # file names in addition to the usual ones
    verifier: str = "math"

    def candidates(self) -> list[str]:
        """Return the possible names of its file in a folder, in the order of search."""
        usual = [form.format(self.name) + suffix for form in ("bench_{}", "{}_test", "{}") for suffix in READERS]
        return [*self.files, *usual]


class BenchmarkData(NamedTuple):
    """A benchmark's problems and their source."""

    problems: list[Problem]
    source: str


@dataclass(frozen=True)
class BenchmarkChoice:
    """The benchmark and the protocol of `NAME` or `NAME@PROTOCOL`."""

    benchmark: Benchmark
    protocol: Protocol | None = field(default=None)

    @property
    def name(self) -> str:
        return self.benchmark.name + (f"@{self.protocol.name}" if self.protocol else "")


def question_and_answer(row: Row) -> Row:
    """Return question and answer under our names, a list of answers joined by commas; rows of messages unchanged."""
    if not isinstance(row.get("prompt", ""), str):
        return row
    answer = next((row[key] for key in ("answer", "final_answer", "solution") if row.get(key) is not None), None)
    answer = ", ".join(map(str, answer)) if isinstance(answer, list) else answer
    prompt = next((row[key] for key in ("prompt", "problem", "question") if row.get(key) is not None), None)
    return {"prompt": prompt, "answer": answer, **_metadata(row)}


def unchanged(row: Row) -> Row:
    """Return the row, which has one of the layouts of data sets."""
    return row


def arc(row: Row) -> Row:
    """Convert a row of ARC: `question`, `choices` {text, label} and `answerKey`, a letter or a number."""
    if not isinstance(row.get("choices"), dict) or "answerKey" not in row:
        return question_and_answer(row)
    options, labels = list(row["choices"]["text"]), list(row["choices"]["label"])
    key = row["answerKey"]
    answer = LETTERS[labels.index(key)] if key in labels else None
    return {
        "prompt": with_options(str(row["question"]), options),
        "answer": answer,
        **_metadata(row),
        "choices": options,
    }


def gpqa(row: Row) -> Row:
    """Convert a row of GPQA: a correct answer and three incorrect ones, in an order that depends on the question."""
    if "Question" not in row:
        return question_and_answer(row)
    correct = str(row["Correct Answer"]).strip()
    options = [correct, *(str(row[f"Incorrect Answer {n}"]).strip() for n in (1, 2, 3))]
    random.Random(seed_for(0, "gpqa", row["Question"])).shuffle(options)
    answer = LETTERS[options.index(correct)]
    return {
        "prompt": with_options(str(row["Question"]).strip(), options),
        "answer": answer,
        **_metadata(row),
        "choices": options,
    }


def with_options(question: str, options: list[str]) -> str:
    """Return a question with lettered options and the instruction for the answer."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question, "", *lines, "", CHOICE_INSTRUCTION])


def _metadata(row: Row) -> Row:
    """Return the id of a row and its columns of metadata."""
    metadata = {key: row[key] for key in ("level", "difficulty", "subject", "source", "choices") if row.get(key)}
    name = next((row[key] for key in ("id", "unique_id", "Record ID") if row.get(key) not in (None, "")), None)
    return metadata if name is None else {"id": name, **metadata}


_PAPER = (AVG32, GREEDY)
_PAPER_ONE = (AVG1, GREEDY)

BENCHMARKS: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("aime24", _PAPER, question_and_answer, "math-ai/aime24"),
        Benchmark("aime25", _PAPER, question_and_answer, "math-ai/aime25"),
        Benchmark("amc23", _PAPER, question_and_answer, "math-ai/amc23"),
        Benchmark("math500", _PAPER_ONE, question_and_answer, "HuggingFaceH4/MATH-500"),
        Benchmark("minerva", _PAPER_ONE, question_and_answer, "math-ai/minervamath"),
        Benchmark("olympiadbench", _PAPER_ONE, question_and_answer, "math-ai/olympiadbench"),
        Benchmark("gsm8k", (GREEDY,), unchanged, "openai/gsm8k:main"),
        Benchmark("arc_c", _PAPER_ONE, arc, "allenai/ai2_arc:ARC-Challenge", verifier="choice"),
        Benchmark("gpqa", _PAPER_ONE, gpqa, "Idavidrein/gpqa:gpqa_diamond", "train", verifier="choice"),
        Benchmark(
            "countdown", (AVG8, SHORT), unchanged, None, "heldout", "countdown", ("uft_countdown_test.parquet",), ""
        ),
        Benchmark("knights", (AVG8, SHORT), unchanged, None, "heldout", "knights", ("uft_kk_logic_test.parquet",), ""),
        Benchmark("arithmetic", (AVG8, SHORT), unchanged, None, "heldout", "arithmetic:1-6", (), ""),
    )
}


def find(name: str) -> BenchmarkChoice:
    """Return the benchmark, and the protocol if one is named. Raises ConfigError with the nearest name."""
    bench, separator, protocol = name.partition("@")
    if bench not in BENCHMARKS:
        raise ConfigError(f"unknown benchmark {bench!r}: {_nearest(bench, list(BENCHMARKS))}")
    benchmark = BENCHMARKS[bench]
    if not separator:
        return BenchmarkChoice(benchmark)
    protocols = {item.name: item for item in benchmark.protocols}
    if protocol not in protocols:
        raise ConfigError(f"benchmark {bench} has no protocol {protocol!r}: {_nearest(protocol, list(protocols))}")
    return BenchmarkChoice(benchmark, protocols[protocol])


def read(
    benchmark: Benchmark,
    folder: Path | None = None,
    num_problems: int | None = None,
    seed: int = 42,
    verifier: str | None = None,
) -> BenchmarkData:
    """Return a benchmark's problems: from its file in `folder`, else generated for an embedded task, else from the hub.

    `num_problems` limits them to the first ones; `seed` is for embedded tasks. Raises DataError if neither the file nor
    the hub data set exists, or with all bad rows.
    """
    verifier = verifier or benchmark.verifier or None
    if folder is not None:
        file = next((folder / name for name in benchmark.candidates() if (folder / name).is_file()), None)
        if file is not None:
            return BenchmarkData(_adapted(benchmark, read_file(file), str(file), num_problems, verifier), str(file))
        if benchmark.embedded is None:
            raise DataError(
                f"benchmark {benchmark.name}: there is none of {', '.join(benchmark.candidates())} in {folder}; "
                f"put one there, or leave out --benchmark_dir to take {benchmark.hub} from the hub"
            )
    if benchmark.embedded is not None:
        problems = load_dataset(
            benchmark.embedded, split="heldout", num_problems=num_problems or 100, seed=seed, verifier=verifier
        )
        return BenchmarkData(problems, f"embedded {benchmark.embedded}, heldout")
    assert benchmark.hub is not None
    rows = hub_rows(benchmark.hub, benchmark.hub_split)
    return BenchmarkData(_adapted(benchmark, rows, benchmark.hub, num_problems, verifier), f"hub {benchmark.hub}")


def _adapted(
    benchmark: Benchmark, rows: Rows, source: str, num_problems: int | None, verifier: str | None
) -> list[Problem]:
    adapted = ((location, _row(benchmark, location, row)) for location, row in rows)
    return read_rows(adapted, source, num_problems, verifier)


def _row(benchmark: Benchmark, location: RowLocation, row: object) -> object:
    """Return the converted row, or a Flaw if it lacks a key."""
    if not isinstance(row, dict):
        return row
    try:
        return benchmark.adapt(row)
    except KeyError as error:
        return Flaw(location, str(error.args[0]), "missing")


def _nearest(name: str, names: list[str]) -> str:
    matches = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    return f"did you mean {matches[0]!r}?" if matches else f"there are {', '.join(names)}"
