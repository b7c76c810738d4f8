"""How a run came about, from its manifest, as tables of words."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from safety_neurons.errors import reading
from safety_neurons.models import embedded
from safety_neurons.report.words import (
    NBSP,
    NOT_ENOUGH,
    NOT_RECORDED,
    count,
    noun_of,
    plural,
    seconds,
)
from safety_neurons.runs import DAMAGED, Manifest, RunFolder
from safety_neurons.runs.manifest import ModelRecord, PromptsRecord, UnitsRecord
from safety_neurons.units import SiteKind

NONE = "none"
"""The text of an option that is None."""
_STAGES = ("find", "validate")
_OWN_TABLE = {"prompts", "models", "system"}
"""Options that stand in tables of their own."""
_YES_NO = {True: "yes", False: "no", None: NOT_RECORDED}
_ROLES = {
    "select": "harmful, to choose the set",
    "test": "harmful, to test the claim",
    "harmless": "harmless",
    "borderline": "borderline",
}


@dataclass(frozen=True)
class PromptsUsed:
    """One prompt set and what it was for."""

    role: str
    name: str
    n: str
    digest: str


@dataclass(frozen=True)
class Provenance:
    """The last section of the page.

    Args:
        models: side, source, revision, adapter.
        facts: chat format, units, packages and machine, in pairs.
        options: by stage, in pairs.
        example: a rendered prompt, None if it was not recorded.
        date, version: when the run was begun, and by what.
        about: what the models are, in a sentence each.
    """

    models: tuple[tuple[str, str, str, str], ...]
    prompts: tuple[PromptsUsed, ...]
    facts: tuple[tuple[str, str], ...]
    options: Mapping[str, tuple[tuple[str, str], ...]]
    example: str | None
    date: str
    version: str
    about: tuple[str, ...]

    @classmethod
    def of(cls, run: RunFolder, judge: str) -> Provenance:
        """What a run's manifest says.

        Returns:
            Everything in words.

        Raises:
            UserError: if the manifest is damaged.
        """
        manifest = run.manifest
        with reading(run.manifest_file, remedy=DAMAGED):  # options have no types
            prompts = tuple(_prompts(manifest))
            options = {s: tuple(flat(run.config(s), leave_out=_OWN_TABLE)) for s in _STAGES}
        return cls(
            tuple(_models(manifest.models or {})),
            prompts,
            tuple(_facts(manifest, judge)),
            options,
            manifest.chat.example,
            date=(manifest.created or NOT_RECORDED).split("T")[0],
            version=_version(manifest),
            about=tuple(_about(manifest)),
        )

    @property
    def made(self) -> str:
        """When, with which version and at which commit."""
        return f"{self.date} · {self.version}"

    @property
    def title(self) -> str:
        """Both models' names."""
        named = {side: source for side, source, *_ in self.models}
        return f"{named.get('aligned', 'aligned')} against {named.get('unaligned', 'unaligned')}"


def flat(
    config: Mapping[str, Any], prefix: str = "", leave_out: Collection[str] = ()
) -> Iterator[tuple[str, str]]:
    """Nested options as pairs of a dotted name and a text."""
    for name, value in config.items():
        if name in leave_out:
            continue
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.", leave_out)
        else:
            listed = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            yield f"{prefix}{name}".replace("_", " "), NONE if listed is None else str(listed)


def _version(manifest: Manifest) -> str:
    version = manifest.packages.get("safety-neurons", NOT_RECORDED)
    commit = f", commit {manifest.commit[:9]}" if manifest.commit else ""
    return f"safety-neurons {version}{commit}"


def _about(manifest: Manifest) -> Iterator[str]:
    for side, model in (manifest.models or {}).items():
        if model.location is not None and model.location.adapter is not None:
            yield f"The {side} model is {model.location.base} with the adapter {model.source}."
    named = {source for model in (manifest.models or {}).values() if (source := model.source)}
    for source, what in embedded.WHAT.items():
        if source in named:
            yield f"{source} is {what}."
    if manifest.units is not None:
        total, layers = count(manifest.units.total), plural(manifest.units.layers, "layer")
        yield f"Ranked were {total} {_noun(manifest.units)} in {layers}."


def _models(models: Mapping[str, ModelRecord]) -> Iterator[tuple[str, str, str, str]]:
    for side in ("unaligned", "aligned"):
        model = models.get(side, ModelRecord())
        yield (
            side,
            model.source or NOT_ENOUGH,
            model.revision or NOT_RECORDED,
            model.adapter_sha256 or "no adapter",
        )


def _prompts(manifest: Manifest) -> Iterator[PromptsUsed]:
    found, validated = manifest.found, manifest.stages.get("validate")
    used = {"find": found.prompts} if found else {}
    for key, described in (validated.config.get("prompts", {}) if validated else {}).items():
        if described is not None:
            used[key] = PromptsRecord.model_validate(described)
    roles = {**_ROLES, "find": f"harmful, to rank the {_noun(manifest.units)}"}
    for key, prompts in used.items():
        yield PromptsUsed(roles.get(key, key), prompts.name, count(prompts.n), prompts.sha256)


def _noun(units: UnitsRecord | None) -> str:
    return noun_of(block.site for block in units.blocks) if units else noun_of([])


def _unit_facts(units: UnitsRecord | None) -> Iterator[tuple[str, str]]:
    named = _noun(units)
    unit = named.removesuffix("s")
    yield named.capitalize(), _counted(units) if units else NOT_RECORDED
    yield f"Site of a {unit}", units.site if units else NOT_RECORDED
    yield "Positions contrasted", units.contrasted if units else NOT_RECORDED
    yield "Positions patched", units.patched if units else NOT_RECORDED


def _counted(units: UnitsRecord) -> str:
    """How many units there are, kind by kind where there are several."""
    of_kind: dict[SiteKind, int] = {}
    for block in units.blocks:
        of_kind[block.site] = of_kind.get(block.site, 0) + block.width
    kinds = ", ".join(f"{count(n)}{NBSP}{kind.units}" for kind, n in of_kind.items())
    total = f"{count(units.total)} in {plural(units.layers, 'layer')}"
    return total if _noun(units) == "neurons" else f"{total}: {kinds}"


def _facts(manifest: Manifest, judge: str) -> Iterator[tuple[str, str]]:
    chat = manifest.chat
    yield "Weights shared in memory", _YES_NO[manifest.shared_weights]
    yield from _unit_facts(manifest.units)
    yield "Chat template (sha256)", chat.template_sha256 or "none: prompts as they are"
    yield "System prompt", chat.system_prompt or "none given (the template may have its own)"
    yield "Judge of refusals", judge
    for name in _STAGES:
        stage = manifest.stages.get(name)
        yield (
            f"Time of {name}, its last piece if it was stopped",
            seconds(stage.seconds if stage else None),
        )
    packages = manifest.packages.items()
    yield "Packages", ", ".join(f"{name} {version}" for name, version in packages)
    yield "Python", manifest.python or NOT_RECORDED
    yield "Machine", manifest.machine or NOT_RECORDED
    yield "Commit of safety-neurons", manifest.commit or "installed package, no commit"
    yield from (("Found while loading", note) for note in manifest.notes)
    yield "Begun", manifest.created or NOT_RECORDED
