"""The requests of this process that move money; a module of its own, because Locust loads each of its files anew."""

from surge_outcomes import Post

# By idempotency key.
POSTS: dict[str, Post] = {}
