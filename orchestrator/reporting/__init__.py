"""The report: a run directory, read into plain values and rendered with a template."""

from orchestrator.reporting.render import REPORT, render_rationale, render_report

__all__ = ["REPORT", "render_rationale", "render_report"]
