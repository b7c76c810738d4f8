"""The whole job: rank the neurons of a pair, prove by patching which matter, and report."""

from __future__ import annotations

from pathlib import Path

from safety_neurons import (
    Decoding,
    FindOptions,
    Kind,
    ModelPair,
    Split,
    TestPrompts,
    ValidateOptions,
    builtin,
    find,
    render_report,
    validate,
)


def main(pair: ModelPair, out: Path, *, limit: int = 32, max_new_tokens: int = 20) -> Path:
    """Find and validate on at most `limit` prompts of each set; returns where the report is."""
    decoding = Decoding(max_new_tokens)
    prompts = builtin(Kind.HARMFUL, Split.FIND).limited(limit)
    run = find(pair, out, prompts, FindOptions(decoding=decoding))
    options = ValidateOptions(shares=(0.002, 0.02), decoding=decoding)
    summary = validate(run, pair, TestPrompts.builtin().limited(limit), options)
    for point in summary.on("test"):
        print(point)
    print("N90:", summary.n90)
    return render_report(run)


if __name__ == "__main__":
    print(main(ModelPair.embedded(), Path("runs/example")))
