"""The order of packages: a module imports its own package and those before it, nothing inside functions, no circles."""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

import pytest
from house.source import Import, imports, inside, modules

ROOT = ""  # the modules beside the packages: obverse/types.py and its like
PACKAGES: tuple[str, ...] = (
    ROOT,
    "estimator",
    "methods",
    "config",
    "distributed",
    "runtime",
    "rewards",
    "data",
    "models",
    "inference",
    "evaluation",
    "training",
    "memory_plan",
    "analysis",
    "comparison",
    "report",
    "hub",
    "api",
    "cli",
)
ORDER = {package: number for number, package in enumerate(PACKAGES)}
ENTRY = {"__main__", ""}  # `python -m obverse` and the lazy public API: they may import every package

# Seconds that a command which only reads or explains must not cost.
HEAVY = {
    *("torch", "transformers", "datasets", "pyarrow", "peft", "accelerate", "math_verify", "sympy"),
    "httpx2",
}
LIGHT_PACKAGES = {ROOT, "estimator", "methods", "config", "rewards", "data"}
LIGHT_MODULES = {
    "analysis.step_file",
    "api",
    "api.events",
    "api.coefficients",
    "api.compare",
    "api.evaluate",
    "api.function_source",
    "api.method_entries",
    "api.input_files",
    "api.method_source",
    "api.reward_source",
    "api.rows",
    "api.run",
    "api.table",
    "api.train",
    "runtime",
    "runtime.branches",
    "runtime.callbacks",
    "runtime.file_writes",
    "runtime.fingerprint",
    "runtime.integrity",
    "runtime.json_lines",
    "runtime.output_dir",
    "runtime.progress",
    "runtime.run_dir",
    "runtime.run_summary",
    "runtime.trackers",
    "runtime.trackers.muted",
    "runtime.trackers.thread",
    "runtime.trackers.tracker",
    "runtime.trackers.trackers",
    "distributed.env",
    "inference",
    "inference.types",
    "cli",
    "cli.main",
    "cli.command",
    "cli.commands",
    "cli.parser",
    "cli.train",
    "cli.eval",
    "cli.grade",
    "cli.completion",
    "cli.completion_scripts",
    "cli.init",
    "cli.compare",
    "cli.analyze",
    "cli.data",
    "cli.methods",
    "cli.method_table",
    "cli.method_pages",
    "cli.explain",
    "cli.weigh",
    "cli.results_console",
    "cli.runs",
    "cli.serve_vllm",
    "cli.progress_panel",
    "cli.teacher_prompts",
}
ONLY_IN_WORKERS = {"rewards.math_verify_worker", "rewards.formula_equality"}  # imported by name, in another process

# (module, what it imports in a function or by a call): the reason.
HIDDEN = {
    ("data.file_formats", "pyarrow"): "a third of a second that only tables and zstd should cost",
    ("data.file_formats", "pyarrow.parquet"): "the same",
    ("data.readers", "datasets"): "seconds that only hub names should cost, and an extra of the installation",
    (
        "models.adapter_io",
        "peft.utils.transformers_weight_conversion",
    ): "a second that only adapters should cost, and an extra of the installation",
    ("", "import_module"): "importing obverse loads a public name when it is first used",
    ("lazy_import", "import_module"): "a command's module waits until it is needed, torch until the options are valid",
    ("report.pictures", "resvg_py.svg_to_bytes"): "an extra of the installation",
    ("cli.doctor", "import_module"): "whether torch can be imported is what it reports",
    ("runtime.trackers.trackers", "import_module"): "extras of the installation, imported where --report_to names them",
    ("methods", "import_module"): "the folder is the registry",
    ("rewards.fork_server", "import_module"): "the caller names the module that a worker runs",
}


def out_of_order(name: str, imported: Iterable[Import]) -> list[str]:
    """The imports of later packages."""
    package = modules()[name].package
    targets = [(item, inside(item.target)) for item in imported]
    return [
        f"obverse/{name.replace('.', '/')}.py:{item.line}: {package or 'obverse'} imports {target}"
        for item, target in targets
        if target and ORDER[modules()[target].package] > ORDER[package]
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
            rest += [package for package in packages if package not in seen]
            seen.update(packages)
    return libraries


def test_every_package_has_its_place() -> None:
    missing = sorted({module.package for module in modules().values()} - ORDER.keys())
    assert not missing, f"add {', '.join(missing)} to PACKAGES in {__file__}, as early as its imports allow"


def test_packages_import_earlier_packages_only() -> None:
    late = [line for name in modules() if name not in ENTRY for line in out_of_order(name, imports(name))]
    assert not late, "\n".join(late)


def test_an_import_out_of_order_is_seen() -> None:
    assert out_of_order("types", [Import("obverse.training.loop.train", 1)])
    assert not out_of_order("training.loop", [Import("obverse.types", 1)])


def test_no_circles() -> None:
    graph = {name: {inside(item.target) for item in imports(name)} - {None, "", name} for name in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {' -> '.join(error.args[1])}")


def test_no_import_inside_a_function_without_a_reason() -> None:
    hidden = {(name, item.target): item.line for name in modules() for item in imports(name) if item.hidden}
    unexplained = [
        f"obverse/{name.replace('.', '/')}.py:{line}: {target}"
        for (name, target), line in hidden.items()
        if (name, target) not in HIDDEN
    ]
    assert not unexplained, "move these imports to the top, or give their reason in HIDDEN:\n" + "\n".join(unexplained)
    assert not HIDDEN.keys() - hidden.keys(), "HIDDEN names imports that are gone"


def test_what_only_reads_or_explains_imports_nothing_heavy() -> None:
    light = [
        name
        for name, module in modules().items()
        if (module.package in LIGHT_PACKAGES or name in LIGHT_MODULES) and name not in ONLY_IN_WORKERS
    ]
    heavy = {name: sorted(run_time_imports(name) & HEAVY) for name in light}
    assert not {name: libraries for name, libraries in heavy.items() if libraries}
    assert not LIGHT_MODULES - modules().keys(), "LIGHT_MODULES names modules that are gone"


def test_a_heavy_import_is_seen() -> None:
    assert "torch" in run_time_imports("training.loop")
