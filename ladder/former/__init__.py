"""What ships until the second stage replaces it: its tuned and distilled models, its export and its tables."""
