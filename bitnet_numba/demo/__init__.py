"""The embedded default model: where it lies. What it is, MODEL_CARD.md beside it tells."""

from pathlib import Path

DEMO_MODEL = "bitnet-demo-5.8m-i2_s.gguf"


def demo_model_path() -> Path:
    """Return the path of the embedded model's GGUF file."""
    return Path(__file__).parent / DEMO_MODEL
