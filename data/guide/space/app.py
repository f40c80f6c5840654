"""The card page of the dashboard alone: what a model card states, what the audit finds, and its recipe."""

import sys

import streamlit as st

from workbench.resources import shipped_path

PAGES = shipped_path("dashboard")
sys.path[:0] = [] if str(PAGES) in sys.path else [str(PAGES)]  # its pages import each other by their names

import parts  # noqa: E402

parts.start([st.Page(PAGES / "card.py", title="Card", default=True)], "audits model cards of Sentence Transformers.")
