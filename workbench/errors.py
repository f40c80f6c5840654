"""Every error that the workbench raises on purpose.

    WorkbenchError               something a person can act on; the command line prints it and exits with 2
    ├── CardError                no model card there, or the file cannot be one
    │   └── NotACardError        a text, but not the card of a Sentence Transformers model
    ├── RecipeError              a recipe field is unknown, impossible, or missing where training needs it
    ├── DataError                rows or a collection that cannot be used as they are
    ├── BaseError                the base model cannot be had, or is not what it claims to be
    ├── TrainingError            training could not go on
    ├── RunError                 a run folder is missing, damaged or cannot be written
    └── OutOfMemoryError         memory ran out

A message is one sentence or two: what was expected, what was found (as `repr`), and what to do about it. What it quotes
is cut, so that a message can be read whatever a file holds.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

QUOTED = 80


def short(value: object) -> str:
    """A value for a message: its `repr`, cut.

    >>> short("word"), len(short("word" * 1000))
    ("'word'", 80)
    """
    shown = repr(value[: 2 * QUOTED] if isinstance(value, str | bytes) else value)
    return shown if len(shown) <= QUOTED else f"{shown[: QUOTED - 3]}..."


def listed(names: Iterable[object], most: int = 8) -> str:
    """Names for a message, with how many more there are.

    >>> listed(["a", 2]), listed("abcdefghijkl", most=2)
    ("'a', 2", "'a', 'b' and 10 more")
    """
    found = list(names)
    more = f" and {len(found) - most:,} more" if len(found) > most else ""
    return ", ".join(map(short, found[:most])) + more


def first_line(error: BaseException) -> str:
    """The first line of an error of the libraries, cut."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return text if len(text) <= 300 else f"{text[:297]}..."


class WorkbenchError(Exception):
    """Something went wrong that the person at the keyboard can act on. `str(error)` is the whole message."""


class CardError(WorkbenchError):
    """No model card there, or the file cannot be one."""


class NotACardError(CardError):
    """A text, but not the card of a Sentence Transformers model."""


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


class OutOfMemoryError(WorkbenchError):
    """Memory ran out, of the machine or of the device."""


EXTRAS = {
    "hub": ("huggingface_hub",),
    "train": (
        "accelerate", "datasets", "jinja2", "markupsafe", "numpy", "pandas", "peft", "plotly", "psutil", "pyarrow",
        "safetensors", "scipy", "sentence_transformers", "sklearn", "tokenizers", "torch", "transformers", "umap",
    ),
    "dashboard": ("streamlit",),
    "notebooks": (
        "IPython", "anywidget", "bleach", "ipykernel", "ipywidgets", "jupyterlab", "nbclient", "nbconvert", "nbformat",
        "traitlets",
    ),
}  # fmt: skip
"""The extras of the distribution, and the libraries that come with each."""


def install(extra: str) -> str:
    """The part of a message that says how to install what is missing.

    >>> install("offline")
    'install it: pip install "card-workbench[offline]"'
    """
    return f'install it: pip install "card-workbench[{extra}]"'


def install_line(module: str | None) -> str | None:
    """A sentence with the command that installs a missing library; None for one that no extra brings.

    >>> install_line("streamlit")
    'streamlit is not installed, which this needs; install it: pip install "card-workbench[dashboard]"'
    """
    library = (module or "").partition(".")[0]
    extra = next((name for name, libraries in EXTRAS.items() if library in libraries), None)
    if extra is None:
        return None
    return f"{library} is not installed, which this needs; {install(extra)}"


def check_installed(module: str) -> None:
    """Raises WorkbenchError, with the command that installs it, if a library of an extra is missing."""
    if find_spec(module) is None:
        raise WorkbenchError(f"{install_line(module)}.")


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Raises OutOfMemoryError where memory runs out inside, however a library says it and whatever was made of that."""
    try:
        yield
    except OutOfMemoryError:
        raise
    except (MemoryError, RuntimeError, OSError, WorkbenchError) as error:
        cause: BaseException | None = error
        while cause is not None and not (isinstance(cause, MemoryError) or NO_MEMORY.search(str(cause))):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        asked = re.search(r"(?:allocate|of size) ([\d.]+)(?: (?=[KMGT]i?B)(\w+))?", str(cause))
        amount = ""
        if asked is not None:
            size = f"{asked[1]} {asked[2]}" if asked[2] else f"{int(asked[1]) / 2**30:,.1f} GiB"
            amount = f" when {size} more were asked for"
        raise OutOfMemoryError(
            f"expected enough memory for {what}, found that it ran out{amount}; use smaller batches, fewer or shorter "
            "rows, or a smaller model."
        ) from error


NO_MEMORY = re.compile(r"can(?:'|no)t allocate memory|out of memory|bad_alloc", re.IGNORECASE)
