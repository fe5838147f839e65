"""rollout-service: judges a canary on the host that carries it, and takes it back by itself."""
