"""Jobs in Redis: kept, scheduled, worked on, accounted. May import pairs and decoding."""
