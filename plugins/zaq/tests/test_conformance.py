"""The promises of every synthesizer and of every loss, kept by zaq and its losses."""

from zsq.testing import conformance

test_zaq = conformance("zaq")
test_zaq_released = conformance("zaq-released")
test_logit_l1 = conformance("logit-l1")
test_crm = conformance("crm")
test_scrm = conformance("scrm")
