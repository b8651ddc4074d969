"""Selection beside its references, in one run: what `prunekit bench` and `benchmarks` measure."""
