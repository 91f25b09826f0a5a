"""Every promise of the components."""

from __future__ import annotations

from zsq.testing import conformance

test_squant = conformance("squant4")
test_squant_range = conformance("squant-range")
