"""Code shared by the services; it imports from no service and nothing from scripts."""
