"""What all methods write: tokens, their text, and where an answer ends."""
