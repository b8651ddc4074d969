"""Importance scorers: how much each token is worth."""
