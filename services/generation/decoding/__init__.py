"""Self-debiasing decoding behind one `Engine` interface. Knows tokens, and nothing of tasks, pairs or jobs."""
