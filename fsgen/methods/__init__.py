"""What a method is made of: fusions, routers, verifiers."""
