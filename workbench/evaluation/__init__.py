"""Scores and what they mean: metrics, exact top-k, statistics, comparison with the card.

Public: `Evaluation` (retrieval), `compare`, `Comparison` (compare).
"""
