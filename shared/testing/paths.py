"""Path of the checkout, for scripts, tests and drills."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
