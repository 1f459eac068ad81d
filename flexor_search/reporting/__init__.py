"""What people look at: tables first (pure data), then figures, then one HTML file. No torch here."""

from flexor_search.reporting.page import page, write_report
from flexor_search.reporting.tables import front, layer_rates, points, progress, result_rows

__all__ = ["front", "layer_rates", "page", "points", "progress", "result_rows", "write_report"]
