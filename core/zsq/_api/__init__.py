"""What the Python door and the command line share: runs started, results looked at. Everything here is reached through ``zsq``."""
