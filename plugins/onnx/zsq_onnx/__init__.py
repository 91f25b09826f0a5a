"""Exporter ``onnx``: a student as an ONNX file that runs in integer arithmetic.

Light: descriptors only. The file is made in ``zsq_onnx.exporter``, proven in ``zsq_onnx.verify``, timed in ``zsq_onnx.bench``.
"""

from __future__ import annotations

from collections.abc import Iterator

from zsq import Component, hookimpl


@hookimpl
def zsq_exporters() -> Iterator[Component]:
    yield Component(
        "onnx",
        "zsq_onnx.exporter:Onnx",
        summary="An ONNX file with integer weights and activations, for ONNX Runtime: QDQ at 8 bits, int8 containers below.",
        needs={"graph"},
    )
