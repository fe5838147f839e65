"""What watches the bank; the dashboards are Python, everything else is configuration."""
