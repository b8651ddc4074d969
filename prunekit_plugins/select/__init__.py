"""Selectors: each adds tokens to what is kept."""
