"""Run -> records -> figures: the one place that joins before and after; surfaces only render.

Public: `summarize` (summary).
"""
