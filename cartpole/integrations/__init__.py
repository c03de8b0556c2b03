"""Other programs to run the service on, each with an extra of its own."""
