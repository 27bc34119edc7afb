"""Bias-Driven Hallucination Sampling (arXiv 2407.02477), pure: no vLLM, no Redis, no clock.

`loop` is the paper's algorithm; `sentences`, `cuts`, `mask` are its draws; `policy` and
`similarity` are what it asks of the outside.
"""
