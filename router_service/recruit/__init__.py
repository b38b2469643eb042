"""One file per recruiting strategy; the file's name is the recruiter's name."""
