"""The command line, without HTTP and Redis: pairs into a file. May import pairs, decoding and job progress."""
