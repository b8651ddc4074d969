"""Mergers: what dropped tokens leave to kept ones."""
