"""What a study has measured so far, kept on disk, so that a stop loses little."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, Protocol, Self, TypeVar

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from safety_neurons.environment import versions
from safety_neurons.errors import UserError, reading
from safety_neurons.methods.accumulation import content_of
from safety_neurons.storage import digest, remove, write_whole


class Kept(Protocol):
    """What can be kept: it is made of tensors by name."""

    def tensors(self) -> dict[str, Tensor]:
        """As tensors."""
        ...

    @classmethod
    def of_tensors(cls, kept: Mapping[str, Tensor], /) -> Self:
        """What `tensors` gave."""
        ...


K = TypeVar("K", bound=Kept)
P = ParamSpec("P")


@dataclass(frozen=True)
class Keeping:
    """Named tensors of one study.

    Args:
        folder: where they are.
        key: of everything that decides them.
    """

    folder: Path
    key: str

    @classmethod
    def of(cls, folder: Path, *decided_by: object) -> Keeping:
        """For a study that is decided by some values; packages' versions are among them."""
        return cls(folder, digest(*decided_by, versions()))

    def value(
        self,
        kind: type[K],
        name: str,
        measure: Callable[P, K],
        *args: P.args,
        **options: P.kwargs,
    ) -> K:
        """What `measure` gave under a name, or gives now."""
        return kind.of_tensors(self.tensors(name, lambda: measure(*args, **options).tensors()))

    def tensors(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """What was made under a name, or is made now; a damaged file is made again."""
        file = self.folder / f"{name}-{self.key}.safetensors"
        if (kept := _read(file)) is not None:
            return kept
        made = {each: tensor.contiguous() for each, tensor in make().items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        metadata = {"content": content_of(made, {})}
        write_whole(file, lambda draft: save_file(made, draft, metadata))
        return made


def _read(file: Path) -> dict[str, Tensor] | None:
    """What a whole file holds; nothing of a damaged one, which goes."""
    if not file.is_file():
        return None
    try:
        with reading(file, remedy="remove it"), safe_open(file, "pt") as kept:
            tensors = {each: kept.get_tensor(each) for each in kept.keys()}  # noqa: SIM118
            if kept.metadata()["content"] == content_of(tensors, {}):
                return tensors
    except UserError:
        pass
    remove(file)
    return None
