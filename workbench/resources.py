"""Where the things that come with the workbench lie: data/, notebooks/ and dashboard/.

In a clone they lie beside the package; in an installed wheel they lie inside it, in `workbench/_shipped/`, and what
lies beside it is somebody else's.
"""

from pathlib import Path

from workbench.errors import WorkbenchError

PACKAGE = Path(__file__).resolve().parent


def installed() -> bool:
    """Whether this is an installed wheel, and not a clone."""
    return (PACKAGE / "_shipped").is_dir()


def shipped(name: str) -> Path:
    """The file or folder `name` ("data/samples/porsche", "dashboard/app.py") that came with the workbench.

    Raises WorkbenchError where it is not there.

    >>> shipped("data").name
    'data'
    """
    root = PACKAGE / "_shipped" if installed() else PACKAGE.parent
    if (root / name).exists():
        return root / name
    raise WorkbenchError(
        f"expected {name!r} of the workbench, found none in {str(root)!r}; "
        "the installation is not complete: install card-workbench again."
    )
