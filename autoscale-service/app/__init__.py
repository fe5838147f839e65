"""autoscale-service: brings capacity when an alert asks for it, and takes it away again, carefully."""
