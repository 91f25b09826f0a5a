"""Shared set-up of every test in the repository."""

import os

# Tiny networks gain nothing from threads, and lose minutes when something else keeps the cores busy. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["pytester"]
