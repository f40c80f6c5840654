"""Rows and collections: Hub id, local file or shipped sample -> training rows, queries, corpus, relevant documents.

Public: `load_collection`, `Collection` (collection), `load_pairs` (training_rows).
"""
