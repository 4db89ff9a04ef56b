"""What a user has, cut into passages: reading files and request bodies, cutting, near duplicates, into the stream."""
