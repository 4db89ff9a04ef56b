"""What people judged, measures of it, and the bootstrap. May import shared only."""
