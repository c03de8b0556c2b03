"""Serving processes: one server, or a supervisor of several; their sockets, signals and logs."""
