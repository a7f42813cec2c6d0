"""What stored traces say. Reads tables, never runs a model."""
