"""The promises of every calibrator, kept by aac and abn."""

from zsq.testing import conformance

test_aac = conformance("aac")
test_abn = conformance("abn")
test_abn_ema = conformance("abn", options={"mode": "ema"}, role="calib")
test_abn_stream = conformance("abn", options={"source": "stream"})
