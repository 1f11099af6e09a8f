"""Every layout of files that people have: packed, tables, the hub's folders, what `save_to_disk` writes; links too."""

from __future__ import annotations

import bz2
import datetime
import decimal
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from obverse.cli.data import overlaps, splits
from obverse.config.commands import DataConfig
from obverse.data import load_dataset
from obverse.data.readers import read_hub, read_path
from obverse.errors import ConfigError, DataError
from obverse.types import Problem

ROWS = [{"prompt": f"{n}+1=\u2028?", "answer": str(n + 1)} for n in range(3)]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
CSV = "prompt,answer\r\n" + "".join(f'"{row["prompt"]}",{row["answer"]}\r\n' for row in ROWS)


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def arrow(path: Path, rows: list[dict[str, Any]], is_file: bool = False) -> Path:
    table = pa.Table.from_pylist(rows)
    make = pa.ipc.new_file if is_file else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


def read(path: Path, split: str = "train", **options: Any) -> list[Problem]:
    return read_path(str(path), split, **options)


def refused(path: Path, split: str = "train") -> str:
    with pytest.raises(DataError) as error:
        read_path(str(path), split)
    assert "\n" not in str(error.value)
    return str(error.value)


PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstd, ".zstd": zstd}
FILES = {f"rows.jsonl{end}": pack(JSONL) for end, pack in PACK.items()}
FILES |= {f"rows.json{end}": pack(json.dumps(ROWS).encode()) for end, pack in PACK.items()}
FILES |= {f"rows.csv{end}": pack(CSV.encode()) for end, pack in PACK.items()}
FILES |= {"rows.csv": CSV.encode(), "rows.tsv": CSV.replace(",", "\t").encode("utf-8-sig"), "rows.JSONL": JSONL}
FILES |= {"rows.ndjson": JSONL}


@pytest.mark.parametrize("name", FILES)
def test_packed_or_plain_the_rows_are_the_same(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    found = read(tmp_path / name)
    assert [(each.prompt, each.answer) for each in found] == [(row["prompt"], row["answer"]) for row in ROWS]
    assert found[0].id in ("rows-1", "rows-2")  # a line of a csv file counts its header
    assert load_dataset(str(tmp_path / name), num_problems=1)[0] == found[0]


@pytest.mark.parametrize("is_file", [True, False])
def test_arrow_in_both_formats(is_file: bool, tmp_path: Path) -> None:
    found = read(arrow(tmp_path / "rows.arrow", ROWS, is_file))
    assert [(each.id, each.prompt) for each in found] == [(f"rows-{n}", ROWS[n - 1]["prompt"]) for n in (1, 2, 3)]


@pytest.mark.parametrize("end", PACK)
def test_damaged_packings_are_one_sentence(end: str, tmp_path: Path) -> None:
    whole = PACK[end](JSONL * 500)
    for damaged in (b"no such thing", whole[: len(whole) // 2], whole[:20] + b"\0" * 20 + whole[40:]):
        (tmp_path / f"rows.jsonl{end}").write_bytes(damaged)
        try:
            read(tmp_path / f"rows.jsonl{end}")
        except DataError as error:
            assert str(error).startswith(f"{tmp_path / f'rows.jsonl{end}'}:")
        else:
            pytest.fail("damage was read")


def test_damaged_arrow_files_are_one_sentence(tmp_path: Path) -> None:
    for is_file in (True, False):
        path = arrow(tmp_path / "rows.arrow", ROWS, is_file)
        whole = path.read_bytes()
        for damaged in (b"", b"ARROW1", b"nonsense", whole[: len(whole) // 2]):
            path.write_bytes(damaged)
            assert "not a readable arrow file" in refused(path) or "no rows" in refused(path)


def test_csv_rows_have_the_line_that_they_begin_at(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,answer,\n"a\nb",1,0\n\nc,2\nd,,3\n"e,1,0')
    with pytest.raises(DataError) as error:
        read(path)
    assert [line.split(":", 2)[1:] for line in str(error.value).splitlines()] == [
        ["5", " row: has 2 cells, the header has 3"],
        ["6", " row: nothing to check or to learn from beside the prompt; its keys are column 3, prompt"],
        ["7", " csv: unexpected end of data"],
    ]
    path.write_text("prompt,prompt\na,1\n")
    assert refused(path) == f"{path}: more than one column is called 'prompt'"
    path.write_bytes("prompt,answer\na,\xe9\n".encode("latin-1"))
    assert "not UTF-8" in refused(path)
    path.write_text("")
    assert refused(path) == f"{path}: no rows"


def test_numbers_of_tables_are_what_a_person_reads(tmp_path: Path) -> None:
    columns = {
        "prompt": pa.array(["a", "b", "c"]),
        "answer": pa.array([0.1, 7.3, None], pa.float32()),
        "half": pa.array([0.1, 65504, float("nan")], pa.float16()),
        "wide": pa.array([0.1, float("nan"), 2.5], pa.float64()),
        "many": pa.array([[0.1], None, [None, 7.3]], pa.list_(pa.float32())),
        "deep": pa.array(
            [{"x": 0.1, "y": 1}, None, {"x": None, "y": 2}], pa.struct({"x": pa.float32(), "y": pa.int8()})
        ),
        "map": pa.array([[("k", 0.1)], None, []], pa.map_(pa.string(), pa.float32())),
        "tens": pa.array([decimal.Decimal("0.10"), None, decimal.Decimal("12.00")], pa.decimal128(8, 2)),
        "day": pa.array([datetime.date(2024, 7, 26), None, None]),
        "number": pa.array([2**62, None, -1], pa.int64()),
        "word": pa.array(["x", "y", "x"]).dictionary_encode(),
        "solved": pa.array([True, False, None]),
        "demonstration": pa.array(["1", "2", "3"]),
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    one, two, three = read(tmp_path / "rows.parquet")
    assert (one.answer, two.answer, three.answer) == (0.1, 7.3, None)
    assert one.meta == {
        "half": 0.1,
        "wide": 0.1,
        "many": [0.1],
        "deep": {"x": 0.1, "y": 1},
        "map": {"k": 0.1},
        "tens": "0.10",
        "day": "2024-07-26",
        "number": 2**62,
        "word": "x",
        "solved": True,
    }
    assert two.meta == {"half": 65504.0, "word": "y", "solved": False}
    assert three.meta["many"] == [None, 7.3] and three.meta["deep"] == {"x": None, "y": 2} and "half" not in three.meta


@pytest.mark.parametrize(
    ("kind", "value", "answer"),
    [
        (pa.float32(), 0.1, 0.1),
        (pa.float32(), 16777216.0, 16777216.0),
        (pa.float32(), 3.4028234663852886e38, 3.4028234663852886e38),
        (pa.float32(), 1e-45, 1e-45),
        (pa.decimal128(5, 2), decimal.Decimal("1.50"), "1.50"),
        (pa.int64(), 7, 7),
        (pa.date32(), datetime.date(2024, 7, 26), "2024-07-26"),
    ],
)
def test_answers_from_tables(kind: Any, value: Any, answer: Any, tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a"], "answer": pa.array([value], kind)})
    pq.write_table(table, tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet")[0].answer == answer


def test_truths_are_no_answers_of_the_math_verifier(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "answer": [True]}), tmp_path / "rows.parquet")
    assert "needs text or a number" in refused(tmp_path / "rows.parquet")


# Folders


def test_what_save_to_disk_writes(tmp_path: Path) -> None:
    import datasets

    one = datasets.Dataset.from_list(ROWS)
    one.save_to_disk(tmp_path / "one", num_shards=2)
    assert [each.prompt for each in read(tmp_path / "one")] == [row["prompt"] for row in ROWS]
    both = datasets.DatasetDict({"train": one, "test": one.select([0])})
    both.save_to_disk(tmp_path / "both")
    assert len(read(tmp_path / "both")) == 3 and len(read(tmp_path / "both", "heldout")) == 1
    assert splits(str(tmp_path / "both")) == ["train", "test"]
    assert "no split 'validation'" in refused(tmp_path / "both", "validation")
    one.select([2, 0]).save_to_disk(tmp_path / "picked")  # rows that are chosen by an index
    assert [each.answer for each in read(tmp_path / "picked")] == ["3", "1"]
    (tmp_path / "one" / "state.json").write_text('{"_data_files": [{"filename": "../../x.arrow"}]}')
    assert "does not list data files" in refused(tmp_path / "one")


def hub_folder(folder: Path, readme: str = "# Rows\n") -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(readme)
    (folder / "dataset_infos.json").write_text("{}")
    for number, row in enumerate(ROWS[:2]):
        pq.write_table(pa.Table.from_pylist([row]), folder / "data" / f"train-0000{number}-of-00002.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS[2:]), folder / "data" / "test-00000-of-00001.parquet")
    return folder


def test_hub_folders(tmp_path: Path) -> None:
    folder = hub_folder(tmp_path / "plain")
    assert len(read(folder)) == 2 and [each.answer for each in read(folder, "heldout")] == ["3"]
    assert splits(str(folder)) == ["train", "test"]
    assert overlaps(DataConfig(dataset=str(folder)), read(folder)) == ["no prompt is in two of train, test"]
    named = tmp_path / "named"
    for split in ("train", "test"):
        (named / split).mkdir(parents=True)
        (named / split / "0000.jsonl").write_bytes(JSONL)
    assert len(read(named)) == 3 and read(named, "test")[0].id == "0000-1"
    lone = tmp_path / "lone" / "main"
    lone.mkdir(parents=True)
    (lone / "train.jsonl").write_bytes(JSONL)
    assert len(read(tmp_path / "lone")) == 3
    (tmp_path / "lone" / "other").mkdir()
    assert "main, other" in refused(tmp_path / "lone")


def test_the_readme_of_a_hub_folder_decides(tmp_path: Path) -> None:
    front = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/test-*\n{more}---\n"
    folder = hub_folder(tmp_path / "one", front.format(more=""))
    assert [each.answer for each in read(folder)] == ["3"]
    assert "README.md has train" in refused(folder, "test")
    more = "- config_name: other\n  data_files: data/*.parquet\n"
    (folder / "README.md").write_text(front.format(more=more))
    assert len(read(folder)) == 1
    (folder / "README.md").write_text(front.format(more=more).replace(": default", ": some"))
    assert "several data sets (some, other)" in refused(folder)
    (folder / "README.md").write_text(front.format(more="").replace("data/test-*", "../*"))
    assert "is not inside" in refused(folder)
    (folder / "README.md").write_text(front.format(more="").replace("data/test-*", "data/no-*"))
    assert "there is no such file" in refused(folder)
    (folder / "README.md").write_text("---\n: [\n---\n")
    assert len(read(folder)) == 2


def test_folders_whose_files_do_not_go_together_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(JSONL))
    assert "one file twice" in refused(tmp_path)
    (tmp_path / "a.jsonl.gz").rename(tmp_path / "b.jsonl.gz")
    assert len(read(tmp_path)) == 6
    (tmp_path / "c.csv").write_text(CSV)
    assert "several kinds (.csv, .jsonl)" in refused(tmp_path)
    with pytest.raises(ConfigError, match="no split 'half'"):
        read(tmp_path, "half")
    (tmp_path / "c.csv").unlink()
    (tmp_path / "train-test.jsonl").write_bytes(JSONL)
    assert "its name has test and train" in refused(tmp_path)


def test_links(tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_bytes(JSONL)
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    assert read(tmp_path / "link.jsonl")[0].id == "link-1"
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    assert "is a link to 'loop.jsonl', where there is no file" in refused(tmp_path / "loop.jsonl")
    (tmp_path / "broken.jsonl").symlink_to("nowhere.jsonl")
    assert "is a link to 'nowhere.jsonl'" in refused(tmp_path / "broken.jsonl")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "train.jsonl").symlink_to(tmp_path / "real.jsonl")
    (tmp_path / "to-folder").symlink_to(folder)
    assert len(read(tmp_path / "to-folder")) == 3
    (folder / "train-2.jsonl").symlink_to("nowhere.jsonl")
    assert "cannot be read" in refused(folder)  # and not passed over
    (folder / "train-2.jsonl").unlink()
    (folder / "train.jsonl").unlink()
    (folder / "data").symlink_to(folder)  # a folder in itself
    assert "no .jsonl" in refused(folder)


def test_names_that_no_file_can_have_are_one_sentence() -> None:
    for name in ("x" * 300, "./" + "x" * 300 + ".jsonl", "~nobody-of-this-name/x.jsonl", "a\0b.jsonl"):
        with pytest.raises((DataError, ConfigError)) as error:
            load_dataset(name)
        assert "\n" not in str(error.value)


def test_narrow_floats_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = datasets.Dataset(pa.table({"prompt": ["a"], "answer": pa.array([0.1], pa.float32())}))
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: rows)
    assert read_hub("owner/name", "train")[0].answer == 0.1
