"""The promises of every synthesizer, kept by zeroq and its presets."""

from zsq.testing import conformance

SMALL = {"images": 8, "batch": 4, "iterations": 2}

test_zeroq = conformance("zeroq", options={"images": 8, "batch": 4})
test_zeroq_paper = conformance("zeroq-paper", options=SMALL)
test_zeroq_released = conformance("zeroq-released", options=SMALL)
