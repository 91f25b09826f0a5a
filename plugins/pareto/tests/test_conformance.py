"""The promises of every quantizer, kept by pareto."""

from zsq.testing import conformance

test_pareto = conformance("pareto")
