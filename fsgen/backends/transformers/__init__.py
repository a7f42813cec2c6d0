"""Models of `transformers` behind sessions."""
