"""Serves a CartPole policy over HTTP, in as few microseconds as the machine allows."""

__version__ = "0.1.0"
