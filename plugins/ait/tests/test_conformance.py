"""Runs the checks of every tuner on ait."""

from zsq.testing import conformance

test_ait = conformance("ait")
test_ait_released = conformance("ait", options={"released": True, "range_lr": 0.0, "schedule": "step", "milestones": [1]})
