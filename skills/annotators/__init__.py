"""One file per annotator; the file's name is the annotator's name."""
