"""Files shipped with the workbench: data/, notebooks/ and dashboard/.

In a clone they are beside the package, in an installed wheel inside it, in `workbench/_shipped/`.
"""

from pathlib import Path

from workbench.errors import WorkbenchError

PACKAGE = Path(__file__).resolve().parent


def is_installed() -> bool:
    """Whether this is an installed wheel, not a clone."""
    return (PACKAGE / "_shipped").is_dir()


def shipped_path(name: str) -> Path:
    """The shipped file or folder `name` ("data/samples/porsche", "dashboard/app.py").

    Raises WorkbenchError where it does not exist.

    >>> shipped_path("data").name
    'data'
    """
    root = PACKAGE / "_shipped" if is_installed() else PACKAGE.parent
    if (root / name).exists():
        return root / name
    raise WorkbenchError(
        f"expected {name!r} of the workbench, found none in {str(root)!r}; "
        "the installation is incomplete: install card-workbench again."
    )
