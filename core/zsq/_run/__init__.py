"""The torch side of a run: engine, stream, objective, checkpoints, report."""
