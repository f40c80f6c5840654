"""Card Workbench: a model card goes in; a verdict that you can trust comes out.

    import workbench as wb

    card = wb.read_card("porsche-mxbai")  # a README.md, its folder, a shipped name, or a Hub id
    wb.audit(card)                        # what it contradicts, hides, or cannot have measured
    run = wb.train(card)                  # train it again: a run folder
    wb.compare(run)                       # its numbers beside the card's: intervals and a verdict
    wb.report(run)                        # one HTML file
    wb.verify("owner/model")              # or no training: the published weights against their card

In a notebook `wb.start` trains in a separate process, `await wb.finished(run)` waits for it, and `wb.live`,
`wb.findings`, `wb.explore` and `wb.map` show things.

A name is imported when it is first used: `import workbench` alone loads none of the rooms.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.audit.finding import Finding as Finding
    from workbench.audit.rules import Audit as Audit
    from workbench.audit.rules import audit as audit
    from workbench.cards.card import Card as Card
    from workbench.cards.read import parse_card as parse_card
    from workbench.cards.read import read_card as read_card
    from workbench.cards.read import shipped_cards as shipped_cards
    from workbench.data.collection import Collection as Collection
    from workbench.data.collection import load_collection as load_collection
    from workbench.errors import BaseError as BaseError
    from workbench.errors import CardError as CardError
    from workbench.errors import DataError as DataError
    from workbench.errors import RecipeError as RecipeError
    from workbench.errors import RunError as RunError
    from workbench.errors import TrainingError as TrainingError
    from workbench.errors import WorkbenchError as WorkbenchError
    from workbench.evaluation.compare import compare as compare
    from workbench.evaluation.comparison import Comparison as Comparison
    from workbench.evaluation.retrieval import Evaluation as Evaluation
    from workbench.models.losses import register_loss as register_loss
    from workbench.notebook.findings import findings as findings
    from workbench.notebook.live_training import live as live
    from workbench.notebook.map import map as map
    from workbench.notebook.query_table import explore as explore
    from workbench.notebook.waiting import finished as finished
    from workbench.pipeline import evaluate as evaluate
    from workbench.pipeline import load_model as load_model
    from workbench.pipeline import reproduce as reproduce
    from workbench.pipeline import verify as verify
    from workbench.recipe.from_card import recipe as recipe
    from workbench.recipe.schema import Recipe as Recipe
    from workbench.recipe.yaml_io import load_recipe as load_recipe
    from workbench.report.export import report as report
    from workbench.run import Run as Run
    from workbench.run import list_runs as list_runs
    from workbench.run import open_run as open_run
    from workbench.training.background import resume as resume
    from workbench.training.background import start as start
    from workbench.training.background import wait as wait
    from workbench.training.train import train as train

_NAMES = {
    "audit.finding": ("Finding",),
    "audit.rules": ("Audit", "audit"),
    "cards.card": ("Card",),
    "cards.read": ("parse_card", "read_card", "shipped_cards"),
    "data.collection": ("Collection", "load_collection"),
    "errors": (
        "BaseError", "CardError", "DataError", "RecipeError", "RunError", "TrainingError", "WorkbenchError",
    ),
    "evaluation.compare": ("compare",),
    "evaluation.comparison": ("Comparison",),
    "evaluation.retrieval": ("Evaluation",),
    "models.losses": ("register_loss",),
    "notebook.findings": ("findings",),
    "notebook.live_training": ("live",),
    "notebook.map": ("map",),
    "notebook.query_table": ("explore",),
    "notebook.waiting": ("finished",),
    "pipeline": ("evaluate", "load_model", "reproduce", "verify"),
    "recipe.from_card": ("recipe",),
    "recipe.schema": ("Recipe",),
    "recipe.yaml_io": ("load_recipe",),
    "report.export": ("report",),
    "run": ("Run", "list_runs", "open_run"),
    "training.background": ("resume", "start", "wait"),
    "training.train": ("train",),
}  # fmt: skip
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("card-workbench")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        if missing := import_module("workbench.errors").install_line(error.name):
            raise ModuleNotFoundError(missing, name=error.name) from error
        raise
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


class _Package(ModuleType):
    """Keeps `wb.audit`, `wb.recipe` and `wb.report` functions: importing those rooms does not replace them."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in _MODULES):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
