"""The promises of every synthesizer, kept by qimera."""

from zsq.testing import conformance

test_qimera = conformance("qimera")
