"""Widgets for JupyterLab: findings, live training, queries, map. Only this room imports Jupyter libraries.

Public: `findings`, `live` (live_training), `explore` (query_table), `map`, `finished` (waiting).
"""
