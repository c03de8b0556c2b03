"""The Open Inference Protocol, version 2: docs/protocol.md."""
