"""HTTP: routes, admission and streaming. May import jobs, pairs and decoding; only `__main__` imports it."""
