"""HTTP: web application, authentication, request checks, problems, idempotency, paging and health."""
