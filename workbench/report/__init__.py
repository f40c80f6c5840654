"""Records -> files: HTML, Markdown, PDF, a static site, the new model's card.

Public: `report` (export).
"""
