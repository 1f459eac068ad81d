"""What people look at: tables first (pure data), then figures, then one HTML file. No torch here; plotly loads late."""

from flexor_search.reporting.comparison_page import write_comparison
from flexor_search.reporting.inline import inline_html
from flexor_search.reporting.page import write_report
from flexor_search.reporting.results import layer_rates, result_rows
from flexor_search.reporting.shipped import economies, file_parts, layer_sizes
from flexor_search.reporting.tables import front, points, progress

__all__ = [
    "economies",
    "file_parts",
    "front",
    "inline_html",
    "layer_rates",
    "layer_sizes",
    "points",
    "progress",
    "result_rows",
    "write_comparison",
    "write_report",
]
