"""S1 to S6: no text becomes code, no name leaves its folder, no escape reaches a terminal, no secret reaches a file.

S2, what a report makes of model text, is test_s_reports.py.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from house.source import ROOT
from house.test_words import doors, files
from reliability import faults
from rich.console import Console
from tiny_models import save_tiny

import runs
from obverse import methods
from obverse.cli import data
from obverse.cli import main as cli
from obverse.cli.parser import scan
from obverse.comparison.export import plain
from obverse.config.commands import DataConfig
from obverse.config.method_options import train_schema
from obverse.config.resolve import resolve
from obverse.config.yaml_file import MAX_BYTES, read
from obverse.errors import CheckpointError, ConfigError, UserError
from obverse.models.load import load
from obverse.redact import flat, masked
from obverse.runtime import checkpoint
from obverse.runtime.manifest import sealed_text
from obverse.runtime.output_dir import free_folder, slug
from obverse.training.loop import train

# S1: no text becomes code

MORE_DOORS = {"__import__", "import_module", "exec_module", "load_module", "spec_from_file_location", "run_path"}
COLLECTIVES = {"all_gather_object", "broadcast_object_list", "gather_object", "scatter_object_list"}  # they pickle
ALLOWED = Path(__file__).with_name("doors.txt")


def more_doors(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What the house's rule does not see: other loaders, pickles inside arrays, pipes and collectives."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        pickles = any(word.arg == "allow_pickle" and getattr(word.value, "value", True) for word in node.keywords)
        unpickles = name == "recv" and not node.args  # of a connection; a socket's has a size
        if name in MORE_DOORS | COLLECTIVES or pickles or unpickles:
            yield node.lineno, "allow_pickle" if pickles else name


def test_s1_every_door_is_in_the_list_with_its_reason() -> None:
    lines = [line for line in ALLOWED.read_text().splitlines() if not line.startswith("#")]
    allowed = {(file, what): why for file, what, why in (line.split(": ", 2) for line in lines)}
    assert len(allowed) == len(lines) and all(len(why) > 5 for why in allowed.values())
    found = set()
    for path in files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {(str(path.relative_to(ROOT)), what) for _, what in [*doors(tree), *more_doors(tree)]}
    assert len(files()) > 150
    assert sorted(found - allowed.keys()) == [], "add it to doors.txt with a reason, or better do without"
    assert sorted(allowed.keys() - found) == [], "doors.txt lists what is gone"


@pytest.mark.parametrize(
    "code",
    [
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=flag)",
        "__import__('os')",
        "runpy.run_path(p)",
        "dist.all_gather_object(a, b)",
        "pipe.recv()",
    ],
)
def test_s1_a_door_is_seen(code: str) -> None:
    assert list(more_doors(ast.parse(code)))


def test_s1_what_only_looks_like_a_door() -> None:
    assert not list(more_doors(ast.parse("np.load(f, allow_pickle=False); socket.recv(10); dist.all_gather(a, b)")))


# S3: names and paths

NAMES = [
    "../x", "../../etc/passwd", "/etc/passwd", "a/../../b", "..", ".", "...", "", " ", "-rf", "--", "a\0b", "a\nb",
    "con:../x", "~/x",
    "$HOME", "`id`", "a;b", "\u202eabc", "x" * 300, "\\\\host\\share", "a\tb", "e\u0301", "%2e%2e%2f",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_s3_whatever_a_run_is_called_its_folder_stays_where_runs_are(name: str, tmp_path: Path) -> None:
    made = slug(name)
    assert made and len(made) <= 80 and made[0] not in ".-" and not set(made) - set(GOOD)
    folder = free_folder(tmp_path / "runs", made)
    assert folder.resolve().parent == (tmp_path / "runs").resolve()


GOOD = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"


@pytest.mark.parametrize(
    "name",
    ["../../secret", "/etc/passwd", "a/../../b", "..", "x\0y", "critic/../../../x", "/", "../checkpoint-1/state.json"],
)
def test_s3_a_manifest_cannot_point_outside_its_folder(name: str, tmp_path: Path) -> None:
    path = faults.save(tmp_path, 1)
    file = path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["files"][name] = manifest["files"]["state.json"]
    del manifest["seal"]
    file.write_text(sealed_text(manifest))
    with pytest.raises(CheckpointError, match=r"manifest\.json lists"):
        checkpoint.verify(path)


def test_s3_a_link_in_the_place_of_an_old_checkpoint_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    faults.save(precious, 1)
    root = tmp_path / "run"
    root.mkdir()
    (root / "checkpoint-1").symlink_to(precious / "checkpoint-1")
    faults.save(root, 2, keep=1)
    assert faults.number_in(precious / "checkpoint-1") == 1


# S4: files that would run


class Plant:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (str(self.mark),)  # type: ignore[return-value]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A model's folder to plant something in."""
    return save_tiny("qwen2", tmp_path / "own")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_s4_weights_that_are_pickled_are_refused_unread(name: str, own: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (own / "model.safetensors").unlink()
    torch.save({"weight": Plant(mark)}, own / name)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load(str(own))
    assert not mark.exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_s4_a_model_that_brings_its_own_code_is_refused(file: str, own: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (own / "code.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n\nclass Own:\n    pass\n")
    settings = json.loads((own / file).read_text())
    brought = {"AutoConfig": "code.Own", "AutoModelForCausalLM": "code.Own", "AutoTokenizer": ["code.Own", "code.Own"]}
    settings |= {
        "auto_map": brought,
        **({"model_type": "own"} if file == "config.json" else {"tokenizer_class": "Own"}),
    }
    (own / file).write_text(json.dumps(settings))
    try:
        load(str(own))
    except ConfigError as error:
        assert "cannot be loaded" in str(error)
    assert not mark.exists()


@pytest.mark.parametrize(
    "text",
    [
        "seed: !!python/object/apply:os.system ['touch {mark}']",
        "seed: !!python/object/new:os.system ['touch {mark}']",
        "seed: !!python/name:os.system",
        "seed: !!python/module:os",
        "!!python/object/apply:subprocess.run\nargs: [['touch', '{mark}']]",
        "seed: !include /etc/passwd",
        "seed: !!int '7'",  # these three a safe loader reads
        "method: !!binary c2Z0",
        "stop_strings: !!set {a, b}",
        "a: &a [1]\nb: [*a, *a]",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]",
        "seed: 1\nseed: 2",
        "defaults: &d\n  seed: 1\nrun:\n  <<: *d",
        "[" * 20_000,
        "x" * (MAX_BYTES + 1),
    ],
)
def test_s4_a_configuration_holds_plain_values_only(text: str, tmp_path: Path) -> None:
    mark, file = tmp_path / "mark", tmp_path / "train.yaml"
    file.write_text(text.replace("{mark}", str(mark)))
    with pytest.raises(ConfigError) as refusal:
        read(file)
    assert str(file) in str(refusal.value) and len(str(refusal.value)) < 500
    assert ("a tag (!name) is not read" in str(refusal.value)) == ("!" in text)
    assert not mark.exists()


# S5: terminal escapes


@pytest.mark.parametrize(
    "text",
    [
        "\x1b]52;c;cm0gLXJmIC8=\x07", "\x1b[2J", "\x1b[31mred", "\x9b31m", "\x1b]0;title\x07", "\x1bP+q544e\x1b\\",
        "\r overwritten",
        "\x08\x08\x08", "\u202egnp.exe", "\u2066x\u2069", "\x00", "\x7f",
    ],
)  # fmt: skip
def test_s5_what_a_terminal_would_obey_is_shown(text: str, tmp_path: Path) -> None:
    shown = flat(text)
    assert all(char.isprintable() for char in shown) and "\\x" in shown
    rows = tmp_path / "rows.jsonl"
    if "\0" in text:  # no row may hold one
        return
    rows.write_text(
        json.dumps({"prompt": text + "?", "answer": "1", "demonstration": text, "verifier": "exact"}) + "\n"
    )
    with (tmp_path / "out").open("w+") as out:
        data.show(DataConfig(dataset=str(rows)), Console(file=out, force_terminal=False))
        out.seek(0)
        assert not {"\x1b", "\x9b", "\x07", "\x08", "\r", "\x7f", "\u202e", "\u2066"} & set(out.read())


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-2+cmd", "@SUM(A1)", "\t=1", "\r=1"])
def test_s5_a_cell_of_a_table_is_no_formula(cell: str) -> None:
    assert plain(cell) == f"'{cell}"
    assert plain(-1.5) == -1.5 and plain("grpo = x") == "grpo = x"


# S6: typing errors

TYPED = """
    learning_rat=learning_rate lerning_rate=learning_rate temprature=temperature max_step=max_steps
    maxsteps=max_steps num_generation=num_generations save_step=save_steps seeed=seed datset=dataset
    modle=model verifer=verifier topp=top_p top-kk=top_k output_dirr=output_dir
    prompts_per_steps=prompts_per_step num_iteration=num_iterations weight_deacy=weight_decay
    warmup_step=warmup_steps max_grad_nrom=max_grad_norm budgte=budget
"""


@pytest.mark.parametrize(("typed", "meant"), [pair.split("=") for pair in TYPED.split()])
def test_s6_a_typing_error_is_refused_with_the_nearest_name(typed: str, meant: str, tmp_path: Path) -> None:
    make = methods.find("hpt")
    given = scan([f"--{typed}", "1"], train_schema(make)).given
    with pytest.raises(ConfigError, match=rf"\b{meant}\b"):
        resolve("hpt", make, given)
    file = tmp_path / "train.yaml"
    file.write_text(f"{typed}: 1\n")
    with pytest.raises(ConfigError, match=rf"\b{meant}\b"):
        resolve("hpt", make, {}, read(file))


# Secrets

TOKEN = "hf_" + "aB3dE5gH7jK9mN1p" * 2
PLAIN = "correct-horse-battery-staple"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"token {TOKEN}!", "token ***!"),
        ("https://me:hunter2@hub.example/x", "https://***@hub.example/x"),
        (f"key={PLAIN}", "key=***"),
        ("sk-" + "a1" * 20, "***"),
        ("AKIA" + "A1B2C3D4E5F6G7H8", "***"),
        ("half_hf_life, sk-ip, https://host/a:b@c", "half_hf_life, sk-ip, https://host/a:b@c"),
    ],
)
def test_secrets_are_masked_and_words_are_not(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", PLAIN)
    monkeypatch.setenv("OTHER_TOKEN", "half")  # too short to be one
    assert masked(text) == shown and flat(text) == shown


def test_no_secret_is_in_a_run_folder_or_in_what_is_printed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("WANDB_API_KEY", PLAIN)
    rows = runs.write_problems(tmp_path / "chains.jsonl")
    train(runs.config("sft", tmp_path / "run", tiny, rows, max_steps=1))
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or not any(text.encode() in path.read_bytes() for text in (PLAIN, TOKEN))
    with pytest.raises(UserError, match="stop_strings: holds"):  # nothing is rewritten: what is stored was used
        train(runs.config("sft", tmp_path / "other", tiny, rows, max_steps=1, stop_strings=f"{PLAIN},{TOKEN}"))
    assert not (tmp_path / "other").exists()
    assert cli.main(["train", "sft", f"--learning_rte={TOKEN}", f"--dataset={PLAIN}"]) == 2
    told = capsys.readouterr()
    assert TOKEN not in told.err + told.out and PLAIN not in told.err + told.out
