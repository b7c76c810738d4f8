"""What is used where nothing is said, for the library and the command line alike."""

from __future__ import annotations

RANKINGS = ("path-attribution", "change-score")
"""By what units are ranked, the primary ranking first."""

MAX_NEW_TOKENS = 40
"""Where an answer is cut."""

BATCH_SIZE = 32
"""The most prompts read together."""

SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 1.0)
"""Fractions of all units that a validation patches."""

CONTROLS = 3
"""Matched random sets at each share of the test split."""

SEED = 0
"""Of draws of prompts, random sets and the bootstrap."""

JUDGE = "refusal-classifier"
"""Who gives verdicts on answers."""
