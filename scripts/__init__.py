"""What the Makefile runs: set-up, the local stack, the demo, the benches."""
