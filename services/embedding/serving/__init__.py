"""The core: batches, cache, which versions are loaded. May import models; knows no HTTP."""
