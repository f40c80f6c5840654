"""Recipe -> Run: preparation, trainer, log, checkpoints, processes, seeds.

Public: `train` (train), `start`, `resume`, `wait` (background).
"""
