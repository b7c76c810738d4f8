"""The verbs: find, validate, generate, judge, align."""
