"""The engines: each heavy library has one door here."""
