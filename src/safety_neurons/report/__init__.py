"""Report: one HTML page of a run, from its folder alone."""

from safety_neurons.report.page import render_report

__all__ = ["render_report"]
