"""The parts of `make bench-embedding`: the load generator, and the servers that are compared."""
