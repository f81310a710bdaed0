"""Pictures of runs: curves and one-page reports."""

from positronic.viz.curve import draw_curve, draw_curves, read_events
from positronic.viz.report import Report, write_report

__all__ = ["Report", "draw_curve", "draw_curves", "read_events", "write_report"]
