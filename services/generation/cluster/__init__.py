"""`generate --cluster`: the same pairs as one machine's, written by a pool of engines on Ray. The one door to Ray."""
