"""The promises of every synthesizer, kept by intraq and its presets."""

from zsq.testing import conformance

SMALL = {"images": 8, "batch": 4, "iterations": 2}

test_intraq = conformance("intraq", options={"images": 8, "batch": 4})
test_intraq_paper = conformance("intraq-paper", options=SMALL)
test_intraq_paper_cifar100 = conformance("intraq-paper-cifar100", options=SMALL)
test_intraq_paper_imagenet = conformance("intraq-paper-imagenet", options=SMALL)
test_intraq_released_imagenet = conformance("intraq-released-imagenet", options=SMALL)
test_hast = conformance("hast", options=SMALL)
test_hast_imagenet = conformance("hast-imagenet", options=SMALL)
