"""The hooks that a plugin can implement. They yield component descriptors and receive events; training calls no hook.

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
    """Tasks: define targets, logits and the distance between the outputs of student and teacher.

    .. code-block:: python

        from zsq import Component, hookimpl

        @hookimpl
        def zsq_tasks():
            yield Component("depth", "zsq_depth.task:Depth", summary="Depth per pixel.")
    """
    return ()


@hookspec
def zsq_synthesizers() -> Iterable[Component]:
    """Synthesizers: generate image batches from the teacher alone.

    .. code-block:: python

        from zsq import Component, hookimpl

        @hookimpl
        def zsq_synthesizers():
            yield Component("fractal", "zsq_fractal.synth:Fractal", summary="Fractal images.")
    """
    return ()


@hookspec
def zsq_quantizers() -> Iterable[Component]:
    """Quantizers: return a new student with quantization points; the teacher does not change.

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
    """Losses: pure functions of one batch's outputs and features.

    .. code-block:: python

        from zsq import Component, hookimpl

        @hookimpl
        def zsq_losses():
            yield Component("l2", "zsq_l2.loss:L2", summary="Squared logit error.", needs={"teacher.output", "student.output"})
    """
    return ()


@hookspec
def zsq_tuners() -> Iterable[Component]:
    """Tuners: train the student with gradients of the objective on batches from the stream.

    .. code-block:: python

        from zsq import Component, hookimpl

        @hookimpl
        def zsq_tuners():
            yield Component("swa", "zsq_swa.tune:Swa", summary="Averaged weights.", needs={"student.output"})
    """
    return ()


@hookspec
def zsq_evaluators() -> Iterable[Component]:
    """Evaluators: compute named metrics of a network; chosen by ``--eval NAME`` or ``--eval NAME:REST``.

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
    """Logs: record the events of a run; chosen by ``--log NAME:REST``.

    .. code-block:: python

        from zsq import Component, hookimpl

        @hookimpl
        def zsq_logs():
            yield Component("syslog", "zsq_syslog.log:Syslog", summary="Messages of a run in the system's log.")
    """
    return ()


@hookspec
def zsq_readers() -> Iterable[Component]:
    """Readers: build teachers from the files that a library publishes in a store.

    .. code-block:: python

        from zsq import Component, hookimpl

        @hookimpl
        def zsq_readers():
            yield Component("kerasio", "zsq_kerasio.reader:Kerasio", summary="Networks that the library kerasio publishes.")
    """
    return ()


@hookspec
def zsq_stores() -> Iterable[Component]:
    """Stores: publish finished students and fetch them; an address is written ``STORE:REST``.

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
    """Receives every event of a run, for progress bars, loggers and reports.

    A plugin that keeps state between events implements this hook as a method of a class. Its entry point then names the class
    (``"zsq_mine:Mine"``), and every plugin manager creates its own instance.

    .. code-block:: python

        from zsq import hookimpl

        @hookimpl
        def zsq_event(event):
            print(event)
    """
