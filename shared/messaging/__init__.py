"""Events between services: outbox, relay, feed, NATS transport, consumers and inbox."""
