"""Where things are in the checkout, and the query that most tests send."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# cart-pole-rs's own model file; it lies beside the checkout on some machines, and is not ours.
REFERENCE_MODEL = ROOT.parent / "shared/reference/cart-pole-rs-model_traced.pt"
GOLDEN = "position=0&velocity=0&angle=-1&angular_velocity=0"
