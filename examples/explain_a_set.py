"""What a run's neurons do, tested by taking stages out and putting them in; and one looked at."""

from __future__ import annotations

from pathlib import Path

from safety_neurons import (
    ExplainOptions,
    ExplanationCard,
    ExplanationPrompts,
    ModelPair,
    RunFolder,
    explain,
    look,
)


def main(
    pair: ModelPair,
    run: Path,
    prompts: ExplanationPrompts | None = None,
    *,
    options: ExplainOptions | None = None,
    tokens: int = 3_000,
) -> ExplanationCard:
    """Explain the set of a run of `pair`; with no prompts the built-in ones, 24 of each."""
    folder = RunFolder.open(run)
    options = options or ExplainOptions(share=0.005, controls=1, exact=16, pages=0)
    card = explain(folder, pair, prompts, options, limit=24)
    print(card.verdict, *card.reasons, sep="\n")
    for row in card.causal:
        refused, chance = row.refusal_rate.refusal_rate, row.random and row.random.refusal_rate
        print(f"{row.recipient}, {row.intervention} {row.stage}: {refused} (random {chance})")
    first = card.neurons[0].unit
    (page,) = look(folder, pair, [first], tokens=tokens).pages
    print(first, "writes", [token.token for token in page.readings[0].highest])
    return card


if __name__ == "__main__":
    main(ModelPair.embedded(), Path("runs/example"))
