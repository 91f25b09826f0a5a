"""Every hook works: the example in its docstring is installed as a plugin, and what it yields is found."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable

import pytest

from zsq import _hookspecs as hookspecs
from zsq._manager import Manager
from zsq.events import Message
from zsq.testing import FakeDist

#: Hook to role and name of the component in its example.
EXAMPLES = {
    "zsq_teachers": ("teacher", "lab"),
    "zsq_tasks": ("task", "depth"),
    "zsq_synthesizers": ("synth", "fractal"),
    "zsq_quantizers": ("quant", "log2"),
    "zsq_calibrators": ("calib", "median"),
    "zsq_losses": ("loss", "l2"),
    "zsq_tuners": ("tune", "swa"),
    "zsq_evaluators": ("eval", "top5"),
    "zsq_exporters": ("export", "npz"),
    "zsq_logs": ("log", "syslog"),
    "zsq_readers": ("reader", "kerasio"),
    "zsq_stores": ("store", "bucket"),
    "zsq_components": ("loss", "hinge"),
}


def _example(hook: str) -> str:
    text = inspect.getdoc(getattr(hookspecs, hook))
    assert text is not None
    return textwrap.dedent(text.partition(".. code-block:: python")[2])


def test_the_table_is_complete() -> None:
    assert {name for name in vars(hookspecs) if name.startswith("zsq_")} == {*EXAMPLES, "zsq_event"}


@pytest.mark.parametrize("hook", EXAMPLES)
def test_example_yields_its_component(hook: str, fake_dist: Callable[..., FakeDist]) -> None:
    role, name = EXAMPLES[hook]
    fake = fake_dist("zsq-example", _example(hook))
    found = Manager.discover(distributions=[fake.distribution]).get(role, name)
    assert (found.role, found.component.name, found.provider) == (role, name, "zsq-example 0.1.0")


def test_zsq_event_example_hears_events(fake_dist: Callable[..., FakeDist], capsys: pytest.CaptureFixture[str]) -> None:
    fake = fake_dist("zsq-example", _example("zsq_event"))
    Manager.discover(distributions=[fake.distribution]).emit(Message(1.0, "hello"))
    assert "hello" in capsys.readouterr().out
