"""The torch side of a run: engine, stream, probe, objective."""
