"""Models, corpora and other files that the commands find or make."""
