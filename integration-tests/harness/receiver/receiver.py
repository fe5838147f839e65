"""Stands in for Slack, the autoscaler's webhook and the dead man's switch: prints each request as a line of JSON."""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Responds to every POST like Slack, and to every GET with an empty page, which suffices for a scrape."""

    def do_POST(self) -> None:  # pylint: disable=invalid-name  # http.server calls it so
        """Print a message."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        message = {
            "at": time.time(),
            "path": self.path,
            "authorization": self.headers.get("Authorization"),
            "body": json.loads(body),
        }
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
        self._answer(b"ok")

    def do_GET(self) -> None:  # pylint: disable=invalid-name
        """Respond to health checks and scrapes."""
        self._answer(b"")

    def _answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # pylint: disable=redefined-builtin
        """Log nothing: the output consists of the messages."""


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
