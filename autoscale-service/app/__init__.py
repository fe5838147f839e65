"""autoscale-service: scales the services horizontally, like Kubernetes' HorizontalPodAutoscaler."""
