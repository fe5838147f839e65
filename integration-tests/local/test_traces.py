"""One trace from NGINX to the account that a fraud rule freezes, as an OTLP receiver sees it."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from harness.local_stack import LocalBank
from harness.client import eventually, usd

from shared.testing.processes import Process

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Receiver:
    """An OTLP/HTTP receiver that keeps what it gets."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        spans = self.spans

        class _Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # pylint: disable=invalid-name  # as the library wants it
                body = self.rfile.read(int(self.headers["Content-Length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    attributes = {each.key: each.value.string_value for each in resource.resource.attributes}
                    for scope in resource.scope_spans:
                        spans.extend((attributes["service.name"], span) for span in scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # pylint: disable=redefined-builtin
                del format, args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def names(self, trace: str) -> set[str]:
        """Return `service: name` of the trace's spans."""
        return {f"{service}: {span.name}" for service, span in self.spans if span.trace_id.hex() == trace}

    def close(self) -> None:
        """Stop receiving."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of traces."""
    receiver = Receiver()
    yield receiver
    receiver.close()


def test_one_trace_from_nginx_to_the_frozen_account(
    make_bank: Callable[..., LocalBank], nats: tuple[str, Process], receiver: Receiver
):
    bank = make_bank(
        1,
        events_url=nats[0],
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        OTEL_BSP_SCHEDULE_DELAY="200",
        FRAUD_FREEZE_AMOUNT="1000",
    )
    source, target = bank.open_account(10_000), bank.open_account()
    headers = {
        **bank.headers("alice"),
        "Idempotency-Key": "traced",
        "X-Request-ID": "traced-1",
        "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
    }
    body = usd(5_000, from_account=source, to_account=target)
    assert bank.client.post("/api/v1/transfers", json=body, headers=headers).status_code == 201
    expected = {
        "account-service: POST /api/v1/transfers",
        "account-service: group commit",
        "account-service: flush",
        "account-service: publish bank.entry.posted",
        "transaction-service: process bank.entry.posted",
        "transaction-service: fraud rules",
        "transaction-service: publish bank.transaction.flagged",
        "account-service: process bank.transaction.flagged",
    }
    eventually(lambda: expected <= receiver.names(TRACE))
    assert bank.get(f"/accounts/{source}")["status"] == "frozen"

    def spans() -> dict[bytes, Span]:
        return {span.span_id: span for _, span in receiver.spans if span.trace_id.hex() == TRACE}

    # A span is sent when it ends, so parents come after their children.
    edge = bytes.fromhex("b7ad6b7169203331")
    eventually(lambda: {span.parent_span_id for span in spans().values()} <= {edge, *spans()})
    inserts = [span for span in spans().values() if span.name.startswith(("INSERT", "WITH"))]
    assert inserts and edge not in {span.parent_span_id for span in inserts}
    # Opening the accounts, and the services' own polling, is in nobody's trace.
    assert {span.trace_id.hex() for _, span in receiver.spans} == {TRACE}

    folder = bank.stack.var_dir
    access = [json.loads(line) for line in (folder / "nginx/access.log").read_text().splitlines()]
    assert TRACE in {line["trace_id"] for line in access if line["request_id"] == "traced-1"}
    for service in ("account-service", "transaction-service"):
        text = "".join(path.read_text() for path in (folder / "log").glob(f"{service}-*.log"))
        assert '"traced-1"' in text, service


def test_a_batch_is_linked_to_all_its_requests(make_bank: Callable[..., LocalBank], receiver: Receiver):
    bank = make_bank(1, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_BSP_SCHEDULE_DELAY="200")
    account = bank.open_account()
    transfers = [{"key": f"k{n}", **usd(1, from_account=account, to_account=account)} for n in range(3)]
    sent: set[str] = set()

    def flushes() -> list[Span]:
        return [span for _, span in receiver.spans if span.name == "flush"]

    def told() -> set[str]:
        return {each.trace_id.hex() for span in flushes() for each in [span, *span.links]}

    def send(trace: str) -> None:
        identity = {"Idempotency-Key": f"linked-{trace}", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        headers = {**bank.headers("alice"), **identity}
        bank.client.post("/api/v1/transfers:batch", json={"transfers": transfers}, headers=headers)

    def share_a_batch() -> bool:
        """Send requests at once; on a busy machine each of them may still find the service idle."""
        traces = [f"{len(sent) + number + 1:032x}" for number in range(24)]
        sent.update(traces)
        with ThreadPoolExecutor(len(traces)) as pool:
            list(pool.map(send, traces))
        eventually(lambda: told() == sent)
        return any(span.links for span in flushes())

    eventually(share_a_batch, 60)
