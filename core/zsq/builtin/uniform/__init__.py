"""Uniform quantization: arithmetic, points, the teacher's graph, and the quantizer that puts them together."""
