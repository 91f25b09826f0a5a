"""Runs the checks of every quantizer and calibrator on squant and squant-range."""

from __future__ import annotations

from zsq.testing import conformance

test_squant = conformance("squant4")
test_squant_range = conformance("squant-range")
