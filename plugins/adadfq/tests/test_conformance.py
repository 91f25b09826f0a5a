"""The promises of every synthesizer and of every loss, kept by adadfq and logit-entropy."""

from zsq.testing import conformance

test_adadfq = conformance("adadfq")
test_logit_entropy = conformance("logit-entropy")
