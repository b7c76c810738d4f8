"""Figures of speed and memory, as ratios within one run; no test depends on them."""
