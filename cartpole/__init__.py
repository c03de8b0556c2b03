"""Serves a CartPole policy over HTTP, in as few microseconds as the machine allows."""

import warnings

__version__ = "0.1.0"

# PyTorch says this at its import where NumPy is not installed, which serving doesn't need.
warnings.filterwarnings("ignore", "Failed to initialize NumPy", UserWarning)
