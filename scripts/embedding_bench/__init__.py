"""The parts of `make bench-embedding`: texts, a load generator, the servers that are compared, and the picture."""
