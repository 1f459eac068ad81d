"""Progress in a notebook: the terminal's own bar and messages, drawn as HTML in one output that is updated.

rich draws in notebooks by ipywidgets, which not everyone has; a display that is updated works everywhere.
"""

import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from flexor_search.terminal import LiveObserver, bar

if TYPE_CHECKING:
    from flexor_search.runs import Measurement
    from flexor_search.tuning import Phase

_PRE = '<pre style="white-space:pre-wrap;line-height:1.3;font-size:12px">{code}</pre>'
_WIDTH = 100


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell is not None and hasattr(shell, "kernel")


class NotebookObserver:
    """Shows in the cell what `LiveObserver` shows in a terminal."""

    def __init__(self) -> None:
        from IPython.display import display  # type: ignore[import-not-found]  # there is a notebook, so there is this

        hidden = Console(file=io.StringIO(), force_terminal=True, force_jupyter=False, width=_WIDTH)
        self._progress = bar(hidden, auto_refresh=False)
        self._inner = LiveObserver(hidden, self._progress)
        self._lines: list[str] = []
        self._display: Any = display(self._html(), display_id=True)

    def message(self, text: str) -> None:
        """A line above the bar."""
        self._lines.append(text)
        self._draw()

    def planned(self, phases: "Sequence[Phase]") -> None:
        """As in a terminal."""
        self._inner.planned(phases)
        self._draw()

    def phase(self, name: str, trainings: int) -> None:
        """As in a terminal."""
        self._inner.phase(name, trainings)
        self._draw()

    def begin(self, what: str) -> None:
        """As in a terminal."""
        self._inner.begin(what)
        self._draw()

    def measured(self, measurement: "Measurement", best: str) -> None:
        """As in a terminal."""
        self._inner.measured(measurement, best)
        self._draw()

    def _draw(self) -> None:
        self._display.update(self._html())

    def _html(self) -> Any:
        from IPython.display import HTML  # type: ignore[import-not-found]

        page = Console(file=io.StringIO(), record=True, force_jupyter=False, width=_WIDTH)
        for line in self._lines:
            page.print(escape(line), highlight=False, soft_wrap=True)
        page.print(self._progress.get_renderable())
        return HTML(page.export_html(inline_styles=True, code_format=_PRE))
