"""Serves a CartPole policy over HTTP, in as few microseconds as the machine allows.

From Python: `policy = cartpole.load("model_traced.pt")`, then `left, right = policy(x, v, a, w)`.
"""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from cartpole.version import __version__ as __version__

if TYPE_CHECKING:  # at run time on first use: `python -m cartpole.serve --help` needs no PyTorch
    from cartpole.predictor import BadPolicy, Predictor, load

__all__ = ["BadPolicy", "Predictor", "__version__", "load"]

# PyTorch warns of this at its import; serving doesn't need NumPy.
warnings.filterwarnings("ignore", "Failed to initialize NumPy", UserWarning)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module("cartpole.predictor")
    return getattr(module, name)
