"""The upload of a finished run's model to the hub: `obverse train METHOD --push_to_hub`."""

from __future__ import annotations

from obverse.api.export import export
from obverse.config.commands import ExportConfig
from obverse.config.train import TrainConfig
from obverse.errors import UserError
from obverse.hub.push import push
from obverse.runtime import branches
from obverse.runtime.callbacks import Watcher
from obverse.training.loop import Outcome


def push_run(outcome: Outcome, config: TrainConfig, watcher: Watcher) -> int:
    """Export the checkpoint of the last step to `export-STEP` in the run folder, and push it; returns the exit code.

    An adapter is pushed as an adapter. If the export or the push fails, a note gives the reason: the run is complete,
    and so are its checkpoints.
    """
    folder = outcome.folder / f"export-{outcome.step}"
    if folder.exists():  # of an earlier end of this run
        watcher.note(f"{folder} is moved to {branches.move_aside(outcome.folder, folder.name)}")
    checkpoint = outcome.folder / f"checkpoint-{outcome.step}"
    name = config.hub_model_id or outcome.folder.resolve().name
    try:
        export(ExportConfig(model=str(checkpoint), output=folder, merge_adapter=False, push_to_hub=name), watcher)
        push(folder, name, config.hub_private_repo, watcher)
    except UserError as error:
        watcher.note(f"the run is complete, but its model was not pushed: {error}")
        return error.exit_code
    return 0
