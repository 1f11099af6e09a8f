"""The house has floors: a module imports its own floor and those below, nothing in secret, never in a circle."""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

import pytest
from house.source import Import, imports, inside, modules

FLOORS: tuple[tuple[str, ...], ...] = (
    # 0: records, options, the run folder
    (
        "records",
        "seeds",
        "errors",
        "watch",
        "secrecy",
        "config",
        "config_analysis",
        "config_eval",
        "config_export",
        "config_file",
        "config_report",
        "config_scale",
        "options",
        "layers",
        "jsonlines",
        "sealing",
        "storing",
        "runlog",
        "history",
        "step_file",
        "intervals",
        "comparison",
        "user_code",
        "fingerprint",
    ),
    # 1: what a method is; problems, verdicts, text
    (
        "view",
        "columns",
        "parts",
        "estimator",
        "method",
        "course",
        "methods",
        "requirements",
        "resolve",
        "tasks",
        "benchmarks",
        "problems",
        "verifiers",
        "text",
        "coding",
        "control",
        "misfits",
        "portable",
        "template",
        "turn",
        "writer",
    ),
    # 2: the model, samples and tables
    (
        "model",
        "compiling",
        "conformance",
        "frequencies",
        "reduced",
        "reading",
        "loading",
        "weights",
        "positions",
        "routing",
        "adapters",
        "pace",
        "prompts",
        "vocabulary",
        "sampling",
        "batch",
        "dist",
    ),
    # 3: what one step is made of
    (
        "rollout",
        "scorer",
        "remember",
        "learn",
        "tally",
        "mismatch",
        "optim",
        "critic",
        "checkpoint",
        "state",
        "metrics",
        "interrupt",
        "graders",
    ),
    # 4: runs
    (
        "train",
        "gather",
        "saving",
        "run",
        "start",
        "agreement",
        "inputs",
        "prepare",
        "reach",
        "resume",
        "networks",
        "banner",
        "evaluate",
        "export",
        "measure",
        "trials",
        "results",
        "samples",
        "scores",
        "majority",
        "passk",
        "plan",
        "snapshot",
        "regrade",
        "pairing",
    ),
    # 5: what runs teach
    ("analysis",),
    # 6: what a reader sees
    ("report", "panel"),
    # 7: what a user types
    (
        "cli",
        "commands",
        "command",
        "measuring",
        "arguments",
        "catalog",
        "data",
        "demo",
        "doctor",
        "explain",
        "grade",
        "pages",
        "token_view",
        "weigh",
        "__main__",
    ),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# Seconds that a command which only reads or explains must not cost.
HEAVY = {"torch", "transformers", "datasets", "pyarrow", "matplotlib", "peft", "accelerate", "math_verify", "sympy"}
LIGHT_ROOMS = {
    *FLOORS[0],
    *FLOORS[1],
    "cli",
    "commands",
    "command",
    "measuring",
    "arguments",
    "catalog",
    "explain",
    "pages",
}
ONLY_IN_WORKERS = {"verifiers.algebra", "verifiers.formulas"}  # imported by name, in a process of its own

# (module, what it imports in a function or by a call): the reason.
HIDDEN = {
    ("tasks.formats", "pyarrow"): "a third of a second that only tables and zstd should cost",
    ("tasks.formats", "pyarrow.parquet"): "the same",
    ("tasks.files", "datasets"): "seconds that only hub names should cost, and an extra of the installation",
    (
        "adapters",
        "peft.utils.transformers_weight_conversion",
    ): "a second that only adapters should cost, and an extra of the installation",
    ("command", "import_module"): "torch waits until the options are known to be right",
    ("report.pictures", "matplotlib.rc_context"): "seconds that only PNG files should cost, and an extra",
    ("report.pictures", "matplotlib.figure.Figure"): "the same",
    ("doctor", "import_module"): "whether torch can be imported is what it tells",
    ("methods", "import_module"): "the folder is the registry",
    ("verifiers.zygote", "import_module"): "what a worker is for is named by who asks for it",
}


def climbs(name: str, found: Iterable[Import]) -> list[str]:
    """The imports that go up."""
    own = FLOOR[modules()[name].room]
    targets = [(item, inside(item.target)) for item in found]
    return [
        f"obverse/{name.replace('.', '/')}.py:{item.line}: {name} (floor {own}) imports {target} "
        f"(floor {FLOOR[modules()[target].room]})"
        for item, target in targets
        if target and FLOOR[modules()[target].room] > own
    ]


def run_time_imports(name: str) -> set[str]:
    """Other libraries that importing the module imports, directly or by the package's own modules."""
    seen, rest = {name}, [name]
    libraries: set[str] = set()
    while rest:
        for item in imports(rest.pop()):
            if item.hidden or item.typing:
                continue
            target = inside(item.target)
            if target is None:
                libraries.add(item.target.partition(".")[0])
                continue
            packages = [target, *(target.rsplit(".", n)[0] for n in range(1, target.count(".") + 1))]
            rest += [each for each in packages if each not in seen]
            seen.update(packages)
    return libraries


def test_every_module_has_a_floor() -> None:
    missing = sorted({module.room for module in modules().values() if module.room} - FLOOR.keys())
    assert not missing, f"add {', '.join(missing)} to FLOORS in {__file__}: on the lowest floor that its imports allow"


def test_imports_go_down_only() -> None:
    up = [line for name in modules() if name for line in climbs(name, imports(name))]
    assert not up, "\n".join(up)


def test_an_import_that_climbs_is_seen() -> None:
    assert climbs("records", [Import("obverse.train.train", 1)]) and not climbs("train", [Import("obverse.records", 1)])


def test_no_circles() -> None:
    graph = {name: {inside(item.target) for item in imports(name)} - {None, "", name} for name in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {' -> '.join(error.args[1])}")


def test_nothing_is_imported_in_secret() -> None:
    hidden = {(name, item.target): item.line for name in modules() for item in imports(name) if item.hidden}
    secret = [
        f"obverse/{name.replace('.', '/')}.py:{line}: {what}"
        for (name, what), line in hidden.items()
        if (name, what) not in HIDDEN
    ]
    assert not secret, "move these imports to the top, or give their reason in HIDDEN:\n" + "\n".join(secret)
    assert not HIDDEN.keys() - hidden.keys(), "HIDDEN names imports that are gone"


@pytest.mark.parametrize(
    "name", [name for name in modules() if modules()[name].room in LIGHT_ROOMS and name not in ONLY_IN_WORKERS]
)
def test_the_lower_floors_and_the_command_line_cost_no_heavy_import(name: str) -> None:
    assert not run_time_imports(name) & HEAVY


def test_a_heavy_import_is_seen() -> None:
    assert "torch" in run_time_imports("train")
