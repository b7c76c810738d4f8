"""Report: one HTML page of a run, or of several side by side, from their folders alone."""

from safety_neurons.report.comparison import COMPARISON, render_comparison
from safety_neurons.report.page import render_report

__all__ = ["COMPARISON", "render_comparison", "render_report"]
