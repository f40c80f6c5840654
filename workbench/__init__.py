"""Card Workbench: a model card goes in; a verdict that you can trust comes out.

    import workbench as wb

    card = wb.read_card("porsche-mxbai")        # a README.md, its folder, a shipped name, or a Hub id
    wb.audit(card)                              # what it contradicts, hides, or cannot have measured
    run = wb.train(wb.recipe(card), card=card)  # train it again: a run folder
    wb.compare(run)                             # its numbers beside the card's: intervals and a verdict
    wb.report(run)                              # one HTML file

In a notebook `wb.start` trains in a process of its own, `await wb.finished(run)` waits for its end, and `wb.live`,
`wb.findings`, `wb.explore` and `wb.map` show things.

The modules of the same names are imported here first, so that `wb.audit` stays the function after
`import workbench.audit`. None of them imports a heavy library before it is called.
"""

from typing import Any

from workbench.audit import Audit, Finding, audit
from workbench.background import resume, start, wait
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
    "explore",
    "findings",
    "finished",
    "list_runs",
    "live",
    "load_collection",
    "load_recipe",
    "map",
    "open_run",
    "parse_card",
    "read_card",
    "recipe",
    "register_loss",
    "report",
    "reproduce",
    "resume",
    "shipped_cards",
    "start",
    "train",
    "wait",
]


def explore(run: Run, evaluation: str | None = None) -> Any:
    """The queries of a run in a notebook, with their rankings; see `widgets.explore`."""
    from workbench.widgets import explore as show

    return show(run, evaluation)


def findings(card: Card) -> Any:
    """The findings on a card in a notebook; see `widgets.findings`."""
    from workbench.widgets import findings as show

    return show(card)


async def finished(run: Run) -> Run:
    """The run, once its training has ended, awaited in a notebook; see `widgets.finished`."""
    from workbench.widgets import finished as end

    return await end(run)


def live(run: Run) -> Any:
    """A run in a notebook while it is trained; see `widgets.live`."""
    from workbench.widgets import live as show

    return show(run)


def map(run: Run, evaluation: str | None = None, method: Any = "umap") -> Any:
    """The map of a run's queries and documents in a notebook; see `widgets.map`."""
    from workbench.widgets import map as show

    return show(run, evaluation, method)


def register_loss(name: str, build: Any) -> None:
    """Let recipes name a loss of your own; see `losses.register_loss`."""
    from workbench.losses import register_loss as register

    register(name, build)
