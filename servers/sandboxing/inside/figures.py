"""matplotlib's `plt.show()` in a sandbox: every open figure becomes a PNG in /work.

It is a backend of matplotlib's, named in MPLBACKEND; what it needs is imported when asked for.
"""

from __future__ import annotations

import os
import sys
from typing import Any

NAME = "sandbox_figures"


def show(*_: object, **__: object) -> None:
    """Save the open figures as figure-1.png and so on, and close them."""
    from matplotlib import pyplot  # type: ignore[import-not-found,unused-ignore]

    for number in pyplot.get_fignums():
        pyplot.figure(number).savefig(_free_name())
        pyplot.close(number)


def _free_name() -> str:
    number = 1
    while os.path.lexists(f"figure-{number}.png"):
        number += 1
    return f"figure-{number}.png"


def __getattr__(name: str) -> Any:
    if name == "FigureCanvas":
        from matplotlib.backends.backend_agg import (  # type: ignore[import-not-found,unused-ignore]
            FigureCanvasAgg,
        )

        globals()[name] = FigureCanvasAgg  # matplotlib looks into the dictionary afterwards
        return FigureCanvasAgg
    raise AttributeError(name)


def register() -> None:
    """Make it importable by NAME, and matplotlib's choice unless the code makes another."""
    sys.modules[NAME] = sys.modules[__name__]
    os.environ["MPLBACKEND"] = f"module://{NAME}"
