"""One file per way to reach an expert; the file's name is the backend's name."""
