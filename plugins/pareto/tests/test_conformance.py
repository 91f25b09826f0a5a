"""The promises of every quantizer, kept by pareto."""

from zsq.testing import conformance

test_pareto = conformance("pareto", xfail={"check_eight_bits_stay_near_the_teacher": "its weights have 4 bits on average by default"})
test_pareto_with_room_for_eight_bits = conformance("pareto", options={"mean_bits": 8})
test_pareto_paper = conformance("pareto-paper", options={"mean_bits": 8})
test_pareto_of_operations = conformance("pareto", options={"bops": 3e6, "act_candidates": [4, 6, 8], "scheme": "deploy"})
