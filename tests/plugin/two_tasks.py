"""A suite of a package: its file."""

from pathlib import Path

SUITE = Path(__file__).with_suffix(".yaml")
BROKEN = {"name": "Broken", "tasks": []}
