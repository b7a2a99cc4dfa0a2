"""Where tests find what is not theirs."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
"""Of the repository."""
MODELS = ROOT / "models"
"""Those that are shipped: a folder for each, in it one for each version."""
DIFFICULT_DIGITS = sorted((ROOT / "tests" / "examples" / "digits").glob("*.png"))
"""Pictures, named by what makes them difficult; the label is the last character of the name."""

DIGIT = ROOT / "tests" / "examples" / "digit.jpg"
"""A photograph of a seven."""
