"""The pages in a real browser: headless Chromium, where it is installed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from safety_neurons.report import render_comparison, render_report
from safety_neurons.runs.explanation import EXPLANATION, StageName
from safety_neurons.runs.fragility import (
    ABLATION,
    FRAGILITY,
    MAGNITUDE,
    RANDOM,
    Amplified,
    FragilityCard,
    RefusalRate,
    RemovalPoint,
    SingleEffect,
)
from safety_neurons.runs.neuronpages import (
    PAGES,
    Example,
    Examples,
    Neighbour,
    NeuronPage,
    NeuronPages,
    Reading,
    ScaledEffect,
    TokenWeight,
)
from safety_neurons.runs.stability import STABILITY, Overlap, SetEffect, StabilityCard, Verdict
from safety_neurons.storage import write_json
from tests.test_explanation_report import card as explained
from tests.test_report import SHARES, counted, detail, fabricate, point, samples, summary

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

DESKTOP, PHONE = (1280, 900), (390, 844)

OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"

CONTRASTS = """() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const f = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b);
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(e).backgroundColor);
      if (a === 1) return [r, g, b];
      if (a > 0) return null;  // a tint: judged by eye
    }
    return parse(getComputedStyle(document.documentElement).backgroundColor).slice(0, 3);
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || e.closest("svg")) continue;
    if (!e.checkVisibility()) continue;
    const back = behind(e);
    if (!back) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(back)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push([ratio, walk.currentNode.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""

WORDS = """() => {
  const found = [];
  for (const svg of document.querySelectorAll("figure svg")) {
    if (!svg.checkVisibility()) continue;
    const all = svg.getBoundingClientRect();
    const words = [...svg.querySelectorAll("text")]
      .map(e => [e.textContent, e.getBoundingClientRect()]);
    for (const [i, [said, a]] of words.entries()) {
      if (a.left < all.left - 1 || a.right > all.right + 1) found.push(["outside", said]);
      for (const [other, b] of words.slice(i + 1)) {
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (wide > 1 && high > 3) found.push([said, other]);
      }
    }
  }
  return found;
}"""

REACHABLE = """() => [...document.querySelectorAll("a[href], summary, [tabindex='0']")]
  .filter(e => e.checkVisibility()).length"""

FOCUSED = """() => {
  const e = document.activeElement, list = [...document.querySelectorAll("*")];
  const style = getComputedStyle(e);
  return [list.indexOf(e), e.tagName, style.outlineStyle !== "none" || style.boxShadow !== "none"];
}"""


@dataclass
class Opened:
    """A page in the browser, with what went wrong while it was opened."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    figures = summary()
    figures["dose"] = [
        {"strength": s, **point("attribution", "test", 0.02, s * 0.8)} for s in (0.5, 1.5)
    ]
    figures["harmless_curve"] = [
        {"share": share, "k": k, "refusal_rate": detail(k, 32)} for k, share in enumerate(SHARES, 1)
    ]
    figures["borderline"] = {"unaligned": detail(1, 32), "patched": detail(8, 32)}
    figures["coherence"] = {
        name: {"repetition": 0.1, "entropy": 4.0, "perplexity": 3.0}
        for name in ("unaligned", "aligned", "patched")
    }
    figures["judging"] = {"otherwise": [counted("partial", 0.8), counted("looping", None)]}
    runs = [fabricate(folder / name, figures, samples()) for name in ("one", "two")]
    with runs[0].stage("stability", {}, [STABILITY]) as stage:
        write_json(stage.file(STABILITY), card().written())
    with runs[0].stage("fragility", {}, [FRAGILITY]) as stage:
        write_json(stage.file(FRAGILITY), fragile().written())
    with runs[0].stage("explain", {}, [EXPLANATION, PAGES]) as stage:
        write_json(stage.file(EXPLANATION), explained().written())
        write_json(stage.file(PAGES), looked_at().written())
    comparison = render_comparison(runs, folder / "comparison.html")
    return {"report": render_report(runs[0]), "comparison": comparison}


def looked_at() -> NeuronPages:
    """One neuron with tokens and texts as awkward as they come."""
    tokens = [
        TokenWeight(token=t, value=v) for t, v in (("<b>", 3.0), ("\n", 2.0), ("x" * 60, 1.0))
    ]
    example = Example(before="…a <i>", token="\n", after=" word" * 30, value=12.5)
    return NeuronPages(
        corpus="3 texts",
        tokens=900,
        refusals=8,
        pages=[
            NeuronPage(
                unit="L5.N101",
                ranks={"attribution": 1, "change-score": 12345},
                stages=[StageName.MEDIATION],
                readings=[
                    Reading(of=of, highest=tokens, lowest=tokens) for of in ("writes", "gate")
                ],
                examples=[
                    Examples(model=model, highest=[example] * 6, lowest=[example])
                    for model in ("aligned", "unaligned")
                ],
                by_cosine=[Neighbour(unit="L6.N7", value=-0.4)],
                by_activation=[Neighbour(unit="L5.N101", value=0.9)],
                scaled=[ScaledEffect(factor=0.0, log_odds=-0.04, ci_low=-0.1, ci_high=0.02)],
            )
        ],
    )


def card() -> StabilityCard:
    """With a name that is longer than any chart has room for."""

    def effect(name: str, value: float | None) -> SetEffect:
        bounds = dict.fromkeys(("ci_low", "ci_high"), value)
        return SetEffect(name=name, k=4, causal_effect=value, **bounds)

    changed = ("halves of the prompts", "ranking", "another run")
    overlaps = [
        Overlap(changed=c, against="x" * 90, k=4, iou=i / 4, chance=0.01, rank_correlation=0.5)
        for i, c in enumerate(changed)
    ]
    return StabilityCard(
        ranking="attribution",
        share=0.02,
        n=32,
        own=effect("the chosen set", 0.87),
        overlaps=overlaps,
        transfers=[effect("another run of a long name " * 4, None), effect("b", 3.0)],
        random=[effect("random set 1", -3.0)],
        magnitude=[effect("set of the same magnitude 1", 0.07)],
        verdict=Verdict.FRAGILE,
        reasons=["halves differ"],
        rules="Rules.",
    )


def fragile() -> FragilityCard:
    """With every part, sizes close to each other, and a rate that is missing."""

    def rate(value: float | None) -> dict:
        low, high = (None, None) if value is None else (max(value - 0.1, 0), min(value + 0.1, 1))
        return {"n": 32, "refusal_rate": value, "ci_low": low, "ci_high": high}

    curve = [
        RemovalPoint(
            removal=removal,
            set=name,
            site=site,
            k=k,
            share=k / 2000,
            on_topic=0.3,
            harmless_perplexity=2.5 * k,
            **rate(None if name == RANDOM and k == 2 else max(1 - k / 150, 0)),
        )
        for site, removal in (("mlp", "mean"), ("mlp", "unaligned"), ("attention", "mean"))
        for name in ("change-score", RANDOM, ABLATION, MAGNITUDE)
        for k in (1, 2, 3, 20, 100, 200)
    ]
    single = [
        SingleEffect(
            unit=f"L1.N{i}",
            rank=i + 1,
            log_odds=0.02 - 0.01 * i,
            n=16,
            ci_low=-0.3,
            ci_high=0.1,
            generated=RefusalRate(**rate(0.9)) if i > 7 else None,
        )
        for i in range(12)
    ]
    return FragilityCard(
        model={},
        units=2000,
        ranking="change-score",
        judge="a judge",
        intact=RefusalRate(**rate(0.95)),
        intact_harmless=RefusalRate(**rate(0.05)),
        intact_perplexity=1.5,
        intact_on_topic=0.05,
        unaligned=RefusalRate(**rate(0.2)),
        unaligned_on_topic=0.6,
        curve=curve,
        single=single,
        single_ranking="change-score",
        amplification=[
            Amplified(factor=f, prompts=of, **rate(0.5))
            for f in (1.5, 3.0)
            for of in ("harmful", "harmless")
        ],
        amplified_k=20,
        halving_k=100,
        halving_set="change-score",
        n50=120,
        gini=0.8,
        effective_neurons=300.0,
    )


@pytest.fixture(params=["report", "comparison"])
def path(request, pages) -> Path:
    return pages[request.param]


@pytest.fixture
def opened(browser, path):
    contexts = []

    def show(size: tuple[int, int], scheme: str = "light") -> Opened:
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
        )
        contexts.append(context)
        found = Opened(context.new_page())
        found.page.on("console", lambda message: found.complaints.append(message.text))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.goto(path.as_uri())
        return found

    yield show
    for context in contexts:
        context.close()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_opens_offline_without_complaint_and_fits(opened, path, size):
    shown = opened(size)
    for details in shown.page.query_selector_all("details"):
        details.evaluate("e => e.open = true")
    assert shown.complaints == []
    assert shown.requests == [path.as_uri()]
    assert shown.page.evaluate(OVERFLOW) <= 0
    assert path.stat().st_size < 3e6


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes(opened, scheme):
    """At least 4.5 to 1, as WCAG 2.2 asks of text (success criterion 1.4.3)."""
    shown = opened(DESKTOP, scheme)
    contrasts = shown.page.evaluate(CONTRASTS)
    assert len(contrasts) > 50
    assert [(round(ratio, 2), text) for ratio, text in contrasts if ratio < 4.5] == []
    (background,) = {shown.page.evaluate("() => getComputedStyle(document.body).backgroundColor")}
    is_dark = sum(map(float, re.findall(r"[\d.]+", background)[:3])) < 3 * 128
    assert is_dark is (scheme == "dark")


def test_everything_is_reached_with_the_keyboard_and_seen(opened):
    page = opened(DESKTOP).page
    wanted = page.evaluate(REACHABLE)
    seen = set()
    for _ in range(wanted):
        page.keyboard.press("Tab")
        place, tag, visible = page.evaluate(FOCUSED)
        assert tag != "BODY"
        assert visible, (place, tag)
        seen.add(place)
    assert len(seen) == wanted > 5


def test_every_chart_has_hover_values_and_a_table(opened):
    page = opened(DESKTOP).page
    charts = page.query_selector_all("figure svg.chart")
    assert charts
    for chart in charts:
        assert chart.query_selector_all("title")
        section = chart.evaluate_handle("e => e.closest('section')").as_element()
        assert section.query_selector("table")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_words_of_charts_stand_inside_and_apart(opened, size):
    page = opened(size).page
    for details in page.query_selector_all("details"):
        details.evaluate("e => e.open = true")
    assert page.evaluate(WORDS) == []


def test_harmful_answers_are_folded_until_they_are_opened(browser, pages):
    page = browser.new_page()
    page.goto(pages["report"].as_uri())
    answer = page.get_by_text("First gather the forbidden things").first
    assert not answer.is_visible()
    answer.evaluate("e => { for (let d = e; d; d = d.parentElement) d.open = true }")
    assert answer.is_visible()
    page.close()


def test_charts_as_files_are_seen_at_every_width(browser, pages):
    """The page's style sheet hides the wide drawing on a phone; a small picture is no phone."""
    files = sorted(pages["report"].parent.glob("figure-*.svg"))
    assert len(files) >= 4
    page = browser.new_page(viewport={"width": PHONE[0], "height": PHONE[1]})
    for file in files:
        page.goto(file.as_uri())
        for drawing in page.query_selector_all("svg"):
            assert drawing.evaluate("e => getComputedStyle(e).display") != "none", file.name
    page.close()


def test_filters_of_examples_hide_and_show(browser, pages):
    page = browser.new_page()
    page.goto(pages["report"].as_uri())

    def shown() -> int:
        examples = page.query_selector_all("#answers .filtered:has(#harmful-all) .sample")
        return sum(example.is_visible() for example in examples)

    assert shown() == 5
    page.locator("label[for=harmful-all]").click()
    everything = shown()
    assert everything == 24
    page.locator("label[for=harmful-c0]").click()
    assert 0 < shown() < everything
    page.close()
