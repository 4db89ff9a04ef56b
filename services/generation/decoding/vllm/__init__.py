"""The vLLM engine: lanes in lockstep inside vLLM. May import decoding only."""
