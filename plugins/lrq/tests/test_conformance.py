"""The promises of every synthesizer and every loss, kept by lrq and dkd."""

from zsq.testing import conformance

test_lrq = conformance("lrq")
test_dkd = conformance("dkd")
