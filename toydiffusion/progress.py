"""Progress bars on a terminal or in a notebook. Elsewhere nothing is printed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec


@contextmanager
def bar(what: str, total: int, show: bool | None = None) -> Iterator[Callable[[int, str], None]]:
    """Yield a function `(done, note)` that moves a progress bar.

    - `what`: the text before the bar.
    - `total`: the number of units of work.
    - `show`: whether to show the bar. None (default): if standard error is a terminal, or in a notebook with
      ipywidgets, without which there would be a warning in place of the bar.

    >>> with bar("counting", 3, show=False) as move:
    ...     move(3, "done")
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    notebook = console.is_jupyter and find_spec("ipywidgets") is not None
    shown = notebook or console.is_terminal if show is None else show
    if not shown:
        yield lambda done, note: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as display:
        task = display.add_task(what, total=total, note="")

        def move(done: int, note: str) -> None:
            display.update(task, completed=done, note=note)

        yield move
