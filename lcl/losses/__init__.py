"""Objectives: pure functions from tensors to named scalars."""
