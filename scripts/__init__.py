"""What `make` runs: the embedded stack, its supervisor, lab tokens and helpers of the build."""
