"""Whether a fine-tune kept the refusals of the model it was made of, and which neurons moved."""

from __future__ import annotations

from pathlib import Path

from safety_neurons import AuditCard, AuditOptions, AuditPrompts, audit, write_audit


def main(
    reference: str, candidate: str, out: Path, *, limit: int = 32, share: float = 0.005
) -> AuditCard:
    """Audit `candidate` and write the folder `out`: figures, a page, and files for pipelines."""
    card = audit(
        reference,
        candidate,
        prompts=AuditPrompts.builtin(limit),
        options=AuditOptions(share=share, fail_under=0.9),
    )
    write_audit(card, out)
    print(card.verdict, *card.reasons, sep="\n")
    if card.drift is not None:
        for layer in card.drift.by_layer:
            print(f"layer {layer.layer}: {layer.function} (random {layer.random})")
    return card


if __name__ == "__main__":
    main("embedded:aligned", "embedded:unaligned", Path("audits/example"))
