"""The bundled models: their weights and their names."""
