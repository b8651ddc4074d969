"""Bias estimators: what a score owes to position or padding rather than content."""
