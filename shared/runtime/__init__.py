"""Process lifecycle: settings, server, background tasks and container health check."""
