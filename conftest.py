"""Shared set-up of every test in the repository."""

pytest_plugins = ["pytester"]
