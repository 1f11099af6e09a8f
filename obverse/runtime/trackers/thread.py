"""A tracker in a thread of its own, so that neither its errors nor its pace reach the run."""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from obverse.redact import flat
from obverse.runtime.trackers.tracker import TrackedRun, Tracker

FOLDER = "trackers"  # in the run folder: what each tracker has received
MAX_WAITING = 50_000  # figures rows and completions that may wait for a tracker
Steps = dict[str, int]


@dataclass(frozen=True)
class Event:
    """Something to log: `deliver` calls the tracker.

    Attributes:
        kind: `figures`, `evaluation` or `completions`; the steps of a kind increase.
        step: The step that it describes.
        size: What it counts of MAX_WAITING.
    """

    kind: str
    step: int
    deliver: Callable[[Tracker], None]
    size: int = 1


class TrackerThread:
    """Delivers the events of a run to one tracker, in order, from a thread.

    The first exception of the tracker, and more than MAX_WAITING waiting events, turn it off: later events are dropped.
    `remarks` then has one sentence about it.

    The last step that the tracker has written of every kind is stored in `trackers/NAME.json` in the run folder. A
    resumed run repeats the steps since its checkpoint; events up to the stored steps are dropped, unless the tracker
    discards them itself.
    """

    def __init__(self, name: str, tracker: Tracker, run: TrackedRun) -> None:
        self.name, self.tracker, self.run = name, tracker, run
        self.remarks: deque[str] = deque()  # for the user; appended by either thread, taken by the run's
        self.path: Path = run.folder / FOLDER / f"{name}.json"
        self._waiting: deque[Event] = deque()
        self._num_waiting = 0
        self._changed = threading.Condition()
        self.is_off = False
        self._exit_code: int | None = None
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)

    def start(self) -> None:
        """Start the thread, which opens the tracker."""
        self._thread.start()

    def put(self, event: Event) -> None:
        """Queue an event; returns at once."""
        with self._changed:
            if self.is_off:
                return
            if self._num_waiting + event.size > MAX_WAITING:
                self._turn_off("it is slower than the run")
                return
            self._waiting.append(event)
            self._num_waiting += event.size
            self._changed.notify()

    def end(self, exit_code: int) -> None:
        """Close the tracker once all events are delivered; returns at once."""
        with self._changed:
            self._exit_code = exit_code
            self._changed.notify()

    def join(self, seconds: float) -> bool:
        """Wait at most `seconds` for the end of the thread; returns whether it has ended."""
        self._thread.join(max(seconds, 0.0))
        return not self._thread.is_alive()

    def _turn_off(self, reason: str) -> None:
        """Drop all events from now on, and note why. The lock must be held."""
        if not self.is_off:
            self.is_off = True
            self._waiting.clear()
            self.remarks.append(f"--report_to {self.name}: off for the rest of the run, which continues: {reason}")

    def _work(self) -> None:
        tracker = self.tracker
        try:
            record = self._read_record()
            self.run = replace(self.run, name=str(record.get("name", self.run.name)))
            self.remarks.append(f"{self.name}: {flat(tracker.open(self.run))}")
            logged = {} if tracker.discards_later_steps else steps_in(record)
            self._deliver_all(tracker, logged)
            tracker.close(self._exit_code or 0)
            self._store(logged)
        except Exception as error:  # noqa: BLE001 - whatever a library raises, the run goes on
            self._fail(error)
            with suppress(Exception):  # write what the tracker has buffered
                tracker.close(1)

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._turn_off(error_text(error))

    def _deliver_all(self, tracker: Tracker, logged: Steps) -> None:
        """Deliver events until the run ends or the tracker is off; `logged` is updated, the last step of every kind."""
        written, newest = dict(logged), max(logged.values(), default=-1)
        while (events := self._next_events()) is not None:
            for event in events:
                if self.is_off:
                    return
                if event.step <= logged.get(event.kind, -1):
                    continue
                if event.step > newest:
                    written, newest = dict(logged), event.step
                event.deliver(tracker)
                logged[event.kind] = event.step
            self._store(written if tracker.writes_steps_late else logged)

    def _next_events(self) -> list[Event] | None:
        """Wait for events; all that wait, or None once the run has ended or the tracker is off."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self.is_off or self._exit_code is not None)
            events = list(self._waiting)
            self._waiting.clear()
            self._num_waiting = 0
            return events or None

    def _read_record(self) -> dict[str, Any]:
        """The content of the tracker's file if it is about this run, else {}."""
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return record if isinstance(record, dict) and record.get("run") == self.run.id else {}

    def _store(self, logged: Steps) -> None:
        """Store the steps; a reader sees the old file or the new one."""
        self.path.parent.mkdir(exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({"run": self.run.id, "name": self.run.name, "steps": logged}), encoding="utf-8")
        os.replace(part, self.path)


def steps_in(record: Mapping[str, Any]) -> Steps:
    """The last step of every kind in the content of a tracker's file."""
    steps = record.get("steps")
    return {str(kind): int(step) for kind, step in steps.items()} if isinstance(steps, dict) else {}


def error_text(error: Exception) -> str:
    """The kind and the message of an error in one line, without secrets."""
    return f"{type(error).__name__}: {' '.join(flat(error).split()):.300}"
