"""Permissions of NATS' users, on a real server with the authorization of the stack."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import nats
import orjson
import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig
from nats.js.errors import BadRequestError

from scripts.stack import nats_users
from shared import nats_setup
from shared.messaging import streams
from shared.events import DATA_MODELS, OF_TRANSACTION_SERVICE, Event
from shared.testing.timing import BUSY_SECONDS, eventually
from shared.messaging.batches import encode
from shared.runtime.settings import DEFAULT_STREAM_BYTES
from shared.tests.support import NatsServer, event
from shared.messaging.transport import NatsConnection, NatsSource

PASSWORDS = {user: f"{user}-has-a-password" for user in ("account", "transaction", "setup")}
OTHER = {"account": "transaction", "transaction": "account"}
# Single events of earlier releases.
CONSUMED = {"account": "bank.transaction.flagged", "transaction": "bank.>"}
OWN = {
    "transaction": sorted(OF_TRANSACTION_SERVICE),
    "account": [name for name in DATA_MODELS if name not in OF_TRANSACTION_SERVICE],
}
Connect = Callable[[str], NatsConnection]


@asynccontextmanager
async def running(folder: Path, *, shared_inbox: bool = False) -> AsyncIterator[NatsServer]:
    """Run a server with the stack's users."""
    if NatsServer.program is None:
        pytest.skip("nats-server is missing; on Debian: apt-get install nats-server")
    server = NatsServer(folder / "jetstream", nats_users.authorization(PASSWORDS, shared_inbox=shared_inbox))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A server with the stack's users."""
    async with running(tmp_path) as server:
        yield server


@pytest.fixture
async def connect(server: NatsServer) -> AsyncIterator[Connect]:
    """Connect as a user, as the services do."""
    buses: list[NatsConnection] = []

    def connected(user: str) -> NatsConnection:
        buses.append(NatsConnection(server.url_of(user, PASSWORDS[user])))
        return buses[-1]

    yield connected
    for bus in buses:
        await bus.close()


class PermissionErrors:
    """Records the permission errors that a client receives."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    async def record(self, error: Exception) -> None:
        """Record an error."""
        self.errors.append(str(error).lower())

    async def contain_all(self, expected: set[str]) -> bool:
        """Return whether each of these calls was rejected."""
        return all(any(subject in error for error in self.errors) for subject in expected)

    async def open(self, server: NatsServer, user: str) -> Client:
        """Connect as a user, with the client's own inboxes."""
        url = server.url_of(user, PASSWORDS[user])
        return await nats.connect(url, inbox_prefix=f"_INBOX_{user}", error_cb=self.record)


def readers(bus: NatsConnection, user: str, durable: bool = True) -> list[NatsSource]:
    """Return the event sources of a service; a canary has no durable names."""
    subjects = {
        f"{user}-service-batches": streams.batch_subject(f"{OTHER[user]}-service"),
        f"{user}-service": CONSUMED[user],
    }
    return [NatsSource(bus, name if durable else None, subject, wait_seconds=0.3) for name, subject in subjects.items()]


def of(user: str) -> list[Event]:
    """Return an event of each type that a service publishes."""
    return [event(f"{user} {type_}", type_) for type_ in OWN[user]]


async def publish(bus: NatsConnection, user: str) -> None:
    """Publish `of(user)` as one batch."""
    source = f"{user}-service"
    (batch,) = encode([*enumerate(of(user), 1)])
    await bus.publish(source, batch, (await bus.last_batch(source)).sequence)


async def received(sources: Sequence[NatsSource]) -> list[str]:
    """Receive and acknowledge one delivery of each source; return the names of the events."""
    found = []
    for source in sources:
        delivery = await source.receive(0)
        await delivery.ack()
        found += [item["id"] for batch in delivery.batches for item in batch.events]
    return found


async def test_services_may_do_what_they_need(server: NatsServer, connect: Connect) -> None:
    """On a server without streams, and after it has lost them; a canary consumes alongside stable."""
    buses = {user: connect(user) for user in OWN}
    sources = {user: readers(bus, user) for user, bus in buses.items()}
    for user, bus in buses.items():
        canary = readers(buses[OTHER[user]], OTHER[user], durable=False)
        assert await received(canary) == []
        await publish(bus, user)
        # As an earlier release does.
        single = event(f"{user} single", OWN[user][0])
        await (await bus.jetstream()).publish(single["type"], orjson.dumps(single))
        names = {one["id"] for one in of(user)} | ({single["id"]} if user == "transaction" else set())
        await eventually(partial(_have_come, canary, set(names)))
        await (await sources[OTHER[user]][0].receive(0)).nack()
        await eventually(partial(_have_come, sources[OTHER[user]], names))
        # A dead letter can have any type.
        await sources[user][0].dead_letter(of("account")[0], "a test")
        await sources[user][0].dead_letter({"type": "nothing"}, "a test")
    account = buses["account"]
    before = await account.stream()
    await server.stop()
    server.lose_disk()
    await server.start()

    async def made_again() -> bool:
        try:
            return await account.stream() != before
        except (nats.errors.Error, OSError):
            return False

    await eventually(made_again)


async def _have_come(sources: Sequence[NatsSource], missing: set[str]) -> bool:
    missing -= set(await received(sources))
    return not missing


def _calls(user: str) -> list[str]:
    """Return subjects that a compromised service might publish to, and must not."""
    other = OTHER[user]
    batches = f"events.{other}-service"
    api = "$JS.API"
    purge = [f"{api}.STREAM.{verb}.{stream}" for verb in ("PURGE", "DELETE", "UPDATE") for stream in ("BANK", "X")]
    letters = [f"{api}.STREAM.{verb}.BANK_DEAD_LETTERS" for verb in ("PURGE", "DELETE", "UPDATE", "MSG.DELETE")]
    messages = [f"{api}.STREAM.MSG.{verb}.BANK" for verb in ("DELETE", "GET")]
    messages += [f"{api}.DIRECT.GET.BANK", f"{api}.DIRECT.GET.BANK.{batches}"]
    consumers = [f"{api}.CONSUMER.{verb}.BANK.{service}-service" for verb in ("DELETE", "PAUSE") for service in OWN]
    others = [
        f"{api}.CONSUMER.INFO.BANK.{other}-service",
        f"{api}.CONSUMER.MSG.NEXT.BANK.{other}-service",
        f"{api}.CONSUMER.DURABLE.CREATE.BANK.{other}-service",
        f"{api}.CONSUMER.CREATE.BANK.{other}-service",
        f"{api}.CONSUMER.CREATE.BANK.{other}-service.{CONSUMED[user]}",
        f"{api}.CONSUMER.CREATE.BANK_DEAD_LETTERS.x.dead.bank.>",
        f"$JS.ACK.BANK.{other}-service.1.1.1.1.0",
        f"{api}.CONSUMER.MSG.NEXT.BANK.{other}-service-batches",
        f"{api}.CONSUMER.CREATE.BANK.{other}-service-batches.{batches}",
        f"{api}.CONSUMER.CREATE.BANK.x.>",
        f"{api}.CONSUMER.CREATE.BANK.x.events.{user}-service",
    ]
    account = [f"{api}.{verb}" for verb in ("INFO", "STREAM.LIST", "STREAM.NAMES", "STREAM.CREATE.OTHER")]
    forged = [
        *OWN[other],
        batches,
        "events.another",
        "bank.unknown",
        "bank.entry.posted.more",
        f"_INBOX_{other}.x",
        "_INBOX.x",
        "$SYS.REQ.x",
    ]
    return [*purge, *letters, *messages, *consumers, *others, *account, *forged]


async def test_all_other_calls_are_rejected(server: NatsServer, connect: Connect) -> None:
    await connect("setup").jetstream()
    for user in OWN:
        client = PermissionErrors()
        connection = await client.open(server, user)
        other = OTHER[user]
        expected = {f'publish to "{subject.lower()}"' for subject in _calls(user)}
        for subject in _calls(user):
            await connection.publish(subject, b"{}")
        for subject in (">", "bank.>", "_INBOX.>", f"_INBOX_{other}.>", "$JS.>", "$JS.ACK.>", "$SYS.>"):
            expected.add(f'subscription to "{subject.lower()}"')
            await connection.subscribe(subject)
        await eventually(partial(client.contain_all, expected))
        await connection.close()


async def test_the_server_purges_nothing_on_behalf_of_a_service(server: NatsServer, connect: Connect) -> None:
    """The client chooses reply and delivery subjects; they must not be the server's API."""
    jetstream = await connect("account").jetstream()
    await publish(connect("transaction"), "transaction")
    connection = await PermissionErrors().open(server, "account")
    for number, call in enumerate(("STREAM.PURGE.BANK", "STREAM.DELETE.BANK")):
        await connection.publish("$JS.API.STREAM.INFO.BANK", b"", reply=f"$JS.API.{call}")
        config = {"name": f"c{number}", "deliver_subject": f"$JS.API.{call}", "filter_subject": CONSUMED["account"]}
        create = f"$JS.API.CONSUMER.CREATE.BANK.c{number}.{CONSUMED['account']}"
        await connection.request(create, orjson.dumps({"stream_name": "BANK", "config": config}), timeout=BUSY_SECONDS)
    assert (await jetstream.stream_info("BANK")).state.messages == 1
    await connection.close()


async def test_only_setup_changes_a_stream(server: NatsServer, connect: Connect) -> None:
    """Creating an existing stream with another configuration is an error and changes nothing."""
    jetstream = await connect("account").jetstream()
    with pytest.raises(BadRequestError, match="different configuration"):
        await jetstream.add_stream(StreamConfig(name="BANK", subjects=["bank.>"], max_msgs=1))
    url = server.url_of("setup", PASSWORDS["setup"])

    async def configure(stream_bytes: int = DEFAULT_STREAM_BYTES) -> dict[str, list[str]]:
        return await nats_setup.configure_streams(url, "", stream_bytes)

    assert await configure() == {"BANK": [], "BANK_DEAD_LETTERS": []}
    earlier = await connect("setup").jetstream()
    await earlier.update_stream(StreamConfig(name="BANK", subjects=["bank.>"], duplicate_window=600))
    changed = ["allow_direct", "max_age", "max_bytes", "subjects"]
    assert await configure() == {"BANK": changed, "BANK_DEAD_LETTERS": []}
    assert await configure(10**7) == {"BANK": ["max_bytes"], "BANK_DEAD_LETTERS": []}
    found = (await jetstream.stream_info("BANK")).config
    assert found.max_bytes == 10**7 and found.max_age == 3 * 86400


@pytest.mark.parametrize("text", ["4G", "", "-1", "1e9", "4096", "٤٢٩٤٩٦٧٢٩٦", "9" * 5000])
def test_an_invalid_limit_of_the_stream_is_reported(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert nats_setup.main({"EVENTS_STREAM_BYTES": text}) == 1
    assert capsys.readouterr().err.startswith(f"nats-setup: EVENTS_STREAM_BYTES={text[:20]}")


def test_a_cluster_stores_each_message_on_several_servers() -> None:
    assert [one.num_replicas for one in streams.configurations(DEFAULT_STREAM_BYTES, 3)] == [3, 3]
    assert [one.num_replicas for one in streams.configurations(DEFAULT_STREAM_BYTES)] == [1, 1]


@pytest.mark.parametrize("text", ["0", "6", "", "x", "٣"])
def test_an_invalid_number_of_stream_replicas_is_reported(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert nats_setup.main({"EVENTS_STREAM_REPLICAS": text}) == 1
    assert capsys.readouterr().err.startswith(f"nats-setup: EVENTS_STREAM_REPLICAS={text}: ")


@pytest.mark.parametrize("shared_inbox", [True, False])
async def test_the_previous_release_keeps_working_during_a_rollout(tmp_path: Path, shared_inbox: bool) -> None:
    """Clients of the previous release have inboxes without a prefix."""
    async with running(tmp_path, shared_inbox=shared_inbox) as server:
        client = await nats.connect(server.url_of("account", PASSWORDS["account"]), error_cb=PermissionErrors().record)
        jetstream = client.jetstream(timeout=BUSY_SECONDS if shared_inbox else 0.5)
        configuration, _ = streams.configurations(DEFAULT_STREAM_BYTES)
        try:
            if not shared_inbox:
                with pytest.raises(nats.errors.Error):
                    await jetstream.add_stream(configuration)
                return
            await jetstream.add_stream(configuration)
            assert (await jetstream.publish("bank.entry.posted", b"{}")).seq == 1
        finally:
            await client.close()


def test_each_event_is_published_by_one_service() -> None:
    """A new event type needs a publisher; the tests above check that patterns are not too wide."""
    rights = {user: nats_users._SERVICES[user].publishes for user in OWN}  # pylint: disable=protected-access
    for type_ in DATA_MODELS:
        users = [user for user, patterns in rights.items() if any(fnmatchcase(type_, pattern) for pattern in patterns)]
        assert users == [next(user for user, own in OWN.items() if type_ in own)], type_
