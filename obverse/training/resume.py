"""Resume a run: refuse changed options and inputs, restore its state, and set later steps aside."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from obverse.config.train import TrainConfig
from obverse.data.chat_template import PromptFormat
from obverse.data.renderer import recorded_prompt_format
from obverse.errors import CheckpointError
from obverse.inference.async_rollout import AsyncSampler
from obverse.runtime import branches as history
from obverse.runtime import checkpoint, manifest
from obverse.runtime.checkpoint import LoadedCheckpoint
from obverse.runtime.json_lines import read_object
from obverse.runtime.manifest import RunInfo
from obverse.runtime.run_dir import RunFolder, packages
from obverse.training.build_models import stage_anchor
from obverse.training.cuda_memory_snapshot import NAME as SNAPSHOT
from obverse.training.input_fingerprints import ALIKE, differences
from obverse.training.run import Run
from obverse.training.run_state import RunState, migrate
from obverse.types import Problem

# Options that may have another value in a resumed run; every other one, and every option of the method, is fixed.
FREE = TrainConfig.with_resume("free", "evaluation", "unrecorded")
# Free options with which held-out problems are measured: figures before and after a change are not comparable.
MEASURING = TrainConfig.with_resume("evaluation")


def run_info(run: Run) -> RunInfo:
    """The description of the run that its checkpoints carry."""
    return RunInfo(run.folder.run_id(), config_record(run.config), run.data, packages(), run.inputs)


def config_record(config: TrainConfig) -> dict[str, Any]:
    """The options as a manifest stores them; they contain no secret."""
    return dict(config.model_dump(mode="json"))


def problems_fingerprint(problems: Sequence[Problem]) -> str:
    """The sha256 of every field of the problems, in order."""
    digest = hashlib.sha256()
    for problem in problems:
        row = {name: value for name, value in asdict(problem).items() if name != "template" or value}
        digest.update(repr(row).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def refuse_changes(
    config: TrainConfig,
    data: str,
    path: Path,
    then: RunInfo,
    inputs: Mapping[str, str],
    later: Collection[str] = (),
) -> dict[str, tuple[Any, Any]]:
    """Compare options and inputs with those of a checkpoint; CheckpointError for changes that make it another run.

    Returns the changes that allow_config_change permits, with both values. If the fingerprint of the content that an
    option names is available on both sides, it is compared instead of the option; `later` are options whose fingerprint
    is not available yet.
    """
    changed = changes(then.config, config_record(config))
    allowed = {*config.allow_config_change}
    bound = {name: value for name, value in inputs.items() if name not in FREE and name in then.inputs}
    same = {name for name, value in bound.items() if value == then.inputs[name]}
    same |= {option for name in same for option in ALIKE.get(name, ())}
    for name in {*later, *same} & changed.keys():
        del changed[name]
    changed |= differences(then.inputs, bound)
    explained = {"dataset", "dataset_split", "num_problems", "verifier"} & changed.keys()
    if "dataset" not in bound and then.data and then.data != data and not explained:
        changed["dataset"] = (f"rows with sha256 {then.data[:12]}", f"rows with sha256 {data[:12]}")
    refused = {name: values for name, values in changed.items() if name not in allowed}
    if not refused:
        return changed
    listed = "; ".join(f"{name}: {before!r} then, {after!r} now" for name, (before, after) in sorted(refused.items()))
    kind = "is of another method's run" if "method" in refused else "was saved with other options or files"
    raise CheckpointError(
        f"checkpoint {path} {kind}: {listed}: give the same values, start a new run in another --output_dir, or allow "
        f"the change by --allow_config_change {','.join(sorted(refused))}"
    )


def changes(saved: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fixed options that differ, with both values; options that only one side has are not compared."""
    return {name: values for name, values in all_changes(saved, current).items() if name not in FREE}


def all_changes(saved: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """All options that differ, with both values; options that only one side has are not compared."""
    before, after = _flat(saved), _flat(current)
    return {
        name: (value, after[name]) for name, value in before.items() if name in after and not _same(value, after[name])
    }


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options with those of the method on the same level."""
    return {**config.get("method_options", {}), **{name: config[name] for name in config if name != "method_options"}}


def _same(first: Any, second: Any) -> bool:
    """Whether two values are equal in JSON: a tuple is a list, and 1.0 equals 1."""
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, float) and isinstance(second, float):
        return first == second or (math.isnan(first) and math.isnan(second))
    return bool(first == second)


def prompt_format_of(config: TrainConfig, start: Path | None) -> str | PromptFormat:
    """The chat template of a run; "auto" is that of the tokenizer which the run began with, not that of its checkpoint.

    The template of a checkpoint's tokenizer includes the system prompt and variables (Renderer.tokenizer_to_save).
    """
    if start is None or config.chat_template != "auto":
        return config.chat_template
    record = read_object(start / manifest.STATE, CheckpointError).get("template")
    is_same = manifest.run_info(start).config.get("chat_template", "auto") == "auto"
    return recorded_prompt_format(record) if record and is_same else config.chat_template


def restore_run(run: Run, path: Path) -> None:
    """Restore a run from a checkpoint: moments, schedules, position in the data, memory, and metrics up to its step.

    Later files of the run folder are set aside, by the first rank, after all checks.
    """
    saved = checkpoint.load(path, run.process_group)
    saved = replace(saved, state=migrate(saved.state, path, manifest.run_info(path).packages))
    if saved.state["optimizers"].keys() != run.optimizers().keys():
        raise CheckpointError(
            f"checkpoint {path} is of another method's run: it has optimizers {', '.join(saved.state['optimizers'])}, "
            f"this run has {', '.join(run.optimizers())}: resume it with its method, or start anew in another "
            "--output_dir"
        )
    run.state = RunState.from_json(saved.state)
    restore_optimizers(run, saved)
    if isinstance(run.collector.sampler, AsyncSampler):
        run.collector.sampler.load_state(run.state.step, saved.state.get("ahead", []))
    restore_stages(run, path)
    run.seconds = seconds_before(run, path) if run.process_group.is_first else 0.0
    if run.process_group.is_first and is_inside(path, run.folder.path):
        set_aside_later_steps(run, path, saved)
    run.seconds = run.process_group.broadcast(
        run.seconds
    )  # only the first rank reads the rows; the others wait until it is done


def restore_stages(run: Run, path: Path) -> None:
    """Load the initial models of the stages that have begun, from beside the checkpoint; CheckpointError if missing."""
    for stage in range(1, run.state.stage + 1):
        learner = run.learners[stage]
        if run.schedule.selector.fresh_anchor and learner.anchor is not None:
            folder = path.parent / f"initial-{stage}"
            if not folder.is_dir():
                raise CheckpointError(
                    f"checkpoint {path}: {folder}, the initial model of its stage {stage}, is missing: put the folder "
                    "back, or start anew in another --output_dir"
                )
            anchor = stage_anchor(run.config, learner.policy, run.process_group, folder, is_resumed=True)
            run.learners[stage] = replace(learner, anchor=anchor)
            copy = run.folder.path / folder.name
            if not run.process_group.broadcast(copy.is_dir()):  # the run continues in another folder
                checkpoint.save_model(
                    copy, anchor.savable, run.collector.renderer.tokenizer_to_save(), run.process_group
                )


def seconds_before(run: Run, path: Path) -> float:
    """The seconds of the steps before the checkpoint, which count for a budget in seconds."""
    seconds = RunFolder(path.resolve().parent).seconds(run.state.step)
    if seconds is None and run.config.budget_in == "seconds" and run.config.budget:
        raise CheckpointError(
            f"checkpoint {path}: the rows of its steps in metrics.jsonl are missing, and with them the seconds that "
            "they took of --budget: put the file back beside it, or give --budget in another --budget_in"
        )
    return seconds or 0.0


def set_aside_later_steps(run: Run, path: Path, saved: LoadedCheckpoint) -> None:
    """Move files of later steps than the checkpoint to `set_aside`, and note where they are."""
    root, step, config = run.folder.path, run.state.step, run.config
    foreign = {
        path.name for path in checkpoint.folders(root) if not checkpoint.is_written_by(path, run.folder.run_id())
    }
    names = [name for name in history.names_after(root, step, run.state.stage) if name not in foreign]
    if config.memory_snapshot > step and (root / SNAPSHOT).exists():
        names.append(SNAPSHOT)
    then = manifest.run_info(path)
    changed = all_changes(then.config, config_record(config)).keys() | differences(then.inputs, run.inputs).keys()
    if "eval_dataset" in then.inputs.keys() & run.inputs.keys():  # its content is compared, not its path
        changed -= {"eval_dataset"} - differences(then.inputs, run.inputs).keys()
    is_measured_anew = bool(changed & MEASURING)  # what was measured before is not comparable
    if is_measured_anew:
        names += [str(path.relative_to(root)) for path in sorted((root / "eval").glob("step-*.json"))]
    was_saved = any("checkpoint-" in name for name in names)
    repeats = not was_saved and not is_measured_anew and not changed - FREE and then.data in ("", run.data)
    size = run.folder.metrics_size_at(step, saved.state["metrics"])
    if branch := history.set_aside(root, step, size, names, repeats):
        run.watcher.note(f"resumes from {path.name}: later files of {root} are set aside in {branch}")


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a checkpoint is in a run folder; symbolic links are resolved."""
    return path.resolve().parent == folder.resolve()


def restore_optimizers(run: Run, saved: LoadedCheckpoint) -> None:
    """Restore moments and counters of every optimizer; CheckpointError if they belong to other parameters."""
    for name, optimizer in run.optimizers().items():
        moments = saved.tensors.with_prefix(f"{name}/")
        unknown = {key.rpartition("/")[0] for key in moments} - {parameter for parameter, _ in optimizer.named}
        if unknown:
            raise CheckpointError(
                f"checkpoint {saved.path}: moments of {min(unknown)}, which this model does not have: resume with the "
                "--model that was trained"
            )
        optimizer.restore(moments, saved.state["optimizers"][name])
