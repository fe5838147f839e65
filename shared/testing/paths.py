"""Where the project's files are, for what runs from a checkout: scripts, tests and drills."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
