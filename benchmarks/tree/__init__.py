"""Would verifying a small tree beat verifying a chain? See docs/tree.md."""
