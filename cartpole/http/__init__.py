"""Bytes and connections: from what a client sends to what it receives."""
