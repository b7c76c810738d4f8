"""What a finished batch held is gone at once, without Python's collector of cycles.

The collector comes when many objects were made, and tensors are few and large: caches that
wait for it pile up by gigabytes.
"""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch

from safety_neurons.engine import PairedRows, Side, Tokens
from safety_neurons.errors import InterventionError
from safety_neurons.inference import ALIGNED, UNALIGNED, Decoding, left_padded
from safety_neurons.inference.likelihood import log_likelihoods
from safety_neurons.inference.perplexity import perplexities
from safety_neurons.methods import attribute, contrast
from safety_neurons.models import ModelPair
from safety_neurons.units import UnitSet
from tests import tiny
from tests.tiny import EOS, decode_patched, patch_edit, prompts

A, U = Side.ALIGNED, Side.UNALIGNED
COMPLETIONS = [[20, 21, 22, 23, EOS], [30], [40, 41, EOS]]


def living() -> Counter[str]:
    """How many tensors there are, and how many objects of each of transformers' and our types."""
    kinds = Counter()
    for thing in gc.get_objects():
        kind = type(thing)
        if issubclass(kind, torch.Tensor):
            kinds["tensor"] += 1
        elif str(kind.__module__).startswith(("safety_neurons.", "transformers.cache_utils")):
            kinds[f"{kind.__module__}.{kind.__name__}"] += 1
    return kinds


@contextlib.contextmanager
def nothing_left(job: Callable[[], object]) -> Iterator[None]:
    """The block leaves no object behind that was not there before it.

    `job` runs once before: what libraries keep from a first call is not meant.
    """
    job()
    gc.collect()
    gc.disable()
    try:
        before = living()
        yield
        left = living() - before
        assert not left
    finally:
        gc.enable()
        gc.collect()


def pair_of(zoo, architecture: str, separate: bool) -> ModelPair:
    if separate:
        return zoo.pair(str(zoo.base(architecture, seed=1)), str(zoo.base(architecture)))
    return zoo.pair(zoo.source(architecture, "ia3-kv"), zoo.source(architecture, "lora"))


def some_neurons(pair: ModelPair, count: int) -> UnitSet:
    generator = torch.Generator().manual_seed(count)
    drawn = torch.randperm(pair.space().total, generator=generator)[:count]
    return UnitSet.of(drawn, pair.space())


def plain(pair: ModelPair) -> object:
    return decode_patched(pair, prompts(), U, max_new_tokens=4)


def patched(pair: ModelPair) -> object:
    return decode_patched(pair, prompts(), U, [some_neurons(pair, 9)], max_new_tokens=4)


def several(pair: ModelPair) -> object:
    patches = [some_neurons(pair, 5), None, UnitSet.all(pair.space())]
    return decode_patched(pair, prompts(), A, patches, strengths=[1, 1, 0.5], max_new_tokens=4)


def contrasted(pair: ModelPair) -> object:
    return contrast(pair, prompts(), COMPLETIONS).positions


def attributed(pair: ModelPair) -> object:
    return attribute(pair, prompts(), COMPLETIONS).prompts


def surprised(pair: ModelPair) -> object:
    settings = {"a": ALIGNED, "u": UNALIGNED, "p": tiny.patched(U, some_neurons(pair, 9))}
    return perplexities(pair, prompts(), COMPLETIONS, settings, Decoding(batch_size=2))


def likelihoods(pair: ModelPair) -> object:
    pairs = [(c, [7, 8]) for c in COMPLETIONS]
    found, _ = log_likelihoods(pair, U, prompts(), pairs)
    return float(found.sum())


def trained(pair: ModelPair) -> object:
    """The same with a graph behind it."""
    model = pair.sides[U].model
    scale = model.get_parameter("model.norm.weight").requires_grad_()
    try:
        found, _ = log_likelihoods(pair, U, prompts(), [(c, [7, 8]) for c in COMPLETIONS])
        (gradient,) = torch.autograd.grad(found.sum(), [scale])
        return float(gradient.sum())
    finally:
        scale.requires_grad_(False)


JOBS = [plain, patched, several, contrasted, attributed, surprised, likelihoods, trained]
WEIGHTS = pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])


@pytest.mark.parametrize("job", JOBS)
@WEIGHTS
def test_a_finished_batch_leaves_nothing_behind(zoo, separate, job):
    pair = pair_of(zoo, "llama", separate)
    with nothing_left(lambda: job(pair)):
        for _ in range(3):
            job(pair)


@pytest.mark.parametrize("architecture", ["gemma2", "gpt2"])  # sliding windows; other names
def test_other_architectures_leave_nothing_behind(zoo, architecture):
    pair = pair_of(zoo, architecture, False)
    with nothing_left(lambda: several(pair)):
        several(pair)


@contextlib.contextmanager
def failing(pair: ModelPair, monkeypatch) -> Iterator[None]:
    """The last layer of both sides fails in its second pass."""
    passes = Counter()

    def fail(side: Side, forward):
        def run(x):
            passes[side] += 1
            if passes[side] % 2 == 0:
                raise RuntimeError("no memory")
            return forward(x)

        return run

    models = {id(side.model): (name, side.model) for name, side in pair.sides.items()}
    with monkeypatch.context() as patch:
        for name, model in models.values():
            mlp = model.model.layers[-1].mlp
            patch.setattr(mlp, "forward", fail(name, mlp.forward))
        yield


@pytest.mark.parametrize("job", [plain, patched, several, likelihoods])
@WEIGHTS
def test_a_pass_that_fails_leaves_nothing_behind(zoo, separate, job, monkeypatch):
    pair, told = pair_of(zoo, "llama", separate), []

    def failed() -> None:
        try:
            job(pair)
        except RuntimeError as error:
            told.append(str(error))

    with failing(pair, monkeypatch), nothing_left(failed):
        failed()
    assert told == ["no memory"] * 2


@pytest.mark.parametrize("job", [contrasted, attributed, surprised])
@WEIGHTS
def test_an_only_pass_that_fails_leaves_nothing_behind(zoo, separate, job, monkeypatch):
    pair, told = pair_of(zoo, "llama", separate), []

    def failed() -> None:
        try:
            job(pair)
            job(pair)
        except RuntimeError as error:
            told.append(str(error))

    with failing(pair, monkeypatch), nothing_left(failed):
        failed()
    assert told == ["no memory"] * 2


@torch.no_grad()
@WEIGHTS
def test_caches_are_empty_after_the_block_whoever_holds_the_rows(zoo, separate):
    """A traceback holds its frames, and with them the rows, as long as it is shown."""
    pair = pair_of(zoo, "llama", separate)
    tokens = dict.fromkeys(Side, left_padded(prompts(), pair))
    rows = PairedRows(pair, dict.fromkeys(Side, 3), cached=True)
    with contextlib.suppress(ZeroDivisionError), rows:
        rows.forward(tokens)
        caches = [batch.cache for batch in rows._batches]
        assert all(len(cache.layers) == 2 for cache in caches)
        raise ZeroDivisionError
    assert [len(cache.layers) for cache in caches] == [0] * (2 if separate else 1)
    assert not any(len(gc.get_referents(cache.layers)) for cache in caches)


@torch.no_grad()
@pytest.mark.parametrize("edits", [False, True])
def test_rows_are_used_in_their_block_alone(zoo, edits):
    pair = zoo.pair(zoo.source("llama", None), zoo.source("llama", None))  # without any gate
    used = [patch_edit(some_neurons(pair, 9), A)] if edits else []
    tokens = dict.fromkeys(Side, left_padded(prompts(), pair))
    rows = PairedRows(pair, dict.fromkeys(Side, 3), edits=used)
    with pytest.raises(InterventionError, match="inside their `with` block"):
        rows.forward(tokens)
    with rows:
        rows.forward(tokens)
        with pytest.raises(InterventionError, match="cannot be used again"):
            rows.__enter__()
    with pytest.raises(InterventionError, match="inside their `with` block"):
        rows.forward(tokens)
    with pytest.raises(InterventionError, match="inside their `with` block"):
        rows.rearrange({A: torch.tensor([0])})
    with pytest.raises(InterventionError, match="cannot be used again"), rows:
        pass


@torch.no_grad()
def test_other_rows_than_planned_are_an_error(zoo):
    """Without an edit or an adapter nothing else would notice."""
    pair = zoo.pair(zoo.source("llama", None), zoo.source("llama", None))
    tokens = left_padded(prompts(), pair)
    fewer = Tokens(tokens.ids[:2], tokens.mask[:2])
    with (
        PairedRows(pair, dict.fromkeys(Side, 3)) as rows,
        pytest.raises(InterventionError, match=r"aligned side .* 2 rows where 3 were planned"),
    ):
        rows.forward({A: fewer, U: tokens})
