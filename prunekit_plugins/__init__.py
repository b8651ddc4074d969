"""Every strategy that comes with prunekit, through the same door as anybody's: one idea a file."""
