"""Weights on disk: safetensors folders, FP8 blocks and tensor names. Nothing here knows a model."""
