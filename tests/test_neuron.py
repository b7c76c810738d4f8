"""A neuron's page: the corpus, the command on a tiny run, and what the page shows."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch

from safety_neurons import registry
from safety_neurons.engine import Side
from safety_neurons.errors import UserError
from safety_neurons.inference import Decoding
from safety_neurons.judges import Verdict
from safety_neurons.methods.examples import Document
from safety_neurons.progress import Silent
from safety_neurons.prompts import ChatFormat, Kind, Split, builtin
from safety_neurons.report.neuronpage import effect_sentence, neuron_page_html, token_text
from safety_neurons.runs.explanation import StageName
from safety_neurons.runs.neuronpages import (
    Example,
    Examples,
    Neighbour,
    NeuronPage,
    NeuronPages,
    Reading,
    ScaledEffect,
    TokenWeight,
)
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.studies.explanation.corpus import CHUNK, Corpus, _with_answers
from safety_neurons.studies.explanation.looking import units_named
from safety_neurons.studies.explanation.pages import FACTORS, neuron_pages
from safety_neurons.units import Ranking, SiteKind, UnitSpace
from tests.commands import invoke, refused
from tests.tiny import BOS


class Always:
    """Every answer is a refusal, whatever it says."""

    name = "always-2"

    def __call__(self, prompts, responses):
        return [Verdict.REFUSAL] * len(responses)


@pytest.fixture(scope="module")
def pair(zoo):
    return zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", None))


def evaluator(pair) -> Evaluator:
    return Evaluator(pair, Always(), Decoding(3), ChatFormat(), None, Silent())


# Texts.


def test_the_built_in_texts_are_harmless_prompts_with_both_answers(pair):
    corpus = Corpus.builtin(evaluator(pair), tokens=900)
    assert corpus.tokens <= 900
    asked = {
        tuple(ids)
        for kind in (Kind.HARMLESS, Kind.BORDERLINE)
        for ids in evaluator(pair).encoded(builtin(kind, Split.TEST))
    }
    assert re.match(r"\d+ of 300 harmless", corpus.described)
    assert [document.number for document in corpus.documents] == list(range(len(corpus.documents)))
    for document in corpus.documents:
        assert any(document.tokens[: len(ids)] == ids for ids in asked)
        assert 1 <= document.begins <= document.counted < len(document.tokens)


def test_of_a_second_answer_what_differs_counts():
    prompts = [[1, 5, 7, 6], [1, 5, 8, 9, 6]]
    answers = [[[11, 12, 2], [11]], [[11, 13, 14], [11, 2]]]
    found = list(_with_answers(prompts, answers, frozenset({2})))
    assert found == [
        Document(0, (1, 5, 7, 6, 11, 12), 2, 2),
        Document(1, (1, 5, 7, 6, 11, 13, 14), 5, 2),
        Document(2, (1, 5, 8, 9, 6, 11), 2, 2),
    ]


def test_too_few_tokens_for_a_prompt_are_refused(pair):
    with pytest.raises(UserError, match="give more --tokens"):
        Corpus.builtin(evaluator(pair), tokens=10)


def test_a_file_is_read_in_chunks_and_says_what_was_left_out(pair, tmp_path):
    file = tmp_path / "texts.txt"
    long = " ".join(["w20 w21"] * CHUNK)
    file.write_text(f"w10 w11\nw12\n\n\n{long}\n \nw14 w15\n")
    corpus = Corpus.of_file(file, pair)
    assert corpus.described == "all 3 paragraphs of texts.txt"
    lengths = [len(document.tokens) for document in corpus.documents]
    assert max(lengths) == CHUNK
    assert {document.tokens[0] for document in corpus.documents} == {BOS}
    assert {document.begins for document in corpus.documents} == {1}
    own = sum(length - 1 for length in lengths)
    assert own == 3 + 2 * CHUNK + 2
    less = Corpus.of_file(file, pair, tokens=CHUNK + 10)
    assert less.tokens <= CHUNK + 10
    assert less.described == "the first 1 and what fits of the next, of 3 paragraphs of texts.txt"
    file.write_text("w10 w11\nw12 w13\n")
    assert len(Corpus.of_file(file, pair).documents) == 2  # lines, without blank ones


@pytest.mark.parametrize("content", [b"", b" \n\n ", b"\xff\xfe\xfa"])
def test_files_without_texts_are_refused(pair, tmp_path, content):
    file = tmp_path / "texts.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"texts\.txt"):
        Corpus.of_file(file, pair)
    with pytest.raises(UserError, match="could not be read"):
        Corpus.of_file(tmp_path / "none.txt", pair)


# Names.


def test_names_are_units():
    space = UnitSpace.neurons((5, 5))
    assert units_named(space, ["L1.N4", "L0.N2", "L1.N4"]) == [9, 2]
    for wrong in ("L9.N1", "L0.N5", "L0.A1", "N3", "L1.N4 ", "l1.n2", "foo", ""):
        with pytest.raises(UserError, match=r"L0\.N0 to L1\.N4; write a layer"):
            units_named(space, [wrong])


def test_names_of_attentions_channels(pair):
    space = pair.space(SiteKind.MLP, SiteKind.ATTENTION)
    (place,) = units_named(space, ["L1.A3"])
    assert space.names_of(torch.tensor([place])) == ["L1.A3"]


# The study.


def test_a_page_holds_what_the_models_do(pair):
    space = pair.space()
    corpus = Corpus.builtin(evaluator(pair), tokens=400)
    rankings = {
        name: Ranking(name, torch.arange(space.total).float() * sign, space)
        for name, sign in (("up", 1.0), ("down", -1.0))
    }
    stages = {"L0.N3": [StageName.STEERING]}
    pages = neuron_pages(pair, rankings, [3, 40], corpus, stages=stages)
    first, second = pages.pages
    assert (first.unit, second.unit) == ("L0.N3", "L1.N16")
    assert first.ranks == {"up": space.total - 3, "down": 4}
    assert first.stages == [StageName.STEERING]
    assert second.stages is None
    assert [reading.of for reading in first.readings] == ["writes", "gate", "up"]
    assert [examples.model for examples in first.examples] == list(Side)
    for examples in first.examples:
        high = [example.value for example in examples.highest]
        low = [example.value for example in examples.lowest]
        assert high == sorted(high, reverse=True)
        assert low == sorted(low)
        assert high[0] >= low[0]
        for example in (*examples.highest, *examples.lowest):
            assert example.token.strip()
            assert "<s>" not in example.before
    assert len(first.by_activation) == 10
    assert all(-1 <= n.value <= 1 for n in (*first.by_cosine, *first.by_activation))
    assert first.unit not in {n.unit for n in (*first.by_cosine, *first.by_activation)}
    assert pages.tokens == corpus.tokens
    assert pages.refusals == 0
    assert first.scaled == []


# The command.


def test_wrong_names_are_refused_before_models_are_loaded(whole_run, tmp_path):
    refused(invoke("neuron", whole_run, "L99.N1"), "'L99.N1' is no neuron of this run", "L0.N0")
    refused(invoke("neuron", whole_run, "L0.N1", "foo"), "'foo' is no neuron of this run")
    refused(invoke("neuron", tmp_path, "L0.N1"), "no run folder")
    assert not (whole_run / "neurons").exists()


def test_the_command(whole_run, tmp_path, monkeypatch):
    monkeypatch.setitem(registry.JUDGES._values, "always", Always())
    run = shutil.copytree(whole_run, tmp_path / "run")
    done = invoke(
        "neuron", run, "L1.N7", "L0.N2", "--tokens", 600, "--limit", 4, "--judge", "always",
        "--device", "cpu",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    for unit in ("L1.N7", "L0.N2"):
        assert unit in done.output
        held = (run / "neurons" / f"{unit}.json").read_text()
        pages = NeuronPages.parsed(held)
        (page,) = pages.pages
        assert page.unit == unit
        assert set(page.ranks) == {"path-attribution", "change-score"}
        assert [effect.factor for effect in page.scaled] == list(FACTORS)
        assert pages.refusals == 4
        html = (run / "neurons" / f"{unit}.html").read_text()
        assert html.startswith("<!doctype html>")
        assert f'id="neuron-{unit}"' in html
        assert "<mark>" in html
        assert not re.search(r"(?:src|href)=\"(?!#)", html)
    assert (run / "manifest.json").read_text() == (whole_run / "manifest.json").read_text()


def test_the_command_on_a_file_and_a_model_that_refuses_nothing(whole_run, tmp_path):
    run = shutil.copytree(whole_run, tmp_path / "run")
    file = tmp_path / "own.txt"
    file.write_text("w10 w11 w12\n\nw13 w14\n")
    done = invoke("neuron", run, "L0.N0", "--corpus", file, "--limit", 2, "--device", "cpu")
    assert done.exit_code == 0, done.output
    page = json.loads((run / "neurons" / "L0.N0.json").read_text())
    assert page["corpus"] == "all 2 paragraphs of own.txt"
    assert page["pages"][0]["scaled"] == []
    assert "Not measured" in done.output
    missing = invoke("neuron", run, "L0.N0", "--corpus", tmp_path / "x.txt", "--device", "cpu")
    refused(missing, "x.txt", "could not be read")


def test_another_command_that_writes_is_respected(whole_run, pair, tmp_path):
    from safety_neurons.runs import RunFolder

    run = shutil.copytree(whole_run, tmp_path / "run")
    with RunFolder.open(run).writing():
        refused(invoke("neuron", run, "L0.N0", "--device", "cpu"), "Another command is writing")


# The page.


def page_of(unit: str, *effects: ScaledEffect) -> NeuronPage:
    token = [TokenWeight(token=" <b>no", value=2.5)]
    example = Example(before="I am ", token="<i>", after=" able", value=3.25)
    return NeuronPage(
        unit=unit,
        ranks={"a": 1234},
        stages=[StageName.DETECTION],
        readings=[Reading(of="writes", highest=token, lowest=token)],
        examples=[Examples(model="aligned", highest=[example] * 7, lowest=[example])],
        by_cosine=[Neighbour(unit="L2.N2", value=-0.5), Neighbour(unit="L9.N9", value=0.5)],
        by_activation=[],
        scaled=list(effects),
    )


def test_the_page_escapes_marks_and_links():
    pages = NeuronPages(corpus="texts", tokens=12, pages=[page_of("L1.N1"), page_of("L2.N2")])
    html = neuron_page_html(pages, "my-run")
    assert "I am <mark>&lt;i&gt;</mark> able" in html
    assert "·&lt;b&gt;no" in html
    assert '<a href="#neuron-L2.N2">L2.N2</a>' in html
    assert "#neuron-L9.N9" not in html
    assert "1,234" in html
    assert "detects harmful prompts" in html
    assert "<summary>The next 2</summary>" in html
    assert "my-run" in html


def test_the_part_for_the_report_folds_each_page():
    from safety_neurons.report.neuronpage import neuron_views
    from safety_neurons.report.templating import _environment

    pages = NeuronPages(corpus="texts", tokens=12, pages=[page_of("L1.N1"), page_of("L2.N2")])
    macros = _environment().get_template("neuron.html.jinja").module
    part = str(macros.pages_part(neuron_views(pages), pages))
    assert part.count('<details class="neuron">') == 2
    assert part.count("<details") == part.count("</details>")
    assert 'id="neuron-L1.N1"' in part
    assert "<mark>&lt;i&gt;</mark>" in part


@pytest.mark.parametrize(
    ("effects", "said"),
    [
        ([], "Not measured"),
        ([(0.0, -0.5, None, None)], "no further than chance"),
        ([(0.0, -0.5, -0.8, 0.1), (2.0, 0.2, 0.1, 0.3)], "doubled (× 2), the model’s own refusals"),
        ([(0.0, -0.5, -0.8, -0.1), (2.0, 0.2, 0.1, 0.3)], "become less likely"),
    ],
)
def test_effects_in_words(effects, said):
    shown = [
        ScaledEffect(factor=f, log_odds=value, ci_low=low, ci_high=high)
        for f, value, low, high in effects
    ]
    assert said in effect_sentence(shown)


def test_spaces_of_tokens_are_seen():
    assert token_text(" a\n\tb\x0c") == "·a↵→b\\x0c"
