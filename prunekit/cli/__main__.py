"""`python -m prunekit.cli`."""

from prunekit.cli import main

main()
