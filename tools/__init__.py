"""Tools that train, fetch, export and fit models."""
