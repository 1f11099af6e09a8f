"""Save a checkpoint of a run, after checks of its weights."""

from __future__ import annotations

from pathlib import Path

from obverse.distributed.fsdp import is_sharded, local_rows, reshard
from obverse.distributed.process_group import SINGLE_PROCESS
from obverse.errors import DivergedError
from obverse.inference.async_rollout import AsyncSampler
from obverse.runtime import checkpoint
from obverse.training.rank_checks import weights_checksum
from obverse.training.resume import run_info
from obverse.training.run import Run
from obverse.training.run_state import VERSION


def refuse_broken(run: Run) -> None:
    """Raise DivergedError if a weight is not finite: it must not replace a checkpoint of finite weights."""
    for folder, model in run.models().items():
        reshard(model)
        weights = model.named_parameters()
        broken = next((name for name, weight in weights if not bool(local_rows(weight).isfinite().all())), None)
        for name in filter(None, run.process_group.gather(broken)):
            raise DivergedError(
                f"{'weights of ' + folder if folder else 'weights'}: {name} is not finite, so nothing was saved: "
                "lower --learning_rate"
            )


def refuse_drift(run: Run) -> None:
    """Raise DivergedError, on all ranks, if the weights of one of them differ from the first's by a bit."""
    if run.process_group.is_alone:
        return
    first, *rest = run.process_group.gather([weights_checksum(model) for model in run.models().values()])
    for rank, checksums in enumerate(rest, start=1):
        if checksums != first:
            raise DivergedError(
                f"the weights of rank {rank} differ from those of rank 0, so nothing was saved: its machine, its "
                "libraries or its number of threads give other results: start all ranks on equal machines, and resume"
            )


def save(run: Run) -> Path:
    """Save a checkpoint of the run after its last whole step; returns its folder. DivergedError for invalid weights."""
    refuse_broken(run)
    refuse_drift(run)
    run.watcher.report_phase("save", 0, 1)
    sampler = run.collector.sampler
    prefetched = run.process_group.gather(sampler.state(run.state.step)) if isinstance(sampler, AsyncSampler) else []
    is_policy_sharded = is_sharded(run.learners[0].policy.model)
    if not run.process_group.is_first and not is_policy_sharded:
        return run.folder.path / f"checkpoint-{run.state.step}"
    if run.process_group.is_first:
        run.folder.sync_metrics()
    optimizers = run.optimizers()
    tensors = {
        f"{name}/{key}": value for name, optimizer in optimizers.items() for key, value in optimizer.tensors().items()
    }
    state = {"version": VERSION, **run.state.to_json()}
    state["optimizers"] = {name: optimizer.counters() for name, optimizer in optimizers.items()}
    state["metrics"] = run.folder.metrics_fingerprint()
    state["template"] = run.collector.renderer.record()
    state |= {"ahead": [row for rows in prefetched for row in rows]} if prefetched else {}
    path = checkpoint.save(
        run.folder.path,
        run.state.step,
        run.models(),
        run.collector.renderer.tokenizer_to_save(),
        tensors,
        state,
        keep=run.config.save_total_limit,
        info=run_info(run),
        process_group=run.process_group if is_policy_sharded else SINGLE_PROCESS,
        in_pieces=run.config.fsdp_state_dict_type == "sharded",
    )
    run.watcher.report_phase("save", 1, 1)
    return path
