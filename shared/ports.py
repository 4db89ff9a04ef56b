"""Where services answer when no port is set."""

PORTS = {"generation": 8001, "embedding": 8002, "trainer": 8003}
