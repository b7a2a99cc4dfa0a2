"""Paths of the repository that tests use."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
"""The repository."""
MODELS = ROOT / "models"
"""The shipped models: a directory for each, with a directory for each version."""
DIFFICULT_DIGITS = sorted((ROOT / "tests" / "examples" / "digits").glob("*.png"))
"""Difficult pictures of digits. The name describes the difficulty; its last character is the label."""

DIGIT = ROOT / "tests" / "examples" / "digit.jpg"
"""A photograph of a seven."""
