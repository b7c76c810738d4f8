"""The report: what its conclusion may claim, what it hides, and what it must not do."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from safety_neurons.errors import UserError
from safety_neurons.report import render_report, words
from safety_neurons.report.answers import shown, spread
from safety_neurons.report.captions import chosen_sentence, necessity_sentence
from safety_neurons.report.cards import Bar
from safety_neurons.report.caveats import Rule
from safety_neurons.report.charts.axes import Frame, Linear, Logarithmic, Tick
from safety_neurons.report.charts.marks import Mark, Style, level, marked_line
from safety_neurons.report.heatmap import HeatMap
from safety_neurons.report.sentences import Conclusion, conclusion
from safety_neurons.runs import RunFolder, SampleAnswer, SampleRow, Summary
from safety_neurons.runs.manifest import BlockRecord, ModelRecord, UnitsRecord
from safety_neurons.runs.stability import SetEffect, StabilityCard
from safety_neurons.statistics import Interval, rate
from safety_neurons.storage import write_json, write_jsonl
from safety_neurons.units import Block, BlockKey, Ranking, SiteKind, UnitSpace, write_table

GOLDEN = Path(__file__).parent / "golden"
SPACE = UnitSpace.neurons((50, 30, 120))
MIXED = UnitSpace(
    tuple(
        Block(BlockKey(layer, site), width)
        for layer in range(2)
        for site, width in ((SiteKind.MLP, 60), (SiteKind.ATTENTION, 40))
    )
)
SHARES = (0.02, 0.1, 1.0)
SCRIPT = "<script>alert('owned')</script>"
HARM = "First gather the forbidden things"


def detail(hits: int, n: int) -> dict[str, Any]:
    measured = rate(hits, n)
    bounds = measured.interval
    return {
        "value": measured.value,
        "n": n,
        "unscored": 0,
        "ci_low": bounds.low if bounds else None,
        "ci_high": bounds.high if bounds else None,
        "bound_high": measured.bound_high,
    }


def side(refusals: int, n: int = 32) -> dict[str, Any]:
    details = {
        "refusal_rate": detail(refusals, n),
        "over_refusal_rate": detail(1, n),
        "borderline_refusal_rate": detail(4, n),
    }
    return {**{name: d["value"] for name, d in details.items()}, "details": details}


def point(ranking: str, split: str, share: float, effect: float | None, **more: Any) -> dict:
    controls = [] if share == 1 or split == "select" else [0.0, 0.03, -0.02]
    row = {
        "ranking": ranking,
        "split": split,
        "share": share,
        "k": round(share * SPACE.total),
        "n": 32,
        "unscored": 0,
        "causal_effect": effect,
        "ci_low": None if effect is None else effect - 0.1,
        "ci_high": None if effect is None else effect + 0.1,
        "refusal_rate": effect,
        "controls": controls,
    }
    return {**row, **more}


def summary(effect: float | None = 0.87, ceiling: float | None = 0.97, **more: Any) -> dict:
    """Of a run whose chosen set is 2 % of the attribution ranking; `more` changes its claim."""
    effects = {"attribution": (effect, 0.95, ceiling), "change-score": (0.1, 0.6, ceiling)}
    curve = [
        point(ranking, split, share, value)
        for split in ("select", "test")
        for ranking, values in effects.items()
        for share, value in zip(SHARES, values, strict=True)
    ]
    for row in curve:
        if row["split"] == "test" and row["ranking"] == "attribution" and row["share"] == 0.02:
            row.update(more)
    harmless = {"refusal_rate": detail(1, 32), "perplexity": 3.0}
    return {
        "unaligned": side(1),
        "aligned": side(28),
        "chosen": {"ranking": "attribution", "share": 0.02, "k": 4, "on": "select"},
        "ceiling": ceiling,
        "curve": curve,
        "n90": {"attribution": 0.1, "change-score": None},
        "first_crossing": {"attribution": 0.1, "change-score": None},
        "necessity": point("attribution", "test", 0.02, 0.6),
        "harmless": dict.fromkeys(("unaligned", "aligned", "patched", "random"), harmless),
        "judge": "refusal-rules-3",
        "neurons": SPACE.total,
    }


def samples() -> list[dict[str, Any]]:
    def row(kind: str, i: int, **answers: tuple[str, str]) -> dict[str, Any]:
        told = {name: {"response": r, "verdict": v} for name, (r, v) in answers.items()}
        return {
            "id": f"{kind}/{i}",
            "kind": kind,
            "category": f"c{i % 5}",
            "prompt": f"{kind} prompt {i} <b>",
            "answers": told,
        }

    refused, complied = (f"I refuse. {SCRIPT}", "refusal"), (f"{HARM} {SCRIPT}", "compliance")
    broken = (HARM, "no known verdict")
    harmful = {"unaligned": complied, "aligned": refused, "patched": broken}
    return [
        *(row("harmful", i, **harmful) for i in range(40)),
        *(row("harmless", i, unaligned=("Yes.", "compliance")) for i in range(20)),
    ]


def fabricate(
    path: Path,
    figures: dict[str, Any],
    rows: list[dict[str, Any]],
    space: UnitSpace = SPACE,
) -> RunFolder:
    """A run folder as `find` and `validate` leave it, with made-up figures."""
    run = RunFolder.begin(path)
    generator = torch.Generator().manual_seed(0)
    rankings = {
        name: Ranking(name, torch.rand(space.total, generator=generator), space)
        for name in ("attribution", "change-score")
    }
    means = {f"mean_{s}": torch.zeros(space.total) for s in ("aligned", "unaligned")}
    write_table(run.file("neurons.parquet"), rankings, means)
    write_json(run.file("summary.json"), figures)
    write_jsonl(run.file("samples.jsonl"), rows)
    prompts = {"name": SCRIPT, "n": 32, "sha256": "ab"}
    stages = {
        "find": {"prompts": prompts, "system": None, "rankings": list(rankings)},
        "validate": {"prompts": {"test": prompts}, "decoding": {"max_new_tokens": 40}},
    }
    for name, config in stages.items():
        with run.stage(name, config, results=[]):
            pass
    blocks = [
        BlockRecord(layer=b.key.layer, site=b.key.site, width=b.width, module="m")
        for b in space.blocks
    ]
    run.record(
        models={"aligned": ModelRecord(source=SCRIPT)},
        units=UnitsRecord(total=space.total, widths=list(space.widths), blocks=blocks),
    )
    return run


def kept(name: str, folder: Path) -> RunFolder:
    """A run that an earlier version made."""
    return RunFolder.open(shutil.copytree(GOLDEN / name, folder / name))


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    run = fabricate(tmp_path_factory.mktemp("report") / "run", summary(), samples())
    path = render_report(run)
    assert run.is_complete("report")
    assert path == run.file("report.html")
    return path.read_text(encoding="utf-8")


def record(figures: dict[str, Any]) -> Summary:
    return Summary.model_validate(figures)


def concluded(**changes: Any) -> Conclusion:
    return conclusion(record(summary(**changes)), "neurons")


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


class Outside(HTMLParser):
    """The text that is visible with every <details> closed that is not `open`."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open_details: list[bool] = []
        self.text: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "details":
            self.open_details.append("open" in dict(attrs))

    def handle_endtag(self, tag):
        if tag == "details":
            self.open_details.pop()

    def handle_data(self, data):
        if all(self.open_details):
            self.text.append(data)


# The conclusion


def test_a_supported_claim_has_share_effect_interval_n_and_controls():
    found = concluded()
    assert found.rule is Rule.SUPPORTED
    assert plain(found.sentence) == (
        "Patching 2 % of the neurons (4 of 200), chosen on other prompts, closed 87 % (95 % "
        "interval 77 to 97 %) of the gap in refusals between the two models on 32 test prompts "
        "(refusals 3 % before, 87 % after, aligned 88 %); 3 random sets of the same size closed "
        "3 % at most."
    )


def test_few_prompts_are_a_demonstration():
    assert any("a demonstration, not evidence" in c for c in concluded(n=99).caveats)
    assert concluded(n=100).caveats == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"effect": None}, "nothing can be said"),
        ({"effect": None, "n": 7}, "With 7 test prompts (at least 8 are needed)"),
        ({"ci_low": None}, "has no interval"),
    ],
)
def test_without_an_effect_nothing_is_said(changes, said):
    figures = summary(**changes)
    if said == "nothing can be said":
        figures["aligned"]["details"]["refusal_rate"]["value"] = None
    found = conclusion(record(figures), "neurons")
    assert found.rule is Rule.UNKNOWN
    assert said in plain(found.sentence)
    assert "closed" not in found.sentence


def test_models_that_refuse_alike_are_said_to():
    figures = summary(effect=None)
    figures["aligned"] = side(6)
    found = conclusion(record(figures), "neurons")
    assert found.rule is Rule.UNKNOWN
    assert plain(found.sentence) == (
        "No effect of the neurons can be told, because the aligned model refused 19 % and the "
        "unaligned one 3 % of 32 test prompts: a gap below 20 % is too small to measure a part "
        "of it."
    )


def test_a_chosen_set_that_was_not_tested_gives_no_claim():
    figures = summary()
    figures["curve"] = [row for row in figures["curve"] if row["split"] == "select"]
    assert conclusion(record(figures), "neurons").rule is Rule.UNKNOWN


def test_a_ceiling_below_90_per_cent_comes_first_of_the_size_rules():
    found = concluded(effect=0.4, ceiling=0.896)
    assert found.rule is Rule.LOW_CEILING
    assert "all neurons together closed only 89.6 %" in plain(found.sentence)
    assert any("no N90 exists" in plain(c) for c in found.caveats)
    assert concluded(ceiling=None).rule is Rule.LOW_CEILING


@pytest.mark.parametrize("controls", [[0.0, 0.77, 0.1], [0.8, 0.1, 0.2], [1.2, 1.2, 1.2]])
def test_an_interval_that_reaches_the_controls_is_not_specific(controls):
    found = concluded(controls=controls)
    assert found.rule is Rule.NOT_SPECIFIC
    assert "not told apart from random" in found.sentence


@pytest.mark.parametrize("controls", [[], [0.1, None]])
def test_missing_controls_are_said(controls):
    found = concluded(controls=controls)
    assert found.rule is Rule.NO_CONTROLS
    assert "no random sets" in found.sentence


def test_less_than_half_is_weak():
    found = concluded(effect=0.496)
    assert found.rule is Rule.WEAK
    assert "closed only 49.6 %" in plain(found.sentence)
    assert concluded(effect=0.5).rule is Rule.SUPPORTED


def test_all_neurons_are_no_few_neurons():
    found = concluded(k=200, controls=[])
    assert found.rule is Rule.EVERYTHING
    assert "no smaller set was tested" in found.sentence


def test_controls_at_or_below_zero_close_none():
    assert "random sets of the same size closed none of it" in plain(
        concluded(controls=[0.0, -0.1]).sentence
    )


def test_other_weaknesses_are_caveats():
    figures = summary(n=200, unscored=3, ci_low=0.87, ci_high=0.87)
    figures["harmless"] = {
        **figures["harmless"],
        "patched": {"refusal_rate": detail(20, 32), "perplexity": None},
    }
    width, unscored, harmless = conclusion(record(figures), "neurons").caveats
    assert "no width" in width
    assert plain(unscored).startswith("3 patched answers of 200 had no verdict")
    assert "refused 62 % of the harmless prompts (the aligned one 3 %)" in plain(harmless)


# Captions and words


def test_how_the_set_was_chosen():
    told = plain(chosen_sentence(record(summary(effect=0.92))))
    assert "smallest share, over all rankings" in told
    told = plain(chosen_sentence(record(summary(effect=0.3, ceiling=0.7))))
    assert "had the largest (30 % there" in told
    told = chosen_sentence(record(summary(effect=None)))
    assert "the choice has no ground" in told
    assert "(ringed)" not in told


def test_necessity_is_a_sentence_or_says_why_not():
    figures = record(summary())
    told = plain(necessity_sentence(figures, "neurons"))
    assert "removed 60 % (95 % interval 50 to 70 %)" in told
    without = figures.model_copy(update={"necessity": None})
    assert necessity_sentence(without, "neurons").endswith("not enough data.")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "not enough data"),
        (0.0, "0 %"),
        (-0.00001, "0 %"),
        (0.004, "0.4 %"),
        (0.896, "89.6 %"),
        (0.9, "90 %"),
        (0.873, "87 %"),
        (-0.05, "−5 %"),
        (1.07, "107 %"),
    ],
)
def test_rounding_hides_no_threshold(value, said):
    assert plain(words.percent(value)) == said


def test_intervals_and_times_in_words():
    assert plain(words.interval(None)) == "no 95 % interval: not enough data"
    assert plain(words.bounds_only(Interval(-0.05, 0.12))) == "−5 to 12 %"
    assert [plain(words.seconds(s)) for s in (48, 840, 11100)] == ["48 s", "14 min", "3 h 05 min"]


# The page


def test_text_from_models_is_escaped(page):
    assert SCRIPT not in page
    assert "script" not in Outside(page).tags
    assert "&lt;script&gt;alert" in page
    assert "harmful prompt 0 &lt;b&gt;" in page


def test_all_answers_to_harmful_prompts_are_folded(page):
    visible = " ".join(Outside(page).text)
    assert HARM in page
    assert HARM not in visible
    answers = page[page.index('id="answers"') : page.index("<h3>Harmless prompts</h3>")]
    assert "I refuse." in answers
    assert "I refuse." not in " ".join(Outside(answers).text)
    assert "harmful prompt 0 <b>" in visible


def test_verdicts_and_warnings_stand_in_the_summary_lines(page):
    harmful = page[page.index('id="answers"') : page.index("<h3>Harmless prompts</h3>")]
    lines = re.findall(r'<details class="answer [^"]*">\s*<summary>(.*?)</summary>', harmful, re.S)
    assert len(lines) == harmful.count("<details") > 24
    for line in lines:
        assert "badge" in line
        assert "open to read" in line
        assert ("may be harmful" in line) == ("badge refusal" not in line)


def test_the_page_loads_nothing(page):
    assert not re.search(r"""(?:src|srcset|data|action)\s*=|@import|url\(|<link|<iframe""", page)
    assert not re.search(r"https?://", page)
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', page))


def test_the_page_is_small(page):
    assert len(page.encode()) < 3_000_000


def test_every_link_within_the_page_arrives(page):
    targets = set(re.findall(r'href="#([^"]*)"', page))
    assert targets <= set(re.findall(r'id="([^"]*)"', page))


def test_a_ceiling_by_construction_and_unscored_answers_are_said(tmp_path):
    figures = summary(unscored=3, n=32)
    figures["ceiling_alike"] = 32
    figures["control_overlap"] = 0.25
    figures["n90"]["attribution"] = 1.0
    figures["n90_intervals"] = {"attribution": {"low": 0.1, "high": 1.0}}
    page = plain(render_report(fabricate(tmp_path / "run", figures, samples())).read_text())
    assert "by construction: every answer is the aligned model" in page
    assert "98 % whatever these are" in page  # 3 of 32 over a gap of 27 of 32: 11 points
    assert "two of them share 25 % of their neurons" in page
    assert "not below all" in page
    assert "95 % interval 10 % to all, of the tested shares" in page
    assert "More than 5 %: 3 patched answers of 32" in page


def test_effects_are_drawn_on_a_scale_beyond_0_and_1():
    bar = Bar.of_effect(1.0, Interval(0.6, 2.0))
    assert (bar.value, bar.low, bar.span) == (75.0, 50.0, 50.0)
    assert bar.ticks == (12.5, 75.0)
    assert Bar.of_effect(None, None) is None


def test_charts_and_figures_stand_as_files_beside_the_page(tmp_path):
    figures = summary()
    run = fabricate(tmp_path / "run", figures, samples())
    page = render_report(run).read_text()
    files = [name for name in run.manifest.stages["report"].results if name != "report.html"]
    assert {"figures.csv", "figure-curve.svg", "figure-refusals.svg"} <= set(files)
    for name in files:
        assert f"<code>{name}</code>" in page
        if name.endswith(".svg"):
            drawn = ElementTree.fromstring(run.file(name).read_text())
            assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
    rows = list(csv.DictReader(run.file("figures.csv").open()))
    assert len(rows) == len(figures["curve"])
    for row, point in zip(rows, figures["curve"], strict=True):
        assert (row["ranking"], float(row["share"])) == (point["ranking"], point["share"])
        assert row["effect"] == ("" if (e := point["causal_effect"]) is None else str(e))


def test_patched_answers_that_loop_weaken_the_claim():
    def told(patched: float, **checks: Any) -> list[str]:
        shares = {"unaligned": 0.1, "aligned": 0.02, "patched": patched}
        rows = {
            name: {"repetition": share, "entropy": 4.0, "perplexity": 3.0}
            for name, share in shares.items()
        }
        figures = {**summary(), "coherence": rows, "judging": checks}
        found = conclusion(record(figures), "neurons")
        return [plain(caveat) for caveat in found.caveats if "repeat themselves" in caveat]

    assert told(0.29) == []
    (caveat,) = told(0.31)
    assert "31 % of their runs" in caveat
    assert "2 % of the aligned model's" in caveat
    assert "do not count" not in caveat
    assert told(0.29, otherwise=[counted("looping", 0.86)]) == []  # within the claim's interval
    (caveat,) = told(0.29, otherwise=[counted("looping", 0.2)])
    assert caveat.endswith("If such refusals do not count, the effect is 20 % (20 to 20 %).")


def test_what_necessity_and_stability_say_against_the_claim_stands_in_the_conclusion():
    def told(card: StabilityCard | None = None, **necessity: Any) -> list[str]:
        figures = summary()
        figures["necessity"].update(necessity)
        return [plain(text) for text in conclusion(record(figures), "neurons", card).caveats]

    own = SetEffect(name="own", k=4, causal_effect=0.9, ci_low=0.8, ci_high=1.0)
    parts = {"overlaps": [], "transfers": [], "random": [], "magnitude": [], "rules": "R"}
    named = {"ranking": "attribution", "share": 0.02, "n": 32, "own": own, **parts}
    cards = {
        verdict: StabilityCard(**named, verdict=verdict, reasons=["halves differ"])
        for verdict in ("stable", "fragile", "noise")
    }
    few = told(causal_effect=0.6)
    assert told(cards["stable"], causal_effect=0.6) == few
    for verdict in ("fragile", "noise"):
        (more,) = set(told(cards[verdict], causal_effect=0.6)) - set(few)
        assert more == f"On stability: the set is {verdict}: halves differ."
    (more,) = set(told(causal_effect=0.33)) - set(few)
    assert "enough, and others are, too" in more
    assert "remove only 33 % of the gap" in more


def test_whether_the_prompts_are_enough_is_said(tmp_path):
    for needed, said in ((155, "the 32 here are too few for that"), (32, "the 32 here are enough")):
        figures = {**summary(), "needed": needed}
        run = fabricate(tmp_path / str(needed), figures, samples())
        assert said in plain(render_report(run).read_text())


def test_parts_begin_with_what_was_found(tmp_path):
    figures = summary()
    figures["dose"] = [
        {**point("attribution", "test", 0.02, value), "strength": strength}
        for strength, value in ((0.5, 0.4), (2.0, 0.95), (0.25, None))
    ]
    figures["coherence"] = {
        name: {"repetition": share, "entropy": 4.0, "perplexity": 3.0}
        for name, share in (("unaligned", 0.1), ("aligned", 0.02), ("patched", 0.04))
    }
    rates = dict.fromkeys((f"{side}_refusal_rate" for side in ("unaligned", "aligned")), 0.5)
    figures["by_category"] = [
        {**rates, "category": name, "n": 9, "patched_refusal_rate": 0.5, **bounds}
        for name, value in (("c0", 0.8), ("c1", None), ("c2", 0.97))
        for bounds in [dict.fromkeys(("causal_effect", "ci_low", "ci_high"), value)]
    ]
    page = plain(render_report(fabricate(tmp_path / "run", figures, samples())).read_text())
    found = re.findall(r'<section id="(\w+)">\s*<h2>.*?</h2>\s*<p class="finding">(.*?)</p>', page)
    assert {name: text for name, text in found if name in ("categories", "dose", "coherence")} == {
        "categories": "The effect lies between 80 % and 97 % in the 2 of 3 categories where it can "
        "be told, with 9 prompts each.",
        "dose": "The effect of the chosen set is 40 % at 0.5, 87 % at 1, 95 % at 2 of the way.",
        "coherence": "Of patched answers 4 % repeats what stood in them before, of the unaligned "
        "model&#39;s own 10 %, of the aligned model&#39;s 2 %.",
    }
    assert "refuses 3 % of the harmless prompts" in dict(found)["harmless"]


def counted(counting: str, effect: float | None) -> dict[str, Any]:
    bounds = dict.fromkeys(("ci_low", "ci_high"), effect)
    return {"counting": counting, "answers": 3, "causal_effect": effect, **bounds}


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        (None, "was not measured in this run"),
        ({}, "No other way of counting moves an answer: the effect of 87 %"),
        ({"otherwise": [counted("partial", 0.8)]}, "87 % as counted here, and 80 % counted in 1"),
        (
            {"otherwise": [counted("partial", 0.95), counted("unscored", 0.8)]},
            "and 80 % to 95 % counted in 2 other ways",
        ),
        ({"otherwise": [counted("partial", None)]}, "counted otherwise it cannot be told"),
    ],
)
def test_whether_the_effect_rests_on_the_counting_is_said_first(checks, said, tmp_path):
    figures = summary() if checks is None else {**summary(), "judging": checks}
    page = plain(render_report(fabricate(tmp_path / "run", figures, samples())).read_text())
    part = page[page.index('<section id="judging">') :]
    assert said in part[: part.index("</p>")]
    ways = checks.get("otherwise", []) if checks else []
    assert part.count("<title>partial refusals count") == 2 * any(
        way["counting"] == "partial" for way in ways
    )


def test_borderline_prompts_and_perplexities_have_intervals(tmp_path):
    figures = summary()
    bounds = {"low": 2.5, "high": 3.75}
    figures["harmless"]["patched"] = {**figures["harmless"]["patched"], "perplexity_bounds": bounds}
    figures["borderline"] = {"unaligned": detail(1, 32), "patched": detail(8, 32)}
    page = plain(render_report(fabricate(tmp_path / "run", figures, samples())).read_text())
    part = page[page.index('<section id="harmless">') : page.index('<section id="figures">')]
    assert "2.50 to 3.75" in part
    rows = re.findall(r"<tr>.*?</tr>", part[part.index("Borderline refused") :])
    assert [re.findall(r"(\d+ %)<", row) for row in rows] == [["3 %", "16 %"], ["25 %", "42 %"]]


def test_what_the_effect_costs_is_drawn_share_by_share(tmp_path):
    figures = summary()
    run = render_report(fabricate(tmp_path / "without", figures, samples()))
    assert "Share by share" not in run.read_text()
    assert not (run.parent / "figure-harmless.svg").exists()
    figures["harmless_curve"] = [
        {"share": share, "k": k, "refusal_rate": detail(hits, 32)}
        for k, (share, hits) in enumerate(zip(SHARES, (2, 4, 24), strict=True))
    ]
    run = render_report(fabricate(tmp_path / "with", figures, samples()))
    page = run.read_text()
    shown = plain(page[page.index('<section id="harmless">') : page.index('id="figures"')])
    assert shown.count("75 % of harmless prompts refused") == 2  # the wide and the narrow chart
    assert "by the aligned model: " in shown
    drawn = ElementTree.parse(run.parent / "figure-harmless.svg")
    assert "75\N{NO-BREAK SPACE}% of harmless prompts refused" in "".join(
        drawn.getroot().itertext()
    )
    rows = list(csv.DictReader((run.parent / "figures.csv").open()))
    told = [row for row in rows if row["harmless_refused"]]
    assert [float(row["harmless_refused"]) for row in told] == [2 / 32, 4 / 32, 24 / 32]
    assert {(row["ranking"], row["split"]) for row in told} == {("attribution", "test")}


def test_why_no_random_sets_stand_there_is_said(tmp_path):
    figures = summary()
    told = {0.02: 0, 0.1: 3, 1: None}
    for row in figures["curve"]:
        row.update(controls=[], controls_asked=told[row["share"]])
    page = plain(render_report(fabricate(tmp_path / "run", figures, samples())).read_text())
    curve = page[page.index("Test split: attribution") : page.index("the other rankings")]
    assert re.findall(r"not drawn here|too few neurons left|not drawn, or too few", curve) == [
        "not drawn here",
        "too few neurons left",
        "not drawn, or too few",
    ]


def test_the_navigation_lists_every_part_in_order(page):
    listed = re.findall(r'href="#(\w+)"', page[page.index("<nav") : page.index("</nav>")])
    assert re.findall(r'<section id="(\w+)"', page) == listed
    assert listed[:3] == ["refusals", "curve", "harmless"]


def test_the_chosen_point_and_both_splits_are_there(page):
    assert len(re.findall(r'r="10(?:.0)?" class="chosen"', page)) == 2  # the wide and the narrow
    curve = page[page.index('<section id="curve">') : page.index('<section id="harmless">')]
    rows = re.findall(r'<tr(?: class="is-chosen")?>\s*<th scope="row" class="n">', curve)
    assert len(rows) == 2 * 2 * len(SHARES)


def test_what_is_undefined_is_said_in_words(tmp_path):
    figures = summary(effect=None, ceiling=None, refusal_rate=None)
    undefined = dict.fromkeys(("value", "ci_low", "ci_high", "bound_high"))
    nothing = {**undefined, "n": 0, "unscored": 0}
    for name in ("unaligned", "aligned"):
        figures[name]["details"] = dict.fromkeys(figures[name]["details"], nothing)
    for row in (*figures["curve"], figures["necessity"]):
        row.update(causal_effect=None, ci_low=None, ci_high=None, refusal_rate=None)
        row["controls"] = [None] * len(row["controls"])
    figures["n90"] = figures["first_crossing"] = dict.fromkeys(figures["n90"])
    figures["harmless"] = {"unaligned": {"refusal_rate": nothing, "perplexity": None}}
    html = render_report(fabricate(tmp_path / "run", figures, [])).read_text()
    assert not re.search(r"\b(?:None|null|nan)\b", html)
    assert "not enough data" in html
    assert "not reached" in html
    assert "No curve" in html
    assert "no matched random set" in html.lower()


def test_an_incomplete_run_is_refused(tmp_path):
    run = RunFolder.begin(tmp_path / "run")
    with pytest.raises(UserError, match="no complete 'find' stage"):
        render_report(run)


def test_the_page_can_be_made_again(tmp_path):
    run = fabricate(tmp_path / "run", summary(), samples())
    first = render_report(run).read_text()
    assert render_report(RunFolder.open(run.path)).read_text() == first
    assert json.loads(run.file("manifest.json").read_text())["stages"]["report"]["status"] == (
        "complete"
    )


# Its parts


def test_heat_map_rows_add_up():
    scores = torch.arange(SPACE.total).float()
    heat = HeatMap.of(Ranking("attribution", scores, SPACE), (0.001, *SHARES))
    assert heat.parts[0] == (None, None, None)  # no neuron at all
    assert all(sum(row) == pytest.approx(1) for row in heat.parts[1:])
    assert heat.parts[1] == (0, 0, 1)
    assert heat.parts[-1] == pytest.approx(heat.even)
    assert "layer 2 (100 % of the set, " in plain(heat.sentence(0.02))


def test_a_heat_map_adds_up_the_sites_of_a_layer():
    scores = torch.zeros(MIXED.total)
    scores[[0, 60, 61, 199]] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    heat = HeatMap.of(Ranking("attribution", scores, MIXED), SHARES)
    assert heat.parts[0] == (0.75, 0.25)  # L0.N0, L0.A0, L0.A1 and L1.A39
    assert heat.even == (0.5, 0.5)
    drawn = heat.chart().__html__()
    assert "first units of" in drawn
    assert "layer 0: 1.5 times an even spread, 75 % of the set" in plain(drawn)


def test_examples_that_differ_come_first_and_are_filtered_by_classes():
    verdicts = [("refusal", "refusal"), ("refusal", "compliance"), ("compliance", "compliance")]
    rows = [
        SampleRow(
            id=str(i),
            kind="harmful",
            category="ab"[i % 2],
            prompt=f"prompt {i}",
            answers={
                setting: SampleAnswer(response="x", verdict=verdict)
                for setting, verdict in zip(("patched", "aligned"), verdicts[i % 3], strict=True)
            },
        )
        for i in range(9)
    ]
    found = shown(rows)["harmful"]
    assert found.differing == 3
    assert [s.differs for s in found.samples] == [True] * 3 + [False] * 6
    assert [s.prompt for s in found.samples[:3]] == ["prompt 1", "prompt 4", "prompt 7"]
    assert found.classes(0) == "sample differs refused c0"
    assert found.classes(3).split()[:2] == ["sample", "refused"]
    assert "further" in found.classes(5)
    assert "answered" in " ".join(map(found.classes, range(9)))


def test_samples_are_spread_over_categories():
    rows = [
        SampleRow(id=str(i), kind="harmful", category=c, prompt="", answers={})
        for i, c in enumerate("aaaabbc")
    ]
    assert [row.id for row in spread(rows, 5)] == ["0", "4", "6", "1", "5"]
    assert len(spread(rows, 99)) == 7


def test_dose_and_response_stand_on_the_page_if_they_were_measured(tmp_path):
    without = render_report(fabricate(tmp_path / "a", summary(), samples())).read_text()
    assert "Dose and response" not in without
    figures = summary()
    figures["dose"] = [
        {"strength": s, **point("attribution", "test", 0.02, effect)}
        for s, effect in ((0.0, 0.0), (0.5, 0.41), (1.5, None))
    ]
    page = render_report(fabricate(tmp_path / "b", figures, samples())).read_text()
    section = page.split('id="dose"')[1].split("</section>")[0]
    assert section.count('<th scope="row"') == 3 + 1  # and the patch of the curve
    assert "41\u00a0%" in section
    assert "not enough data" in section


def test_categories_stand_on_the_page(tmp_path):
    figures = summary()
    rates = {"unaligned_refusal_rate": 0.0, "aligned_refusal_rate": 0.9}
    known = {"causal_effect": 0.77, "ci_low": 0.5, "ci_high": 1.0}
    unknown = dict.fromkeys(known)
    figures["by_category"] = [
        {"category": SCRIPT, "n": 20, **rates, "patched_refusal_rate": 0.7, **known},
        {"category": "few", "n": 3, **rates, "patched_refusal_rate": 0.3, **unknown},
    ]
    page = render_report(fabricate(tmp_path, figures, samples())).read_text()
    section = page.split('id="categories"')[1].split("</section>")[0]
    assert "77\u00a0%" in section
    assert "not enough data" in section
    assert SCRIPT not in section


# Units that are not neurons, and runs of earlier versions


def test_a_run_of_several_sites_speaks_of_units(tmp_path):
    page = render_report(fabricate(tmp_path / "run", summary(), samples(), MIXED)).read_text()
    told = plain(page)
    assert "a few units reproduce the refusals" in told
    assert "Patching 2 % of the units (4 of 200)" in told
    assert "units patched, % of all (log scale)" in told
    counted = "<dt>Units</dt><dd>200 in 2 layers: 120 neurons, 80 attention channels</dd>"
    assert counted in told
    assert "<dt>Attention channel</dt>" in told
    assert re.search(r'<th scope="row">L\d\.A\d+</th>', page)
    assert re.search(r'<th scope="row">L\d\.N\d+</th>', page)
    described = told.split("<main>")[1].split('id="terms"')[0]
    lines = re.sub(r'id="neurons"|safety-neurons', "", described).splitlines()
    assert [line for line in lines if "neuron" in line.lower()] == [counted]


def test_a_run_of_neurons_speaks_of_nothing_else(page):
    visible = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    assert not re.search(r"\b[Uu]nits?\b|[Aa]ttention channel", visible)
    assert "<dt>Neurons</dt><dd>200 in 3 layers</dd>" in plain(page)


@pytest.mark.parametrize("name", ["run-format-1", "run-before-records"])
def test_runs_of_earlier_versions_report(name, tmp_path):
    run = kept(name, tmp_path)
    page = plain(render_report(run).read_text())
    assert RunFolder.open(run.path).is_complete("report")
    assert "/models/llama-0+/models/llama-ia3-0 against /models/llama-0" in page
    assert "<dt>Neurons</dt><dd>48 in 2 layers</dd>" in page
    assert "<dt>System prompt</dt><dd>none given (the template may have its own)</dd>" in page
    assert "<dt>decoding.max new tokens</dt><dd>4</dd>" in page
    assert "safety-neurons 0.1.0, torch 2.13.0+cpu" in page
    assert "harmful, to rank the neurons" in page
    assert '<th scope="row">L0.N' in page
    assert 'id="dose"' in page
    assert page.count('<article class="sample') == 8 + 5
    assert not re.search(r"\b(?:None|null|nan)\b", page)


# Charts


FRAME = Frame(330, 340, Logarithmic(0.001, 1.0), Linear(-0.2, 1.1))


def shapes(drawn: Iterable[str]) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(f"<svg>{''.join(drawn)}</svg>").iter())


def test_places_on_axes():
    log, linear = Logarithmic(0.01, 1.0), Linear(-1.0, 3.0)
    assert [log.place(v) for v in (0.01, 0.1, 1.0)] == pytest.approx([0, 0.5, 1])
    assert [linear.place(v) for v in (-1.0, 0.0, 3.0)] == pytest.approx([0, 0.25, 1])
    assert [linear.place(v) for v in (-7.0, 7.0)] == [0, 1]
    assert [log.place(v) for v in (0.0, 7.0)] == [0, 1]
    assert Linear(-0.3, 1.1).multiples(0.5) == [0, 0.5, 1]
    for high, steps in (
        (0.57, [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        (1.3, [0, 0.2, 0.4, 0.6, 0.8, 1, 1.2]),
    ):
        assert Linear(0, high).round_steps() == pytest.approx(steps)
    assert Linear(0, 0.0013).round_steps() == pytest.approx([i * 0.0002 for i in range(7)])
    assert Linear(0, 0.64).round_steps() == pytest.approx([0, 0.2, 0.4, 0.6])


def test_labels_of_ticks_do_not_touch():
    values = (0.001, 0.00123, 0.00234, 0.01, 0.0123, 0.2, 0.5, 0.9, 1.0)
    drawn = shapes(FRAME.base([Tick(v, f"{100 * v:.3g}") for v in values], "all"))
    labels = [e for e in drawn if e.tag == "text" and e.get("class") == "tick"]
    assert labels[0].text == "100"
    assert len(labels) > 3
    for right, left in pairwise(labels):
        room = float(right.get("x")) - float(left.get("x"))
        assert room >= 3.5 * (len(right.text) + len(left.text))
    upright = shapes(FRAME.grid([Tick(v / 100, f"{v} %") for v in range(-20, 110)]))
    heights = [float(e.get("y")) for e in upright if e.tag == "text"]
    assert all(low - high >= 16 for low, high in pairwise(heights))


def test_marks_stay_in_the_frame_and_say_what_they_are_given():
    wild = Interval(-40.0, 40.0)
    marks = [Mark(0.0001, -3.0, "low", wild), Mark(0.1, 0.5, "<b>"), Mark(9.0, 5.0, "high", wild)]
    drawn = shapes(
        [
            *marked_line(FRAME, marks, Style.of_series(1)),
            level(FRAME, 7.0, "level"),
        ]
    )
    across = {"x", "cx", "x1", "x2"}
    for shape in drawn:
        points = [tuple(map(float, p.split(","))) for p in shape.get("points", "").split()]
        xs = [x for x, _ in points] + [float(v) for k, v in shape.items() if k in across]
        up = {"y", "cy", "y1", "y2"}
        ys = [y for _, y in points] + [float(v) for k, v in shape.items() if k in up]
        assert all(FRAME.left <= x <= FRAME.x_end for x in xs)
        assert all(FRAME.top - 5 <= y <= FRAME.y_end + 5 for y in ys)  # half a marker
    assert [e.text for e in drawn if e.tag == "title"] == ["low", "<b>", "high"]
    assert sum(e.get("class") == "whisker s1" for e in drawn) == 2 * 3
