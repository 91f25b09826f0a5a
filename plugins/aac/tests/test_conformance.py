"""The promises of every calibrator, kept by aac and abn."""

from zsq.testing import conformance

test_aac = conformance("aac")
test_abn = conformance("abn")
test_abn_on_the_stream = conformance("abn", options={"source": "stream"})
test_abn_ema = conformance(
    "abn",
    options={"mode": "ema"},
    xfail={"check_does_not_worsen_the_student": "replaces good statistics by those of a few synthetic images"},
)
