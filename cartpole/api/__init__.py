"""The parts of the ASGI application: parsing, answers, routes."""
