"""How the run was made, from its manifest, as tables of words."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from safety_neurons.artifacts import RunFolder
from safety_neurons.artifacts.folder import DAMAGED
from safety_neurons.errors import reading
from safety_neurons.report.words import NOT_ENOUGH, count, plural, seconds

_STAGES = ("find", "validate")
_OWN_TABLE = {"prompts", "models", "system"}
"""Options that stand in tables of their own."""
_YES_NO = {"True": "yes", "False": "no"}
_ROLES = {
    "find": "harmful, to rank the neurons",
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
        facts: chat format, neurons, packages and machine, in pairs.
        options: by stage, in pairs.
        example: a rendered prompt, None if it was not recorded.
    """

    models: tuple[tuple[str, str, str, str], ...]
    prompts: tuple[PromptsUsed, ...]
    facts: tuple[tuple[str, str], ...]
    options: Mapping[str, tuple[tuple[str, str], ...]]
    example: str | None

    @classmethod
    def of(cls, manifest: Mapping[str, Any], judge: str) -> Provenance:
        return cls(
            tuple(_models(manifest.get("models", {}))),
            tuple(_prompts(manifest)),
            tuple(_facts(manifest, judge)),
            {
                stage: tuple(flat(_config(manifest, stage), leave_out=_OWN_TABLE))
                for stage in _STAGES
            },
            manifest.get("chat", {}).get("example"),
        )

    @classmethod
    def of_run(cls, run: RunFolder, judge: str) -> Provenance:
        """Raises UserError where the manifest is damaged."""
        with reading(run.manifest_file, remedy=DAMAGED):
            return cls.of(run.manifest, judge)

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
            yield f"{prefix}{name}".replace("_", " "), "none" if listed is None else str(listed)


def _config(manifest: Mapping[str, Any], stage: str) -> dict[str, Any]:
    return manifest["stages"].get(stage, {}).get("config", {})


def _models(models: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for side in ("unaligned", "aligned"):
        model = models.get(side, {})
        yield (
            side,
            model.get("source") or NOT_ENOUGH,
            model.get("revision") or "not recorded",
            model.get("adapter_sha256") or "no adapter",
        )


def _prompts(manifest: Mapping[str, Any]) -> Iterator[PromptsUsed]:
    used = {
        "find": _config(manifest, "find").get("prompts"),
        **_config(manifest, "validate").get("prompts", {}),
    }
    for key, described in used.items():
        if described is not None:
            role = _ROLES.get(key, key)
            yield PromptsUsed(role, described["name"], count(described["n"]), described["sha256"])


def _facts(manifest: Mapping[str, Any], judge: str) -> Iterator[tuple[str, str]]:
    shared = manifest.get("shared_weights")
    chat, neurons = manifest.get("chat", {}), manifest.get("neurons", {})
    widths = neurons.get("widths", [])
    yield "Weights shared in memory", _YES_NO.get(str(shared), "not recorded")
    yield "Neurons", f"{count(neurons.get('total'))} in {plural(len(widths), 'layer')}"
    yield "Site of a neuron", neurons.get("site", "not recorded")
    yield "Positions contrasted", neurons.get("contrasted", "not recorded")
    yield "Positions patched", neurons.get("patched", "not recorded")
    yield "Chat template (sha256)", chat.get("template_sha256") or "none: prompts as they are"
    yield "System prompt", chat.get("system_prompt") or "none given (the template may have its own)"
    yield "Judge of refusals", judge
    for stage in _STAGES:
        yield f"Time of {stage}", seconds(manifest["stages"].get(stage, {}).get("seconds"))
    packages = manifest.get("packages", {})
    yield "Packages", ", ".join(f"{name} {version}" for name, version in packages.items())
    yield "Python", manifest.get("python", "not recorded")
    yield "Machine", manifest.get("machine", "not recorded")
    yield "Commit of safety-neurons", manifest.get("commit") or "installed package, no commit"
    yield from (("Found while loading", note) for note in manifest.get("notes", ()))
    yield "Begun", manifest.get("created", "not recorded")
