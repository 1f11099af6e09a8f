"""Words tell where the house would go wrong: vague names, method names in the trainer, doors for foreign code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from house.source import PACKAGE, ROOT, docstrings, files, modules, tree
from house.test_packages import ORDER

VAGUE_FILES = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "base"}
VAGUE_CLASS = re.compile(r"^Base(?=[A-Z]|$)|Impl$|Manager|Helper|Util")
COUNT = re.compile(r"^n_[a-z]|^num[A-Z]|_count$|_cnt$")  # counts are num_*

ORDINARY = {"real"}  # a method, and a word of mathematics: real numbers, real roots
METHODS = sorted(
    path.stem
    for path in (PACKAGE / "methods").glob("*.py")
    if not path.stem.startswith("_") and path.stem not in ORDINARY
)
LAST_BLIND = ORDER["comparison"]  # the packages after it show the words to users
# (module, method name): why it may say it.
MAY_NAME = {
    ("config.commands", "hpt"): "what `obverse demo` shows if nothing is asked for",
    ("data.layouts", "uft"): "a published row layout of that name",
    ("data.benchmarks", "uft"): "published files of that name",
    ("data.layouts", "reward_model"): "a published column of that name",
    ("rewards.python_file", "reward_model"): "the same",
    **{
        ("config.trl_keys", name): "a key of TRL's files, or a value of its loss_type"
        for name in ("cispo", "dft", "dr_grpo", "grpo", "iw_opd", "opd", "reward_model", "sapo", "sdpo", "sft")
    },
    **{
        ("config.trl_keys", name): "a key of TRL's files, or a value of its loss_type"
        for name in ("apo_down", "apo_zero", "cpo", "kto", "luspo", "simpo", "vespo")
    },
    **{
        ("estimator.parts.preference_losses", name): "a loss of pairs that has the name of a method"
        for name in ("apo_down", "apo_zero")
    },
    **{
        ("config.llama_factory_keys", name): "a key of LLaMA-Factory's files, or a value of its stage"
        for name in ("asft", "dft", "dpo", "reward_model", "sft")
    },
    **{
        (module, "reward_model"): "the field's word for a network that scores, whoever trained it"
        for module in (
            "analysis.context",
            "config.train",
            "training.input_fingerprints",
            "models.load",
            "training.build_models",
            "models.context_limits",
            "memory_plan.meta_models",
            "training.setup",
            "training.startup_checks",
            "training.validate",
            "models.reward_model",
        )
    },
}

FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "literal_eval", "sympify", "parse_expr", "os.system", "os.popen", "torch.load",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.unsafe_load_all",
}  # fmt: skip
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def names_in(module: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that the code defines or uses, with its line; not what strings and comments say."""
    for node in ast.walk(module):
        line = getattr(node, "lineno", 0)
        for field in ("id", "attr", "arg", "name", "asname", "module"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield line, value


def method_words(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Method names that the code says in names or strings; docstrings may name papers."""
    free = docstrings(module)
    texts = [
        (node.lineno, node.value) for node in ast.walk(module) if isinstance(node, ast.Constant) and node not in free
    ]
    for line, text in [*names_in(module), *((line, text) for line, text in texts if isinstance(text, str))]:
        lowered = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text).lower()
        for method in METHODS:
            if re.search(rf"(?<![a-z0-9]){method}(?![a-z0-9])", lowered):
                yield line, method


def doors(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Ways by which text could become code, or a file could."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in FORBIDDEN_CALLS or called.rpartition(".")[2] in {"literal_eval", "sympify", "parse_expr"}:
                yield node.lineno, called
            for keyword in node.keywords:
                value = getattr(keyword.value, "value", None)
                if (keyword.arg == "trust_remote_code" and value is not False) or (keyword.arg == "shell" and value):
                    yield node.lineno, f"{keyword.arg}={ast.unparse(keyword.value)}"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            named = [alias.name for alias in node.names]
            roots = {name.partition(".")[0] for name in [*named, getattr(node, "module", None) or ""]}
            yield from ((node.lineno, f"import {name}") for name in roots & FORBIDDEN_IMPORTS)


def test_names_say_something() -> None:
    vague = [str(path) for path in files() if VAGUE_FILES & {path.stem, path.parent.name}]
    for path in files():
        classes = (node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef))
        vague += [f"{path}:{node.lineno}: {node.name}" for node in classes if VAGUE_CLASS.search(node.name)]
    assert not vague, "\n".join(vague)


def test_code_is_ascii() -> None:
    lines = [(path, *line) for path in files() for line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)]
    odd = [f"{path}:{number}: {line}" for path, number, line in lines if not line.isascii()]
    assert not odd, "write \\u escapes:\n" + "\n".join(odd)


def test_counts_are_called_num() -> None:
    def defined(module: ast.Module) -> set[str]:
        stored = {
            node.id for node in ast.walk(module) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        return stored | {node.arg for node in ast.walk(module) if isinstance(node, ast.arg)}

    odd = {name: sorted(filter(COUNT.search, defined(module.tree))) for name, module in modules().items()}
    assert not {name: found for name, found in odd.items() if found}


def test_the_trainer_is_blind() -> None:
    """No module that methods run on knows a method by name."""
    blind = [
        module
        for module in modules().values()
        if module.name and module.package != "methods" and ORDER[module.package] <= LAST_BLIND
    ]
    said = {(module.name, word): line for module in blind for line, word in method_words(module.tree)}
    seen = [f"{name}:{line}: {word}" for (name, word), line in said.items() if (name, word) not in MAY_NAME]
    assert not seen, "a method is a value; nothing below may ask which one it is:\n" + "\n".join(seen)
    assert not MAY_NAME.keys() - said.keys(), "MAY_NAME holds words that are gone"


@pytest.mark.parametrize(
    "code",
    ["if method == 'hpt': pass", "use_grpo = 1", "from obverse.methods import sft", "f(sft=1)", "class HptGate: ..."],
)
def test_a_method_name_is_seen(code: str) -> None:
    assert list(method_words(ast.parse(code)))


def test_words_that_only_hold_a_method_name_are_free() -> None:
    assert not list(method_words(ast.parse("'''As in HPT.'''\nsoft = shift + left")))


def test_no_door_for_foreign_code() -> None:
    product = [path for path in files() if (ROOT / "tests") not in path.parents]
    assert not [f"{path}:{line}: {call}" for path in product for line, call in doors(tree(path))]


@pytest.mark.parametrize(
    "code",
    [
        "eval(x)",
        "exec(x)",
        "ast.literal_eval(x)",
        "sympy.sympify(x)",
        "import pickle",
        "from dill import loads",
        "torch.load(f)",
        "yaml.load(f, Loader=L)",
        "AutoModel.from_pretrained(d, trust_remote_code=True)",
        "AutoModel.from_pretrained(d, trust_remote_code=flag)",
        "subprocess.run(c, shell=True)",
    ],
)
def test_a_door_is_seen(code: str) -> None:
    assert list(doors(ast.parse(code)))


def test_what_only_looks_like_a_door() -> None:
    assert not list(doors(ast.parse("model.eval(); re.compile(x); yaml.safe_load(x); f(trust_remote_code=False)")))
