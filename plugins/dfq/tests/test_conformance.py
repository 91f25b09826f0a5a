"""Runs the checks of every calibrator on all four."""

from zsq.testing import conformance

test_cle = conformance("cle")
test_cle_with_relu = conformance("cle", options={"relu6": "relu"})
test_bias_absorption = conformance("bias-absorption")
test_bn_range = conformance("bn-range")
test_bias_correction = conformance("bias-correction")
test_bias_correction_on_the_stream = conformance("bias-correction", options={"source": "stream"})
