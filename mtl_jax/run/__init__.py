"""One run: its loop, its directory, its console."""
