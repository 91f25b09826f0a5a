"""Tasks made from what a plan chose: a teacher's number of classes is known only once it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from zsq._plan import Choice

if TYPE_CHECKING:
    from zsq.protocols import Task


def maker(choice: Choice) -> Callable[[int], Task]:
    """Gives the task for a number of classes; what ``Context.task`` is."""

    def make(classes: int) -> Task:
        options = choice.component.options.parse({**choice.options.to_dict(), "classes": classes}, str(choice))
        task: Task = choice.component.implementation()(options, None)
        return task

    return make
