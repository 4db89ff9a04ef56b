"""Models in memory: the encoder, static token embeddings, the teacher as a PromptEOL encoder. Imports no room."""
