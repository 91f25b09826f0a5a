"""What `zsq verify` says of answers: counted in the unit of the task."""

from __future__ import annotations

import pytest

from zsq_cli.saved import verify_lines

RESULT = {
    "exported": "onnx",
    "runtime": "a runtime",
    "images": 64,
    "source": "synthetic patterns",
    "argmax_agreement": 99.95,
    "max_abs_diff": 0.1,
    "spread": 8.0,
    "first": None,
    "integer": ["conv"],
    "floating": [],
    "below_8_bits": False,
    "scheme": "deploy",
    "verified": True,
}


@pytest.mark.parametrize(("unit", "told"), [("images", "64 images"), ("pixels", "the pixels of 64 images"), ("priors", "the priors of 64")])
def test_agreement_is_told_in_the_task_s_unit(unit: str, told: str) -> None:
    said = "\n".join(verify_lines({**RESULT, "unit": unit}))
    assert f"99.95 % of {told}" in said and said.endswith("verified")
