"""Permissions of NATS' users, on a real server with the authorization of the stack."""

from collections.abc import AsyncIterator, Callable
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
from shared.events import DATA_MODELS, Event
from shared.testing.timing import BUSY_SECONDS, eventually
from shared.tests.support import NatsServer, event, names
from shared.messaging.transport import NatsConnection, NatsSource

PASSWORDS = {user: f"{user}-has-a-password" for user in ("account", "transaction", "setup")}
CONSUMED = {"account": "bank.transaction.flagged", "transaction": "bank.>"}
OWN = {
    "transaction": ["bank.transaction.flagged"],
    "account": [name for name in DATA_MODELS if name != "bank.transaction.flagged"],
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
        return all(any(one in error for error in self.errors) for one in expected)

    async def open(self, server: NatsServer, user: str) -> Client:
        """Connect as a user, with the client's own inboxes."""
        url = server.url_of(user, PASSWORDS[user])
        return await nats.connect(url, inbox_prefix=f"_INBOX_{user}", error_cb=self.record)


def reader(bus: NatsConnection, user: str, durable: bool = True) -> NatsSource:
    """Return the event source of a service; a canary has no durable name."""
    return NatsSource(bus, f"{user}-service" if durable else None, CONSUMED[user], wait_seconds=0.3)


def of(user: str) -> list[Event]:
    """Return an event of each type that a service publishes."""
    return [event(f"{user} {type_}", type_) for type_ in OWN[user]]


async def received(source: NatsSource) -> list[str]:
    """Receive and acknowledge one delivery; return the names of its events."""
    delivery = await source.receive(0)
    await delivery.ack()
    return names(list(delivery.raw))


async def test_services_may_do_what_they_need(server: NatsServer, connect: Connect) -> None:
    """On a server without streams, and after it has lost them; a canary consumes alongside stable."""
    buses = {user: connect(user) for user in OWN}
    sources = {user: reader(bus, user) for user, bus in buses.items()}
    for user, bus in buses.items():
        canary = reader(bus, user, durable=False)
        assert await received(canary) == []
        await bus.publish(of(user))
        own = {one["id"] for one in of(user) if user == "transaction" or "flagged" in one["type"]}
        await eventually(partial(_have_come, canary, own))
        await (await sources[user].receive(0)).nack()
        # A dead letter can have any type.
        await sources[user].dead_letter(of("account")[0], "a test")
        await sources[user].dead_letter({"type": "nothing"}, "a test")
    flagged = {one["id"] for one in of("transaction")}
    for user, missing in {"account": flagged, "transaction": flagged | {one["id"] for one in of("account")}}.items():
        await eventually(partial(_have_come, sources[user], missing))
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


async def _have_come(source: NatsSource, missing: set[str]) -> bool:
    missing -= set(await received(source))
    return not missing


def _calls(user: str) -> list[str]:
    """Return subjects that a compromised service might publish to, and must not."""
    other = "transaction" if user == "account" else "account"
    api = "$JS.API"
    purge = [f"{api}.STREAM.{verb}.{stream}" for verb in ("PURGE", "DELETE", "UPDATE") for stream in ("BANK", "X")]
    letters = [f"{api}.STREAM.{verb}.BANK_DEAD_LETTERS" for verb in ("PURGE", "DELETE", "UPDATE", "MSG.DELETE")]
    messages = [f"{api}.STREAM.MSG.{verb}.BANK" for verb in ("DELETE", "GET")]
    consumers = [f"{api}.CONSUMER.{verb}.BANK.{one}-service" for verb in ("DELETE", "PAUSE") for one in OWN]
    others = [
        f"{api}.CONSUMER.INFO.BANK.{other}-service",
        f"{api}.CONSUMER.MSG.NEXT.BANK.{other}-service",
        f"{api}.CONSUMER.DURABLE.CREATE.BANK.{other}-service",
        f"{api}.CONSUMER.CREATE.BANK.{other}-service",
        f"{api}.CONSUMER.CREATE.BANK.{other}-service.{CONSUMED[user]}",
        f"{api}.CONSUMER.CREATE.BANK_DEAD_LETTERS.x.dead.bank.>",
        f"$JS.ACK.BANK.{other}-service.1.1.1.1.0",
    ]
    account = [f"{api}.{verb}" for verb in ("INFO", "STREAM.LIST", "STREAM.NAMES", "STREAM.CREATE.OTHER")]
    forged = [*OWN[other], "bank.unknown", "bank.entry.posted.more", f"_INBOX_{other}.x", "_INBOX.x", "$SYS.REQ.x"]
    return [*purge, *letters, *messages, *consumers, *others, *account, *forged]


async def test_all_other_calls_are_rejected(server: NatsServer, connect: Connect) -> None:
    await connect("setup").jetstream()
    for user in OWN:
        client = PermissionErrors()
        connection = await client.open(server, user)
        other = "transaction" if user == "account" else "account"
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
    await connect("transaction").publish(of("transaction"))
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
    assert await nats_setup.configure_streams(url) == {"BANK": [], "BANK_DEAD_LETTERS": []}
    older = await connect("setup").jetstream()
    await older.update_stream(StreamConfig(name="BANK", subjects=["bank.>"], duplicate_window=1))
    assert await nats_setup.configure_streams(url) == {"BANK": ["duplicate_window"], "BANK_DEAD_LETTERS": []}
    found = (await jetstream.stream_info("BANK")).config
    assert found.duplicate_window == streams.CONFIGURATIONS["BANK"].duplicate_window


@pytest.mark.parametrize("shared_inbox", [True, False])
async def test_the_previous_release_keeps_working_during_a_rollout(tmp_path: Path, shared_inbox: bool) -> None:
    """Clients of the previous release have inboxes without a prefix."""
    async with running(tmp_path, shared_inbox=shared_inbox) as server:
        client = await nats.connect(server.url_of("account", PASSWORDS["account"]), error_cb=PermissionErrors().record)
        jetstream = client.jetstream(timeout=BUSY_SECONDS if shared_inbox else 0.5)
        try:
            if not shared_inbox:
                with pytest.raises(nats.errors.Error):
                    await jetstream.add_stream(streams.CONFIGURATIONS["BANK"])
                return
            await jetstream.add_stream(streams.CONFIGURATIONS["BANK"])
            assert (await jetstream.publish("bank.entry.posted", b"{}")).seq == 1
        finally:
            await client.close()


def test_each_event_is_published_by_one_service() -> None:
    """A new event type needs a publisher; the tests above check that patterns are not too wide."""
    rights = {user: nats_users._SERVICES[user].publishes for user in OWN}  # pylint: disable=protected-access
    for type_ in DATA_MODELS:
        users = [user for user, patterns in rights.items() if any(fnmatchcase(type_, one) for one in patterns)]
        assert users == [next(user for user, own in OWN.items() if type_ in own)], type_
