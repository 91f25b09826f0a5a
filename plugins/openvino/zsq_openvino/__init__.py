"""Exporter ``openvino``: a student as an OpenVINO file that runs in integer arithmetic.

Light: descriptors only. The files are made in ``zsq_openvino.exporter``, run in ``zsq_openvino.runtime``.
"""

from __future__ import annotations

from collections.abc import Iterator

from zsq import Component, hookimpl


@hookimpl
def zsq_exporters() -> Iterator[Component]:
    yield Component(
        "openvino",
        "zsq_openvino.exporter:OpenVino",
        summary="OpenVINO's files of the student's ONNX graph, for its CPU plugin: the same integer weights and activations.",
        needs={"graph"},
    )
