"""Where the things that come with the workbench lie: data/, notebooks/ and dashboard/.

In a clone they lie beside the package; in an installed wheel they lie inside it, in `workbench/_shipped/`.
"""

from pathlib import Path

from workbench.errors import WorkbenchError

PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """The file or folder `name` ("data/samples/porsche", "dashboard/app.py") that came with the workbench.

    Raises WorkbenchError where it is in neither place.

    >>> shipped("data").name
    'data'
    """
    for root in (PACKAGE.parent, PACKAGE / "_shipped"):
        if (root / name).exists():
            return root / name
    raise WorkbenchError(
        f"expected {name!r} beside the package or inside it, found none at {str(PACKAGE.parent)!r}; "
        "the installation is not complete: install card-workbench again."
    )
