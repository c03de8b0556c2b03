"""The live page, the description of the API, and the routes that serve their files."""
