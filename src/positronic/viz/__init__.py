"""Pictures of runs: curves, one-page reports, replays of what a model said."""

from positronic.viz.curve import draw_curve, draw_curves
from positronic.viz.page import page
from positronic.viz.report import Report, Table, write_report
from positronic.viz.scene import replay

__all__ = ["Report", "Table", "draw_curve", "draw_curves", "page", "replay", "write_report"]
