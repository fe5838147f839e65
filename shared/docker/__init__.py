"""Socket proxy: an allow-list in front of the Docker Engine API."""
