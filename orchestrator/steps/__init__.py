"""One module per kind of step. Thin: each puts a domain room to work."""
