"""Annotators: who ranks the policy's responses into pairs. One file each, found by name."""
