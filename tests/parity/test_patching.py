"""Dynamic activation patching: identity, totality, equivalence, for every architecture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from safety_neurons.engine import PairedRows, Side, Tokens
from safety_neurons.errors import InterventionError
from safety_neurons.inference import Decoding, Setting, answer, left_padded
from safety_neurons.models import ModelPair
from safety_neurons.units import UnitSet
from tests.tiny import (
    ARCHITECTURES,
    EOS,
    LAYERS,
    decode_patched,
    down_projections,
    logits_of,
    neurons_of,
    patch_edit,
    patched,
    patched_generation,
    pre_hooks,
    prompts,
)

EXACT = {"rtol": 0, "atol": 1e-9}
STEPS = 6
A, U = Side.ALIGNED, Side.UNALIGNED


def some_neurons(pair: ModelPair, share: float = 0.3, seed: int = 0) -> UnitSet:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(pair.space().total, generator=generator)
    return UnitSet.of(drawn[: round(share * pair.space().total)], pair.space())


def columns_of(neurons: UnitSet) -> dict[int, list[int]]:
    """By hand from the names, not from the layout's own arithmetic."""
    columns: dict[int, list[int]] = {}
    for name in neurons.names:
        layer, neuron = name[1:].split(".N")
        columns.setdefault(int(layer), []).append(int(neuron))
    return columns


@pytest.fixture
def decoded(monkeypatch):
    """`decode` under one patch, and of each prompt the recipient's logits, `step vocab`."""
    labels: list[int] = []
    seen: dict[int, list[torch.Tensor]] = {}
    recipient = None  # passes outside of a run are not watched
    forward, rearrange = PairedRows.forward, PairedRows.rearrange

    def watched_forward(self, tokens, **options):
        out = forward(self, tokens, **options)
        if recipient in out:
            labels[:] = labels or range(len(out[recipient]))
            for label, logits in zip(labels, out[recipient][:, -1], strict=True):
                seen.setdefault(label, []).append(logits)
        return out

    def watched_rearrange(self, rows):
        # The row that has read what all prompts share becomes a row for each prompt.
        if recipient in rows:
            came = rows[recipient]
            labels[:] = [labels[i] for i in came] if labels else range(len(came))
        rearrange(self, rows)

    monkeypatch.setattr(PairedRows, "forward", watched_forward)
    monkeypatch.setattr(PairedRows, "rearrange", watched_rearrange)

    def run(pair, asked, side, patch=None):
        nonlocal recipient
        recipient = side
        labels.clear(), seen.clear()
        (completions,) = decode_patched(pair, asked, side, [patch], max_new_tokens=STEPS)
        return completions, [torch.stack(seen[row]) for row in range(len(asked))]

    return run


def greedy(model, prompt: list[int], steps: int = STEPS) -> tuple[list[int], torch.Tensor]:
    """Plain greedy decoding of one prompt without a cache."""
    tokens, rows = list(prompt), []
    while len(rows) < steps and (not rows or tokens[-1] != EOS):
        rows.append(logits_of(model, tokens)[-1])
        tokens.append(int(rows[-1].argmax()))
    return tokens[len(prompt) :], torch.stack(rows)


def assert_completions(found, expected) -> None:
    """Each row's tokens, and its logits at every step until its own end."""
    completions, logits = found
    for row, (tokens, row_logits) in enumerate(expected):
        assert completions[row] == tokens
        torch.testing.assert_close(logits[row][: len(tokens)], row_logits, **EXACT)


# Identity.


@torch.no_grad()
def cached_logits(pair: ModelPair, asked, neurons: UnitSet | None, donor: Side = A) -> list:
    """Logits of both sides over a prefill and two cached steps on fixed tokens."""
    edits = [] if neurons is None else [patch_edit(neurons, donor)]
    tokens, out = left_padded(asked, pair), []
    with PairedRows(
        pair, dict.fromkeys(Side, len(asked)), edits=edits, first=donor, cached=True
    ) as rows:
        for step in range(3):
            out.append(rows.forward(dict.fromkeys(Side, tokens), logits=0))
            new = torch.full((len(asked), 1), 11 + step)
            tokens = Tokens(new, torch.cat([tokens.mask, torch.ones_like(new)], dim=1))
    return out


def patched_with_itself(pair: ModelPair) -> Iterator[tuple[dict, dict]]:
    """Logits of both sides without a patch, and with patches of several sizes."""
    plain = cached_logits(pair, prompts(), None)
    for share in (0.1, 0.5, 1.0):
        yield from zip(
            plain, cached_logits(pair, prompts(), some_neurons(pair, share)), strict=True
        )


@pytest.mark.parametrize("kind", [None, "ia3"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_patching_a_separate_copy_into_a_model_changes_no_bit(zoo, architecture, kind):
    source = zoo.source(architecture, kind)
    other = source.replace(str(zoo.base(architecture)), str(zoo.copy(architecture)), 1)
    pair = zoo.pair(source, other)
    assert not pair.shared
    for before, after in patched_with_itself(pair):
        assert torch.equal(before[A], after[A])
        assert torch.equal(before[U], after[U])


@pytest.mark.parametrize("kind", ["ia3", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_patching_rows_of_a_model_into_others_changes_nothing(zoo, architecture, kind):
    """To the last bits alone: some processors round a row by where it lies in the batch."""
    pair = zoo.pair(zoo.source(architecture, kind), zoo.source(architecture, kind))
    assert pair.shared
    for before, after in patched_with_itself(pair):
        assert torch.equal(before[A], after[A])
        torch.testing.assert_close(before[U], after[U], rtol=0, atol=1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_empty_set_changes_nothing(zoo, decoded, architecture):
    pair = zoo.pair(zoo.source(architecture, "ia3"), zoo.source(architecture, "lora"))
    empty = UnitSet.of(torch.empty(0), pair.space())
    plain = cached_logits(pair, prompts(), None)
    patched = cached_logits(pair, prompts(), empty)
    for before, after in zip(plain, patched, strict=True):
        assert torch.equal(before[U], after[U])
    alone, with_empty = (decoded(pair, prompts(), U, patch=p)[0] for p in (None, empty))
    assert alone == with_empty


@pytest.mark.parametrize("donor", [A, U])
def test_the_donor_is_never_changed(zoo, donor):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", "lora"))
    plain = cached_logits(pair, prompts(), None, donor)
    patched = cached_logits(pair, prompts(), UnitSet.all(pair.space()), donor)
    for before, after in zip(plain, patched, strict=True):
        assert torch.equal(before[donor], after[donor])
        assert not torch.allclose(before[donor.other], after[donor.other])


# Plain decoding.


@pytest.mark.parametrize("kind", [None, "ia3", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_plain_decoding_equals_cache_free_decoding_of_one_prompt(zoo, decoded, architecture, kind):
    source = zoo.source(architecture, kind)
    pair = zoo.pair(source, zoo.source(architecture, None))
    assert_completions(
        decoded(pair, prompts(), A), [greedy(zoo.model(source), p) for p in prompts()]
    )


# Totality.


@pytest.mark.parametrize("recipient", [A, U])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_neurons_of_a_scale_at_the_site_give_the_donor(zoo, decoded, architecture, recipient):
    sources = {A: zoo.source(architecture, "ia3"), U: zoo.source(architecture, None)}
    pair = zoo.pair(sources[A], sources[U])
    donor = [greedy(zoo.model(sources[recipient.other]), p) for p in prompts()]
    own = [greedy(zoo.model(sources[recipient]), p)[0] for p in prompts()]
    assert [tokens for tokens, _ in donor] != own
    everything = UnitSet.all(pair.space())
    assert_completions(decoded(pair, prompts(), recipient, patch=everything), donor)


@pytest.mark.parametrize("recipient", [A, U])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_neurons_of_other_gates_give_the_donor(zoo, decoded, architecture, recipient):
    sources = {A: str(zoo.other_neurons(architecture)), U: str(zoo.base(architecture))}
    pair = zoo.pair(sources[A], sources[U])
    assert not pair.shared
    donor = [greedy(zoo.model(sources[recipient.other]), p) for p in prompts()]
    own = [greedy(zoo.model(sources[recipient]), p)[0] for p in prompts()]
    assert [tokens for tokens, _ in donor] != own
    everything = UnitSet.all(pair.space())
    assert_completions(decoded(pair, prompts(), recipient, patch=everything), donor)


# Equivalence.

PAIRS = [("ia3", None), ("ia3-kv", "lora"), ("lora", None)]


@pytest.mark.parametrize("recipient", [A, U])
@pytest.mark.parametrize("kinds", PAIRS, ids=lambda kinds: f"{kinds[0]}-{kinds[1]}")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_patched_rows_equal_two_plain_models_without_cache(
    zoo, decoded, architecture, kinds, recipient
):
    """The reference recomputes both models on all tokens so far, at every step, unbatched."""
    sources = {side: zoo.source(architecture, kind) for side, kind in zip(Side, kinds, strict=True)}
    pair = zoo.pair(*sources.values())
    assert pair.shared
    neurons = some_neurons(pair)
    donor, model = (zoo.model(sources[side]) for side in (recipient.other, recipient))
    expected = [
        patched_generation(donor, model, architecture, p, columns_of(neurons), STEPS)
        for p in prompts()
    ]
    unpatched = [greedy(model, p) for p in prompts()]
    assert all(
        not torch.allclose(patched[0], plain[0])
        for (_, patched), (_, plain) in zip(expected, unpatched, strict=True)
    )
    assert_completions(decoded(pair, prompts(), recipient, patch=neurons), expected)


@pytest.mark.parametrize("recipient", [A, U])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_patched_separate_models_equal_the_reference(zoo, decoded, architecture, recipient):
    """Two full checkpoints that share nothing: their neurons, attention and heads all differ."""
    sources = {A: str(zoo.base(architecture, seed=1)), U: str(zoo.base(architecture))}
    pair = zoo.pair(sources[A], sources[U])
    neurons = some_neurons(pair)
    donor, model = (zoo.model(sources[side]) for side in (recipient.other, recipient))
    expected = [
        patched_generation(donor, model, architecture, p, columns_of(neurons), STEPS)
        for p in prompts()
    ]
    assert_completions(decoded(pair, prompts(), recipient, patch=neurons), expected)


@pytest.mark.parametrize("recipient", [A, U])
@pytest.mark.parametrize("kind", ["ia3", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_paired_rows_equal_separate_models(zoo, decoded, architecture, kind, recipient):
    adapted = zoo.source(architecture, kind)
    shared = zoo.pair(adapted, str(zoo.base(architecture)))
    separate = zoo.pair(adapted, str(zoo.copy(architecture)))
    assert shared.shared
    assert not separate.shared
    neurons = some_neurons(shared)
    found = [decoded(pair, prompts(), recipient, patch=neurons) for pair in (shared, separate)]
    assert found[0][0] == found[1][0]
    for row, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(row, other, **EXACT)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_ragged_batch_equals_its_rows_one_by_one(zoo, decoded, architecture):
    pair = zoo.pair(zoo.source(architecture, "ia3-kv"), zoo.source(architecture, "lora"))
    asked, neurons = prompts((1, 14, 2, 6, 9)), some_neurons(pair)
    singles = []
    for prompt in asked:
        (tokens,), (logits,) = decoded(pair, [prompt], U, patch=neurons)
        singles.append((tokens, logits))
    assert_completions(decoded(pair, asked, U, patch=neurons), singles)


# Several patches at once.


def begun_alike() -> list[list[int]]:
    """Prompts of different lengths that begin with the same six tokens, one with nothing more
    than a token of its own, and one of them twice."""
    shared, *_ = prompts((6,), seed=9)
    own = [one[1:] for one in prompts((2, 6, 4), seed=3)]
    return [shared + tokens for tokens in (*own, own[1])]


def several(pair: ModelPair) -> list[UnitSet | None]:
    """Small, large, everything, nothing, no patch, and one of them twice."""
    few, many = some_neurons(pair, 0.1, seed=1), some_neurons(pair, 0.6, seed=2)
    nothing = UnitSet.of(torch.empty(0), pair.space())
    return [few, many, UnitSet.all(pair.space()), nothing, None, few]


@pytest.mark.parametrize("recipient", [A, U])
@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_several_patches_at_once_equal_the_reference(
    zoo, architecture, separate, recipient, monkeypatch
):
    """Rows end at different times, leave, and share what they have read; nothing of it shows."""
    if separate:
        sources = {A: str(zoo.base(architecture, seed=1)), U: str(zoo.base(architecture))}
    else:
        sources = {A: zoo.source(architecture, "ia3-kv"), U: zoo.source(architecture, "lora")}
    pair, asked = zoo.pair(sources[A], sources[U]), begun_alike()
    assert pair.shared is not separate
    donor, model = (zoo.model(sources[side]) for side in (recipient.other, recipient))
    nothing = UnitSet.of(torch.empty(0), pair.space())
    expected = [
        [
            patched_generation(donor, model, architecture, p, columns_of(patch or nothing), 10)[0]
            for p in asked
        ]
        for patch in several(pair)
    ]
    written = (expected[0][1], expected[1][0], expected[2][2])
    ends = {EOS, *(tokens[at % len(tokens)] for tokens, at in zip(written, (4, 7, 2), strict=True))}
    for side in pair.sides.values():
        monkeypatch.setattr(side.model.generation_config, "eos_token_id", sorted(ends))

    def cut(tokens: list[int]) -> list[int]:
        at = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
        return tokens[: at + 1]

    expected = [[cut(tokens) for tokens in of_patch] for of_patch in expected]
    assert decode_patched(pair, asked, recipient, several(pair), max_new_tokens=10) == expected
    assert len({len(tokens) for of_patch in expected for tokens in of_patch}) > 1
    assert len({tuple(map(tuple, of_patch)) for of_patch in expected}) > 1


def partly_patched(donor, model, architecture, prompt, columns, strength: float) -> list[int]:
    """Greedy tokens with chosen neurons moved part of the way, without cache or batch."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < STEPS and tokens[-1] != EOS:
        own, aims = {}, neurons_of(donor, architecture, tokens)

        def edit(layer: int, x: torch.Tensor, own=own, aims=aims) -> torch.Tensor:
            own[layer], x = x, x.clone()
            for column in columns.get(layer, []):
                here = own[layer][0, :, column]
                x[0, :, column] = here + strength * (aims[layer][:, column] - here)
            return x

        with pre_hooks(down_projections(model, architecture), edit), torch.no_grad():
            tokens.append(int(logits_of(model, tokens)[-1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_partial_patches_equal_the_reference(zoo, architecture, separate):
    other = zoo.copy(architecture) if separate else zoo.base(architecture)
    adapted = zoo.source(architecture, "ia3")
    pair, asked = zoo.pair(adapted, str(other)), begun_alike()
    donor, model = zoo.model(adapted), zoo.model(str(other))
    strengths, neurons = (0.0, 0.3, 1.0, 2.0), some_neurons(pair, 0.6)
    expected = [
        [partly_patched(donor, model, architecture, p, columns_of(neurons), s) for p in asked]
        for s in strengths
    ]
    found = decode_patched(
        pair, asked, U, [neurons] * len(strengths), strengths=strengths, max_new_tokens=STEPS
    )
    assert found == expected
    assert found[0] == decode_patched(pair, asked, U, max_new_tokens=STEPS)[0]
    assert found[2] == decode_patched(pair, asked, U, [neurons], max_new_tokens=STEPS)[0]
    assert len({str(of_strength) for of_strength in found}) > 2


def rows_read(pair, asked, patches, monkeypatch, steps: int) -> list[dict[Side, tuple]]:
    """The shape of what each side read, pass by pass."""
    read = []
    forward = PairedRows.forward

    def watched(self, tokens, **options):
        read.append({side: tuple(t.ids.shape) for side, t in tokens.items()})
        return forward(self, tokens, **options)

    monkeypatch.setattr(PairedRows, "forward", watched)
    decode_patched(pair, asked, U, patches, max_new_tokens=steps)
    return read


def test_what_patches_have_in_common_is_read_once(zoo, monkeypatch):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", None))
    nothing = UnitSet.of(torch.empty(0), pair.space())
    read = rows_read(pair, begun_alike(), [nothing] * 3, monkeypatch, 3)
    assert read[0] == {U: (3, 6), A: (1, 6)}  # the beginning: once a patch, once for the donor
    assert read[1] == {U: (12, 5), A: (4, 5)}  # the rest: the donor once a prompt
    assert read[2:] == [{U: (12, 1), A: (4, 1)}] * 2  # the same tokens under every patch


def test_rows_that_ended_are_not_read_on(zoo, monkeypatch):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", None))
    (found,) = decode_patched(pair, begun_alike(), U, max_new_tokens=4)
    assert found[0][0] != found[1][0]
    for side in pair.sides.values():
        monkeypatch.setattr(side.model.generation_config, "eos_token_id", [found[0][0]])
    shapes = [one[U][0] for one in rows_read(pair, begun_alike(), [None], monkeypatch, 3)]
    ended = sum(tokens[0] == found[0][0] for tokens in found)
    assert shapes[:3] == [1, 4, 4 - ended]


@pytest.mark.parametrize("architecture", ["mistral", "gemma3_text"])
def test_a_beginning_is_not_shared_where_padding_would_fill_a_window(
    zoo, architecture, monkeypatch
):
    pair = zoo.pair(zoo.source(architecture, "ia3"), zoo.source(architecture, None))
    assert pair.attention_window == 4
    read = rows_read(pair, begun_alike(), [None], monkeypatch, 1)
    assert read == [{U: (4, 11)}]


def test_settings_are_answered_as_if_alone(zoo, tmp_path):
    pair = zoo.pair(zoo.source("llama", "ia3-kv"), zoo.source("llama", "lora"))
    asked, how = prompts((9, 2, 5, 12, 3)), Decoding(max_new_tokens=STEPS, batch_size=2)
    settings = [patched(U, p) for p in several(pair)] + [Setting(A), patched(A, several(pair)[1])]
    alone = [answer(pair, asked, [setting], how)[0] for setting in settings]
    assert answer(pair, asked, settings, how) == alone
    logs = [tmp_path / f"{i}.jsonl" for i in range(len(settings))]
    answer(pair, asked, [settings[2]], how, logs=[logs[2]])
    logs[5].write_text("".join(f'{{"prompt": {i}, "tokens": {alone[5][i]}}}\n' for i in (1, 4)))
    for _ in range(2):
        assert answer(pair, asked, settings, how, logs=logs) == alone
    assert [len(log.read_text().splitlines()) for log in logs] == [5] * len(logs)


def test_batches_are_even_of_similar_length_and_smaller_under_more_settings():
    asked, how = [[5] * n for n in range(1, 71)], Decoding(batch_size=32)
    assert [len(batch) for batch in how.batches(asked)] == [23, 23, 24]
    assert {len(batch) for batch in how.batches(asked, settings=13)} == {8, 9}  # 128 rows at most
    assert {len(batch) for batch in how.batches(asked, settings=500)} == {1}
    assert [i for batch in how.batches(asked[::-1]) for i in batch] == list(range(69, -1, -1))
    assert how.batches([]) == []


def test_answers_come_in_the_order_asked_whatever_the_batches(zoo, tmp_path):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", None))
    asked, neurons = prompts((9, 2, 5, 12, 3)), some_neurons(pair)
    alone = [decode_patched(pair, [p], U, [neurons], max_new_tokens=STEPS)[0][0] for p in asked]
    assert len({tuple(tokens) for tokens in alone}) > 1
    for size in (1, 2, 3, 5):
        log = tmp_path / f"{size}.jsonl"
        how = Decoding(max_new_tokens=STEPS, batch_size=size)
        for _ in range(2):  # the second time from the log
            assert answer(pair, asked, [patched(U, neurons)], how, logs=[log]) == [alone]


def test_answers_go_on_after_a_stop(zoo, tmp_path, monkeypatch):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", None))
    asked, how = prompts((9, 2, 5, 12, 3)), Decoding(max_new_tokens=STEPS, batch_size=2)
    whole = answer(pair, asked, [Setting(U)], how)
    forward, passes = PairedRows.forward, []

    def stopping(self, *args, **kwargs):
        passes.append(1)
        if len(passes) == STEPS + 3:  # in the second batch
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(PairedRows, "forward", stopping)
    with pytest.raises(KeyboardInterrupt):
        answer(pair, asked, [Setting(U)], how, logs=[tmp_path / "log.jsonl"])
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"prompt": 4, "tok')  # a line torn by the crash
    before = len(passes)
    assert answer(pair, asked, [Setting(U)], how, logs=[tmp_path / "log.jsonl"]) == whole
    assert len(passes) - before < 3 * (STEPS + 1)  # the first batch was not made again


# Ends.


def patched_until(zoo, pair, neurons, ends: list[int], monkeypatch):
    for side in pair.sides.values():
        monkeypatch.setattr(side.model.generation_config, "eos_token_id", ends)
    return decode_patched(pair, prompts(), U, [neurons], max_new_tokens=12)[0]


@pytest.mark.parametrize("architecture", ["mistral", "gemma3_text", "gpt2"])
def test_completions_end_with_their_first_end_token(zoo, architecture, monkeypatch):
    pair = zoo.pair(zoo.source(architecture, "ia3"), zoo.source(architecture, "lora"))
    neurons = some_neurons(pair)
    (endless,) = decode_patched(pair, prompts(), U, [neurons], max_new_tokens=12)
    ends = [endless[0][1], endless[1][3], endless[2][5]]  # tokens that rows do write
    found = patched_until(zoo, pair, neurons, ends, monkeypatch)
    expected = []
    for tokens in endless:
        at = [i for i, token in enumerate(tokens) if token in ends or token == EOS]
        expected.append(tokens[: at[0] + 1] if at else tokens)
    assert found == expected
    assert len({len(tokens) for tokens in found}) > 1  # rows end at different times
    assert pair.end_tokens == {EOS, *ends}


def test_all_rows_at_their_end_stop_the_batch(zoo, decoded, monkeypatch):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", None))
    (first,) = decode_patched(pair, prompts(), U, max_new_tokens=1)
    ends = [tokens[0] for tokens in first]
    for side in pair.sides.values():
        monkeypatch.setattr(side.model.generation_config, "eos_token_id", ends)
    completions, logits = decoded(pair, prompts(), U)
    assert completions == first
    assert [len(row) for row in logits] == [1] * len(first)


# What must not pass unnoticed.


def test_recipient_without_donor_rows_is_an_error(zoo):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", None))
    edit = patch_edit(some_neurons(pair), A)
    with (
        PairedRows(pair, {U: 2}, edits=[edit]) as rows,
        pytest.raises(InterventionError, match="without matching activations"),
    ):
        rows.forward({U: left_padded(prompts((3, 3)), pair)})


def test_donor_without_recipient_rows_is_an_error(zoo):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", None))
    edit = patch_edit(some_neurons(pair), A)
    with (
        PairedRows(pair, {A: 2}, edits=[edit]) as rows,
        pytest.raises(InterventionError, match=r"Nothing was done in layer 0 .*layer 1"),
    ):
        rows.forward({A: left_padded(prompts((3, 3)), pair)})


@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
def test_unequal_rows_of_donor_and_recipient_are_an_error(zoo, separate):
    other = zoo.copy("llama") if separate else zoo.base("llama")
    pair = zoo.pair(zoo.source("llama", "ia3"), str(other))
    edit = patch_edit(some_neurons(pair), A)
    with (
        PairedRows(pair, {A: 1, U: 2}, edits=[edit], first=A) as rows,
        pytest.raises(InterventionError, match="matching activations"),
    ):
        rows.forward({A: left_padded(prompts((3,)), pair), U: left_padded(prompts((3, 3)), pair)})


@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_site_that_is_bypassed_is_an_error(zoo, layer, monkeypatch):
    pair = ModelPair.load(
        zoo.source("llama", "ia3"), zoo.source("llama", None), dtype=torch.float64, device="cpu"
    )
    mlp = pair.sides[A].model.model.layers[layer].mlp
    monkeypatch.setattr(mlp, "forward", lambda x: x)
    with pytest.raises(InterventionError, match=rf"layers\.{layer}\.mlp\.down_proj"):
        decode_patched(pair, prompts(), U, [UnitSet.all(pair.space())], max_new_tokens=2)


def test_hooks_are_gone_after_decoding_and_after_an_error(zoo):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", "lora"))
    model = pair.sides[A].model

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    decode_patched(pair, prompts(), U, [UnitSet.all(pair.space())], max_new_tokens=2)
    assert hooks() == 0
    with (
        pytest.raises(InterventionError),
        PairedRows(pair, {U: 1}, edits=[patch_edit(UnitSet.all(pair.space()), A)]) as rows,
    ):
        rows.forward({U: left_padded(prompts((3,)), pair)})
    assert hooks() == 0
