"""The one way to start a run, for the command line and for Python."""
