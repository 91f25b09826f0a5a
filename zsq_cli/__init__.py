"""The command line of zsq: parses arguments and renders results. Everything else is in ``zsq``."""
