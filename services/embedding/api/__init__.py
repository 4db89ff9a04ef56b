"""HTTP: TEI's, OpenAI's and our own routes, and the table from errors to HTTP. May import serving and models."""
