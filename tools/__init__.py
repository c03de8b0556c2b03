"""Tools that train, download and export models, and fit the native engine's tanh."""
