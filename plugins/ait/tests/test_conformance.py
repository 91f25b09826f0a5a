"""The promises of every tuner, kept by ait."""

from zsq.testing import conformance

test_ait = conformance("ait")
test_ait_with_learned_ranges = conformance("ait", options={"range_lr": 1e-2})
