"""Reports: what failed, what was rescued and what it cost, as a page and as pictures."""

from recov_graph.report.building import build_report
from recov_graph.report.page import render_page

__all__ = ["build_report", "render_page"]
