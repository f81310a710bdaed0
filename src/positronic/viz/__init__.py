"""Pictures of runs: curves and one-page reports."""

from positronic.viz.curve import draw_curve, draw_curves, read_events
from positronic.viz.report import Report, Table, write_report

__all__ = ["Report", "Table", "draw_curve", "draw_curves", "read_events", "write_report"]
