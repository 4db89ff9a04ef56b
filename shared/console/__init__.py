"""The console: one page about all three services, at `/console` of each, and the pass-through that it calls."""
