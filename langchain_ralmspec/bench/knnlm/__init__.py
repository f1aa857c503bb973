"""kNN-LM with guessed neighbours against a search a token."""
