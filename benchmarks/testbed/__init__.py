"""How the model shipped in `prunekit.testbed` is trained and measured."""
