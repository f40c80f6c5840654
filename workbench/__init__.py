"""Card Workbench: a model card goes in; a verdict that you can trust comes out.

    import workbench as wb

    card = wb.read_card("porsche-mxbai")        # a README.md, its folder, a shipped name, or a Hub id
    wb.audit(card)                              # what it contradicts, hides, or cannot have measured
    run = wb.train(wb.recipe(card), card=card)  # train it again: a run folder
    wb.compare(run)                             # its numbers beside the card's: intervals and a verdict
    wb.report(run)                              # one HTML file

The modules of the same names are imported here first, so that `wb.audit` stays the function after
`import workbench.audit`. None of them imports a heavy library before it is called.
"""

from workbench.audit import Audit, Finding, audit
from workbench.card import Card
from workbench.collection import Collection, load_collection
from workbench.compare import Comparison, compare
from workbench.errors import BaseError, CardError, DataError, RecipeError, RunError, TrainingError, WorkbenchError
from workbench.evaluate import Evaluation
from workbench.reading import parse_card, read_card, shipped_cards
from workbench.recipe import Recipe, load_recipe, recipe
from workbench.report import report
from workbench.reproduce import evaluate, reproduce
from workbench.run import Run, list_runs, open_run
from workbench.train import train

__all__ = [
    "Audit",
    "BaseError",
    "Card",
    "CardError",
    "Collection",
    "Comparison",
    "DataError",
    "Evaluation",
    "Finding",
    "Recipe",
    "RecipeError",
    "Run",
    "RunError",
    "TrainingError",
    "WorkbenchError",
    "audit",
    "compare",
    "evaluate",
    "list_runs",
    "load_collection",
    "load_recipe",
    "open_run",
    "parse_card",
    "read_card",
    "recipe",
    "report",
    "reproduce",
    "shipped_cards",
    "train",
]
