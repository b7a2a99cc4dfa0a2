"""Where tests find what is not theirs."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
"""Of the repository."""
MODELS = ROOT / "models"
"""Those that are shipped: a folder for each, in it one for each version."""
DIGIT = ROOT / "tests" / "examples" / "digit.jpg"
"""A photograph of a seven."""
