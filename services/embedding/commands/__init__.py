"""The command line: a file of texts into a file of vectors. May import serving and models; knows no HTTP."""
