"""A replica that requests can crash: python crashing_replica.py PORT NAME [STATUS].

It responds to every request with STATUS (201) and its NAME in X-App-Track, over kept-alive connections. Words in a
request change that: `death` kills the process before the response (`NAME dies` only the replica of this name),
`halfway` in the middle of the headers; `hang` is printed and gets no response, `busy` gets 503.
"""

import os
import signal
import socketserver
import sys
import threading

PORT, NAME = int(sys.argv[1]), sys.argv[2]
STATUS = int(sys.argv[3]) if len(sys.argv) > 3 else 201


def die() -> None:
    """Kill this process, like the kernel when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


class Handler(socketserver.StreamRequestHandler):
    """Handles the requests of one connection."""

    def handle(self) -> None:
        """Read requests until the connection is closed."""
        while first := self.rfile.readline():
            length = 0
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            request = first + self.rfile.read(length)
            if b"death" in request or f"{NAME} dies".encode() in request:
                die()
            if b"halfway" in request:
                self.wfile.write(b"HTTP/1.1 201 Created\r\nContent-Le")
                die()
            if b"hang" in request:
                print("hangs", flush=True)
                threading.Event().wait()
            status = 503 if b"busy" in request else STATUS
            self.wfile.write(
                b"HTTP/1.1 %d Answer\r\nX-App-Track: %s\r\nContent-Length: 2\r\n\r\n{}" % (status, NAME.encode())
            )


class Server(socketserver.ThreadingTCPServer):
    """Listens once it is created; connections wait until they are accepted."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512


if __name__ == "__main__":
    with Server(("127.0.0.1", PORT), Handler) as server:
        server.serve_forever()
