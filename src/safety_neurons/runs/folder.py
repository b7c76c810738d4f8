"""Run folders: what a command writes, so that it can be opened, resumed and compared.

    manifest.json     how the run was made, and how far each stage has come
    state/            what lets a stopped stage go on; may be deleted at any time
    …                 the results of the stages, each written whole or not at all

A stage (find, validate, report) writes its results under `state/drafts`. When all of them
stand they take the place of earlier ones, and the manifest says so with a digest of each:
until then an earlier stage's results and record stay as they were, and afterwards a result
that was changed or lost is known as such.

One command writes at a time. The lock is the operating system's, so that a process that died
holds none.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from safety_neurons.environment import environment
from safety_neurons.errors import UserError, reading
from safety_neurons.runs.manifest import FORMAT, Manifest, RunningStage, StageRecord
from safety_neurons.storage import digest, remove, sha256_of, write_json

DAMAGED = "the run is damaged, so remove its folder and make it again"
"""The remedy for a manifest that cannot be read."""

TABLE = "neurons.parquet"
"""Every unit with its scores and places: see `units.table`."""

_MANIFEST, _LOCK = "manifest.json", ".lock"


@dataclass(frozen=True)
class Stage:
    """A stage that runs: where its results are drafted, and how long it took so far."""

    drafts: Path
    started: float
    before: float

    def file(self, name: str) -> Path:
        """Where to write a result; it appears in the run folder when all of them stand."""
        return self.drafts / name

    def elapsed(self) -> float:
        """Seconds that the stage took so far, stops not counted."""
        return round(self.before + time.monotonic() - self.started, 2)


class RunFolder:
    """A folder with a manifest. `begin` makes or resumes one, `open` reads one."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._lock = FileLock(path / _LOCK, timeout=0, is_singleton=False)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Raises UserError where there is no run, or a damaged one, or one of a later format."""
        path = Path(path)
        if not (path / _MANIFEST).is_file():
            raise UserError(
                f"'{path}' is no run folder (it has no {_MANIFEST}); make one with "
                "`safety-neurons find`."
            )
        return cls(path, _read_manifest(path / _MANIFEST))

    @classmethod
    def begin(cls, path: str | Path) -> RunFolder:
        """Open the run at `path`, or make one.

        Returns:
            The run as its manifest has it; a new one has no stages.

        Raises:
            UserError: if something else is there, or another command makes a run there now.
        """
        path = Path(path)
        if not (path / _MANIFEST).is_file():
            _refuse_foreign(path)
            path.mkdir(parents=True, exist_ok=True)
            new = cls(path, Manifest(stages={}, **environment()))
            with new._alone():
                if not (path / _MANIFEST).is_file():
                    new._write_manifest()
        return cls.open(path)

    def file(self, name: str) -> Path:
        return self.path / name

    @property
    def manifest_file(self) -> Path:
        return self.path / _MANIFEST

    def state(self, name: str) -> Path:
        """A file that only serves resuming."""
        file = self.path / "state" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only one that writes to this folder, on top of what others wrote before.

        Raises:
            UserError: if another command does now.
        """
        with self._alone():
            if self._lock.lock_counter == 1 and self.manifest_file.is_file():
                self.manifest = _read_manifest(self.manifest_file)
            yield

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"Another command is writing to '{self.path}' now; wait until it has ended, or "
                "choose another place with --out."
            ) from None
        try:
            yield
        finally:
            self._lock.release()

    def record(self, **facts: Any) -> None:
        """Add facts to the manifest, by the names of its fields."""
        for name, fact in facts.items():
            setattr(self.manifest, name, fact)
        self._write_manifest()

    def is_complete(self, stage: str) -> bool:
        entry = self._entry(stage)
        return entry is not None and entry.status == "complete"

    def require(self, stage: str) -> None:
        """Raise UserError unless `stage` is complete."""
        if not self.is_complete(stage):
            raise UserError(
                f"'{self.path}' has no complete '{stage}' stage; run `safety-neurons {stage}` on "
                "it (again), it goes on where it was."
            )

    def is_whole(self, stage: str) -> bool:
        """Whether `stage` is complete and all its results are as it wrote them."""
        entry = self._entry(stage)
        if entry is None or not self.is_complete(stage):
            return False
        return not any(self._fault(name, written) for name, written in entry.results.items())

    def result(self, stage: str, name: str) -> Path:
        """A result of a complete stage.

        Returns:
            Its file, whose content is what the stage wrote.

        Raises:
            UserError: if the stage is not complete, or the file is lost or was changed.
        """
        self.require(stage)
        entry = self._entry(stage)
        fault = self._fault(name, entry.results.get(name) if entry else None)
        if fault:
            raise UserError(
                f"'{self.file(name)}' {fault}; run `safety-neurons {stage}` on '{self.path}' again."
            )
        return self.file(name)

    def _fault(self, name: str, written: str | None) -> str | None:
        """What is wrong with a result; format 1 has no digests to tell."""
        file = self.file(name)
        if not file.is_file():
            return "is missing"
        if written is not None and sha256_of(file) != written:
            return "is not what the command wrote"
        return None

    @contextlib.contextmanager
    def stage(
        self,
        name: str,
        config: dict[str, Any],
        results: Iterable[str],
        *,
        read_by: Iterable[str] = (),
    ) -> Iterator[Stage]:
        """A stage, from its beginning to its results in place, with options and seconds recorded.

        Args:
            config: what decides the results.
            results: files that this stage writes, each to `Stage.file`.
            read_by: stages made of these results; where these change, theirs go.

        Yields:
            The running stage; its results move into the run folder when the block has ended.
        """
        with self.writing():
            running = self.manifest.running
            earlier = running.get(name)
            goes_on = earlier is not None and digest(earlier.config) == digest(config)
            before = earlier.seconds if earlier and goes_on else 0.0
            running[name] = RunningStage(config=config, seconds=before)
            drafts = self.path / "state" / "drafts" / name
            self._write_manifest()
            remove(drafts)
            drafts.mkdir(parents=True)
            stage = Stage(drafts, time.monotonic(), before)
            try:
                yield stage
                self._complete(name, config, stage, results, read_by)
            except BaseException:
                if name in running:
                    running[name] = RunningStage(config=config, seconds=stage.elapsed())
                    # A full disk ended the stage, perhaps, and shall be told, not this.
                    with contextlib.suppress(OSError):
                        self._write_manifest()
                raise
            finally:
                remove(drafts)

    def _complete(
        self,
        name: str,
        config: dict[str, Any],
        stage: Stage,
        results: Iterable[str],
        read_by: Iterable[str],
    ) -> None:
        digests = {result: sha256_of(stage.file(result)) for result in results}
        earlier = self._entry(name)
        changed = earlier is not None and bool(earlier.results) and digests != earlier.results
        outdated = [self.manifest.stages.pop(later, None) for later in read_by if changed]
        for result in digests:
            stage.file(result).replace(self.file(result))
        self.manifest.stages[name] = StageRecord(
            config=config,
            seconds=stage.elapsed(),
            results=digests,
            environment=environment(),
        )
        del self.manifest.running[name]
        for result in {result for entry in outdated if entry for result in entry.results}:
            remove(self.file(result))
        self._write_manifest()

    def config(self, stage: str) -> dict[str, Any]:
        """The options of a complete stage, {} if there is none."""
        entry = self._entry(stage)
        return entry.config if entry else {}

    def begun(self, stage: str) -> dict[str, Any]:
        """The options with which a stage is or was running, {} if it never was, or is complete."""
        if stage in self.manifest.running:
            return self.manifest.running[stage].config
        entry = self._entry(stage)
        return entry.config if entry and entry.status == "running" else {}  # format 1

    def _entry(self, stage: str) -> StageRecord | None:
        return self.manifest.stages.get(stage)

    def _write_manifest(self) -> None:
        write_json(self.manifest_file, self.manifest.written())


def _refuse_foreign(path: Path) -> None:
    """Demand that nothing is at `path`, or only what a command that was ended left there."""

    def ours(entry: Path) -> bool:
        return entry.name in (_LOCK, "state") or entry.name.startswith(f"{_MANIFEST}.")

    if path.exists() and not (path.is_dir() and all(map(ours, path.iterdir()))):
        raise UserError(f"'{path}' exists and is no run folder; choose another place with --out.")


def _read_manifest(file: Path) -> Manifest:
    with reading(file, remedy=DAMAGED):
        text = file.read_text(encoding="utf-8")
        if json.loads(text)["format"] > FORMAT:
            raise UserError(
                f"'{file.parent}' was written by a later version of safety-neurons; update this "
                "one."
            )
        manifest = Manifest.parsed(text)
        _ = manifest.found  # whose options later stages read
    return manifest
