"""One file per embedder; the file's name is the embedder's name."""
