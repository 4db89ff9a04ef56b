"""The dataset on disk: SQLite store, pair files, Arrow tables. May import shared only."""
