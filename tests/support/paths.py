"""Paths in the checkout, and the query that most tests send."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The model file of cart-pole-rs. It is not part of this project; tests use it where it exists.
REFERENCE_MODEL = ROOT.parent / "shared/reference/cart-pole-rs-model_traced.pt"
GOLDEN = "position=0&velocity=0&angle=-1&angular_velocity=0"
