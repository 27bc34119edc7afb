"""How good a served policy is: POPE, object hallucination and recall of captions, the toy world.

All over `POST /sample`, so on whatever model and version the workers serve (docs/evaluation.md).
"""
