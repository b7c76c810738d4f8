"""The manifest of a run: how it was made, and how far each stage has come."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from safety_neurons.runs.record import Record
from safety_neurons.units import SiteKind

FORMAT = 3
"""1: without digests of results and of the models' files. 2: neurons only. Both still open,
report and compare."""


class StageRecord(Record):
    """A stage that is complete.

    Args:
        config: the options that decided its results.
        seconds: that it took, stops not counted.
        results: the sha256 of each file that it wrote; empty in format 1.
    """

    status: Literal["complete", "running"] = "complete"
    config: dict[str, Any]
    seconds: float = 0.0
    results: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)


class RunningStage(Record):
    """A stage that runs, or was stopped."""

    config: dict[str, Any]
    seconds: float = 0.0


class Location(Record):
    """Where a model's files are: absolute paths, or Hub ids with their commits."""

    base: str
    adapter: str | None = None


class ModelRecord(Record):
    """One model of a run.

    Args:
        source: as the user named it.
        location: None in format 1.
        files: the sha256 of every file that decides what the model does; None in format 1.
    """

    source: str | None = None
    location: Location | None = None
    revision: str | None = None
    adapter_sha256: str | None = None
    files: dict[str, str] | None = None


class LoadingRecord(Record):
    """The options with which the models can be loaded again."""

    trust_remote_code: bool = False
    template_from: Literal["aligned", "unaligned"] | None = None


class ChatRecord(Record):
    """How prompts were rendered."""

    template_sha256: str | None = None
    system_prompt: str | None = None
    template_args: dict[str, Any] = Field(default_factory=dict)
    example: str | None = None


class BlockRecord(Record):
    """One block of the units that were ranked, and the module whose input holds them."""

    layer: int
    site: SiteKind
    width: int
    module: str


class UnitsRecord(Record):
    """What was ranked, and where it was measured and patched.

    Args:
        widths: of each block, in the order of the table.
        site: in words.
        blocks: empty before format 3, where each width is a layer's neurons.
    """

    total: int
    widths: list[int]
    site: str = "not recorded"
    contrasted: str = "not recorded"
    patched: str = "not recorded"
    blocks: list[BlockRecord] = Field(default_factory=list)

    @property
    def layers(self) -> int:
        """How many layers have units."""
        return len({block.layer for block in self.blocks}) or len(self.widths)


class PromptsRecord(Record):
    """One set of prompts, by content."""

    name: str
    n: int
    sha256: str


class FindRecord(Record):
    """The options of `find` that later stages read."""

    model_config = ConfigDict(extra="allow")

    prompts: PromptsRecord
    system: str | None = None
    template_args: dict[str, Any] | None = None
    sites: list[SiteKind] = Field(default_factory=lambda: [SiteKind.MLP])


class Manifest(Record):
    """What `manifest.json` holds. It is written again and again, so nothing of it is dropped."""

    model_config = ConfigDict(extra="allow", frozen=False)

    format: int = FORMAT
    stages: dict[str, StageRecord]
    running: dict[str, RunningStage] = Field(default_factory=dict)
    created: str | None = None
    packages: dict[str, str] = Field(default_factory=dict)
    python: str | None = None
    machine: str | None = None
    commit: str | None = None
    models: dict[str, ModelRecord] | None = None
    loading: LoadingRecord | None = None
    shared_weights: bool | None = None
    notes: list[str] = Field(default_factory=list)
    chat: ChatRecord = Field(default_factory=ChatRecord)
    units: UnitsRecord | None = Field(default=None, alias="neurons")

    @property
    def found(self) -> FindRecord | None:
        """The options of a complete `find`, None if there is none."""
        find = self.stages.get("find")
        return None if find is None else FindRecord.model_validate(find.config)
