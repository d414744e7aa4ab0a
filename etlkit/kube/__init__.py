"""The pod's own two calls to the API server, and what became of a resize. Standard library only."""
