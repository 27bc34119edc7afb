"""Tiny random checkpoints of the families beyond hub_checkpoints: one function a family."""
