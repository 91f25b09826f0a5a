"""The built-in components pass the conformance kit that everybody else's have to pass."""

from __future__ import annotations

from zsq.testing import conformance

test_py = conformance(
    "py",
    {"shape": [3, 8, 8], "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "classes": 4},
    role="teacher",
    ref="zsq.testing.teachers:tiny",
)
test_classify = conformance("classify")
test_noise = conformance("noise")
test_uniform4 = conformance("uniform4")
test_uniform_deploy = conformance("uniform", {"scheme": "deploy"})
test_minmax = conformance("minmax")
test_ema = conformance("ema")
test_percentile = conformance("percentile")
test_mean_image_max = conformance("mean-image-max")
test_clip_search = conformance("clip-search")
test_kd = conformance("kd")
test_ce = conformance("ce")
test_soft_ce = conformance("soft-ce")
test_bns = conformance("bns")
test_mse = conformance("mse")
test_finetune = conformance("finetune")
test_clips = conformance("clips")
test_none = conformance("none", role="tune")
test_top1 = conformance("top1")
test_agreement = conformance("agreement")
test_safetensors = conformance("safetensors")
test_jsonl = conformance("jsonl")
