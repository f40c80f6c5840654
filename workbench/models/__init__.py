"""Base model -> encoder, adapter and loss.

Public: `load_base` (base), `build_loss`, `register_loss` (losses), `encoder` (encoding).
"""
