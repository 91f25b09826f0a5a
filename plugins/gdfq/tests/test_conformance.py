"""The promises of every synthesizer, kept by gdfq."""

from zsq.testing import conformance

test_gdfq = conformance("gdfq")
