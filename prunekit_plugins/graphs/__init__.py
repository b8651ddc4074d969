"""Graph builders: which tokens are too alike to keep both."""
