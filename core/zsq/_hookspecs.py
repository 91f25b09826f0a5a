"""Every hook of zsq on one screen. Collectors yield light descriptors; training never goes through hooks.

Each docstring is a complete entry module of a plugin.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from zsq._component import Component
    from zsq.events import Event

hookspec = pluggy.HookspecMarker("zsq")
#: Marks a function of an entry module as an implementation of the hook of its name.
hookimpl = pluggy.HookimplMarker("zsq")


@hookspec
def zsq_teachers() -> Iterable[Component]:
    """Teacher sources: turn the reference ``NAME:...`` into a frozen network, its input spec and its task.

    .. code-block:: python

        from zsq import Component, hookimpl

        @hookimpl
        def zsq_teachers():
            yield Component("lab", "zsq_lab.teacher:Lab", summary="Networks of our lab: lab:NAME.")
    """
    return ()


@hookspec
def zsq_tasks() -> Iterable[Component]:
    """Tasks: what a target is, what the logits are, how far a student is from its teacher.

    .. code-block:: python

        from zsq import Component, hookimpl

        @hookimpl
        def zsq_tasks():
            yield Component("depth", "zsq_depth.task:Depth", summary="Depth per pixel.")
    """
    return ()


@hookspec
def zsq_synthesizers() -> Iterable[Component]:
    """Synthesizers: make batches from the teacher alone.

    .. code-block:: python

        from zsq import Component, hookimpl

        @hookimpl
        def zsq_synthesizers():
            yield Component("fractal", "zsq_fractal.synth:Fractal", summary="Fractal images.")
    """
    return ()


@hookspec
def zsq_quantizers() -> Iterable[Component]:
    """Quantizers: give a new student with quantization points; the teacher stays as it is.

    .. code-block:: python

        from zsq import Component, hookimpl

        @hookimpl
        def zsq_quantizers():
            yield Component("log2", "zsq_log2.quant:Log2", summary="Powers of two.", provides={"act.range"})
    """
    return ()


@hookspec
def zsq_calibrators() -> Iterable[Component]:
    """Calibrators: set ranges, BatchNorm statistics or biases from synthetic batches; no gradient on weights.

    .. code-block:: python

        from zsq import Component, hookimpl

        @hookimpl
        def zsq_calibrators():
            yield Component("median", "zsq_median.calib:Median", summary="Median of image maxima.", needs={"act.range"})
    """
    return ()


@hookspec
def zsq_losses() -> Iterable[Component]:
    """Losses: pure functions of a view of one batch.

    .. code-block:: python

        from zsq import Component, hookimpl

        @hookimpl
        def zsq_losses():
            yield Component("l2", "zsq_l2.loss:L2", summary="Squared logit error.", needs={"teacher.output", "student.output"})
    """
    return ()


@hookspec
def zsq_tuners() -> Iterable[Component]:
    """Tuners: gradient work on the student, from the stream and the objective.

    .. code-block:: python

        from zsq import Component, hookimpl

        @hookimpl
        def zsq_tuners():
            yield Component("swa", "zsq_swa.tune:Swa", summary="Averaged weights.", needs={"student.output"})
    """
    return ()


@hookspec
def zsq_evaluators() -> Iterable[Component]:
    """Evaluators: named numbers of a module; chosen by ``--eval NAME`` or ``--eval NAME:REST``.

    .. code-block:: python

        from zsq import Component, hookimpl

        @hookimpl
        def zsq_evaluators():
            yield Component("top5", "zsq_top5.eval:Top5", summary="Top-5 accuracy: top5:PATH.")
    """
    return ()


@hookspec
def zsq_exporters() -> Iterable[Component]:
    """Exporters: write files from a finished student.

    .. code-block:: python

        from zsq import Component, hookimpl

        @hookimpl
        def zsq_exporters():
            yield Component("npz", "zsq_npz.export:Npz", summary="Codes and scales as a NumPy archive.")
    """
    return ()


@hookspec
def zsq_logs() -> Iterable[Component]:
    """Logs: write down what happens in the runs that ask for them; chosen by ``--log NAME:REST``.

    .. code-block:: python

        from zsq import Component, hookimpl

        @hookimpl
        def zsq_logs():
            yield Component("syslog", "zsq_syslog.log:Syslog", summary="Messages of a run in the system's log.")
    """
    return ()


@hookspec
def zsq_readers() -> Iterable[Component]:
    """Readers: make teachers of what a library publishes in a store.

    .. code-block:: python

        from zsq import Component, hookimpl

        @hookimpl
        def zsq_readers():
            yield Component("kerasio", "zsq_kerasio.reader:Kerasio", summary="Networks that the library kerasio publishes.")
    """
    return ()


@hookspec
def zsq_stores() -> Iterable[Component]:
    """Stores: places that finished students are published to and fetched from; a place is named ``STORE:REST``.

    .. code-block:: python

        from zsq import Component, hookimpl

        @hookimpl
        def zsq_stores():
            yield Component("bucket", "zsq_bucket.store:Bucket", summary="A bucket of our cloud: bucket:PATH.")
    """
    return ()


@hookspec
def zsq_components() -> Iterable[Component]:
    """Components of every role, each with its ``role``: one hook for a plugin that is one file.

    .. code-block:: python

        from zsq import Component, hookimpl

        @hookimpl
        def zsq_components():
            yield Component("flat", "zsq_flat:Flat", summary="Images of one colour.", role="synth")
            yield Component("hinge", "zsq_flat:Hinge", summary="Hinge loss.", role="loss", needs={"targets", "student.output"})
    """
    return ()


@hookspec
def zsq_event(event: Event) -> None:
    """Everything that happens in a run, for progress bars, loggers and reports.

    What keeps something between events is a method of a class; the entry point then names the class (``"zsq_mine:Mine"``), and every
    manager of plugins makes one of its own.

    .. code-block:: python

        from zsq import hookimpl

        @hookimpl
        def zsq_event(event):
            print(event)
    """
