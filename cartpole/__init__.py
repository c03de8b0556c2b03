"""Serves a CartPole policy over HTTP, in as few microseconds as the machine allows."""

import warnings

from cartpole.version import __version__ as __version__

# PyTorch says this at its import where NumPy is not installed, which serving doesn't need.
warnings.filterwarnings("ignore", "Failed to initialize NumPy", UserWarning)
