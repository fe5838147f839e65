"""rollout-service: analyzes a canary on its host, and rolls it back when it is worse than stable."""
