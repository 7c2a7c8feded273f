"""From a module in PyTorch to an ONNX graph that an engine takes, in the precision that it is to run in."""

IMAGES = "images"
"""The input that every graph has."""
LOGITS = "logits"
"""The output that every model has; further ones are taps, for the proof."""
