"""Every error that the workbench raises on purpose.

    WorkbenchError               something a person can act on; the command line prints it and exits with 2
    ├── CardError                no model card there, or the file cannot be one
    ├── RecipeError              a recipe field is unknown, impossible, or missing where training needs it
    ├── DataError                rows or a collection that cannot be used as they are
    ├── BaseError                the base model cannot be had, or is not what it claims to be
    ├── TrainingError            training could not go on
    └── RunError                 a run folder is missing, damaged or cannot be written

A message is one sentence or two: what was expected, what was found (as `repr`), and what to do about it.
"""


class WorkbenchError(Exception):
    """Something went wrong that the person at the keyboard can act on. `str(error)` is the whole message."""


class CardError(WorkbenchError):
    """No model card there, or the file cannot be one."""


class RecipeError(WorkbenchError):
    """A recipe field is unknown, impossible, or missing where training needs it."""


class DataError(WorkbenchError):
    """Rows or a collection that cannot be used as they are."""


class BaseError(WorkbenchError):
    """The base model cannot be had, or is not what it claims to be."""


class TrainingError(WorkbenchError):
    """Training could not go on."""


class RunError(WorkbenchError):
    """A run folder is missing, damaged or cannot be written."""
