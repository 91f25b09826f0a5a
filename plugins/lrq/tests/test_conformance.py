"""Runs the checks of every synthesizer and every loss on lrq and dkd."""

from zsq.testing import conformance

test_lrq = conformance("lrq")
test_dkd = conformance("dkd")
