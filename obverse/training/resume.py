"""Going on with a run: from which checkpoint, whether it is of the same run, and everything put back as it was."""

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
from obverse.runtime import checkpoint
from obverse.runtime.checkpoint import LoadedCheckpoint, RunInfo
from obverse.runtime.json_lines import read_object
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
    """What a checkpoint of the run says of it."""
    return RunInfo(run.folder.run(), config_record(run.config), run.data, packages(), run.inputs)


def config_record(config: TrainConfig) -> dict[str, Any]:
    """The configuration as a manifest has it: no secret in it."""
    return dict(config.model_dump(mode="json"))


def problems_fingerprint(problems: Sequence[Problem]) -> str:
    """sha256 of all that a run reads of its problems, in their order."""
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
    """What differs by allow_config_change, with both values. Raises CheckpointError for what would be another run.

    Where the content that an option names is known then and now, it decides, and not where it lies; `later` are options
    whose content is not known yet.
    """
    found = changes(then.config, config_record(config))
    allowed = {*config.allow_config_change}
    bound = {name: value for name, value in inputs.items() if name not in FREE and name in then.inputs}
    same = {name for name, value in bound.items() if value == then.inputs[name]}
    with_it = {each for name in same for each in ALIKE.get(name, ())}
    for name in {*later, *same, *with_it} & found.keys():
        del found[name]
    found |= differences(then.inputs, bound)
    told_by_options = {"dataset", "dataset_split", "num_problems", "verifier"} & found.keys()
    if "dataset" not in bound and then.data and then.data != data and not told_by_options:
        found["dataset"] = (f"rows with sha256 {then.data[:12]}", f"rows with sha256 {data[:12]}")
    refused = {name: values for name, values in found.items() if name not in allowed}
    if not refused:
        return found
    told = "; ".join(f"{name}: {before!r} then, {now!r} now" for name, (before, now) in sorted(refused.items()))
    kind = "is of another method's run" if "method" in refused else "was made with other options or files"
    raise CheckpointError(
        f"checkpoint {path} {kind}: {told}: give them as they were, start anew in another --output_dir, or go on with "
        f"the change by --allow_config_change {','.join(sorted(refused))}"
    )


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The options that decide a run and differ, with both values; what one of both does not know is not compared."""
    return {name: values for name, values in all_changes(then, now).items() if name not in FREE}


def all_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """All options that differ, with both values; what one of both does not know is not compared."""
    before, after = _flat(then), _flat(now)
    return {
        name: (value, after[name]) for name, value in before.items() if name in after and not _same(value, after[name])
    }


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options and the method's own beside each other; of other methods there are none to compare."""
    return {**config.get("method_options", {}), **{name: config[name] for name in config if name != "method_options"}}


def _same(first: Any, second: Any) -> bool:
    """Equal as JSON has them: a tuple is a list, and a whole number may be written as a float."""
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, float) and isinstance(second, float):
        return first == second or (math.isnan(first) and math.isnan(second))
    return bool(first == second)


def prompt_format_of(config: TrainConfig, start: Path | None) -> str | PromptFormat:
    """The template of a run; "auto" is that of the tokenizer which the run began with, not what its checkpoint has.

    A checkpoint's tokenizer writes the run's system prompt and variables by itself (Renderer.tokenizer_to_save).
    """
    if start is None or config.chat_template != "auto":
        return config.chat_template
    record = read_object(start / checkpoint.STATE, CheckpointError).get("template")
    is_same = checkpoint.run_info(start).config.get("chat_template", "auto") == "auto"
    return recorded_prompt_format(record) if record and is_same else config.chat_template


def restore_run(run: Run, path: Path) -> None:
    """Continue from a checkpoint: moments, schedules, place in the data, memory, and the metrics rows up to there.

    What the folder holds beyond the checkpoint is set aside, by the first rank, once nothing can be refused any more.
    """
    saved = checkpoint.load(path, run.process_group)
    saved = replace(saved, state=migrate(saved.state, path, checkpoint.run_info(path).packages))
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
    """The initial models of the stages that have begun, from beside the checkpoint; missing ones are refused."""
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
            home = run.folder.path / folder.name
            if not run.process_group.broadcast(home.is_dir()):  # it goes on in another folder
                checkpoint.save_model(
                    home, anchor.savable, run.collector.renderer.tokenizer_to_save(), run.process_group
                )


def seconds_before(run: Run, path: Path) -> float:
    """What the steps before the checkpoint took, which a budget in seconds goes on to count."""
    seconds = RunFolder(path.resolve().parent).seconds(run.state.step)
    if seconds is None and run.config.budget_in == "seconds" and run.config.budget:
        raise CheckpointError(
            f"checkpoint {path}: the rows of its steps in metrics.jsonl are missing, and with them the seconds that "
            "they took of --budget: put the file back beside it, or give --budget in another --budget_in"
        )
    return seconds or 0.0


def set_aside_later_steps(run: Run, path: Path, saved: LoadedCheckpoint) -> None:
    """Move what the run's folder holds beyond a checkpoint of its own aside, and note where it is."""
    root, step, config = run.folder.path, run.state.step, run.config
    others = {each.name for each in checkpoint.folders(root) if not checkpoint.is_written_by(each, run.folder.run())}
    names = [name for name in history.names_after(root, step, run.state.stage) if name not in others]
    if config.memory_snapshot > step and (root / SNAPSHOT).exists():
        names.append(SNAPSHOT)
    then = checkpoint.run_info(path)
    changed = all_changes(then.config, config_record(config)).keys() | differences(then.inputs, run.inputs).keys()
    if "eval_dataset" in then.inputs.keys() & run.inputs.keys():  # what it holds decides, not where it lies
        changed -= {"eval_dataset"} - differences(then.inputs, run.inputs).keys()
    is_measured_anew = bool(changed & MEASURING)  # what was measured before is not comparable
    if is_measured_anew:
        names += [str(each.relative_to(root)) for each in sorted((root / "eval").glob("step-*.json"))]
    was_saved = any("checkpoint-" in name for name in names)
    repeats = not was_saved and not is_measured_anew and not changed - FREE and then.data in ("", run.data)
    size = run.folder.metrics_size_at(step, saved.state["metrics"])
    if branch := history.set_aside(root, step, size, names, repeats):
        run.watcher.note(f"goes on from {path.name}: what {root} held beyond it is set aside in {branch}")


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a checkpoint stands in a run folder, by whatever names both are given."""
    return path.resolve().parent == folder.resolve()


def restore_optimizers(run: Run, saved: LoadedCheckpoint) -> None:
    """Moments and counters, by the optimizer's name; CheckpointError where they are of other weights."""
    for name, optimizer in run.optimizers().items():
        own = saved.tensors.with_prefix(f"{name}/")
        unknown = {key.rpartition("/")[0] for key in own} - {parameter for parameter, _ in optimizer.named}
        if unknown:
            raise CheckpointError(
                f"checkpoint {saved.path}: moments of {min(unknown)}, which this model does not have: resume with the "
                "--model that it was made with"
            )
        optimizer.restore(own, saved.state["optimizers"][name])
