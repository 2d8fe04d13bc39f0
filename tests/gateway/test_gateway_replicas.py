"""One gateway before several Tritons: who is asked, who is asked instead, and what the death of one means to others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families

from gateway.addresses import addresses_of
from gateway.errors import ServerGone
from gateway.metrics import Metrics
from gateway.replicas import Replicas
from gateway.triton import Triton
from tests.fake_triton import Fail, FakeTriton, Hang, Wait, token, transcript
from tests.gateway.conftest import Gateway, StartGateway
from tests.gateway.test_gateway_models import answer_with

REPLICA = "trimodal_gateway_replica_"


@pytest.fixture
async def fakes() -> AsyncIterator[list[FakeTriton]]:
    found = [FakeTriton() for _ in range(3)]
    for fake in found:
        await fake.start()
    yield found
    for fake in found:
        await fake.stop()


@pytest.fixture
async def three(start_gateway: StartGateway, fakes: list[FakeTriton]) -> Gateway:
    return await start_gateway(
        triton_grpc=",".join(fake.endpoint for fake in fakes), watch_interval_s=0.05, discovery_interval_s=0.05
    )


def home(fakes: list[FakeTriton]) -> FakeTriton:
    """The one that was asked last; forgets what was asked."""
    [found] = [fake for fake in fakes if fake.requests]
    found.requests.clear()
    return found


def asked(fakes: list[FakeTriton]) -> list[int]:
    return [len(fake.requests) for fake in fakes]


async def until(happened: Callable[[], Any]) -> None:
    for _ in range(1000):
        if happened():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not happen within ten seconds")


# Who is asked


async def test_turns_stay_together_and_conversations_spread(three: Gateway, fakes: list[FakeTriton]) -> None:
    homes = Counter[int]()
    for number in range(30):
        messages = [{"role": "user", "content": f"Question {number}"}]
        for _ in range(3):
            await three.chat(messages=messages)
            messages += [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And then?"}]
        assert sorted(asked(fakes)) == [0, 0, 3]
        homes[fakes.index(home(fakes))] += 1
    assert len(homes) == 3 and max(homes.values()) < 20
    by_prefix = [
        await three.metric(f'{REPLICA}requests_total{{reason="prefix",replica="{fake.endpoint}"}}') for fake in fakes
    ]
    assert by_prefix == [3 * homes[i] for i in range(3)]


async def test_a_busy_replica_is_passed_over(three: Gateway, fakes: list[FakeTriton]) -> None:
    for fake in fakes:
        fake.script = lambda received: [token("a"), Hang()]
    asking = [asyncio.ensure_future(three.chat()) for _ in range(12)]
    await until(lambda: sum(asked(fakes)) == 12)
    # 1.25 times the mean of 4, and 2.
    assert sorted(asked(fakes)) == [0, 5, 7]
    await three.services.discovery.refresh()
    text = (await three.http.get("/metrics")).text
    for fake, count in zip(fakes, asked(fakes), strict=True):
        assert f'{REPLICA}in_flight{{replica="{fake.endpoint}"}} {count}.0' in text
    assert 'reason="passed_over"' in text
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_what_is_no_conversation_goes_where_least_is_open(three: Gateway, fakes: list[FakeTriton]) -> None:
    for fake in fakes:
        fake.script = lambda received: [Wait(0.5), transcript("hm")]
    form: Any = {"files": {"file": ("a.wav", b"RIFF")}, "data": {"model": "org/demo-speech"}}
    answers = await asyncio.gather(*(three.http.post("/v1/audio/transcriptions", **form) for _ in range(9)))
    assert [answer.status_code for answer in answers] == [200] * 9
    assert asked(fakes) == [3, 3, 3]


async def test_only_who_has_all_that_is_needed_is_asked(three: Gateway, fakes: list[FakeTriton]) -> None:
    """Without `vision` a replica can still chat, but only if no other one has both."""
    fakes[0].entries["llm"].state = fakes[1].entries["vision"].state = "UNAVAILABLE"
    await three.services.discovery.refresh()
    for number in range(12):
        assert (await three.chat(f"Question {number}")).status_code == 200
    assert asked(fakes) == [0, 0, 12]
    fakes[2].entries["llm"].state = "UNAVAILABLE"
    await three.services.discovery.refresh()
    assert (await three.chat()).status_code == 200
    assert asked(fakes) == [0, 1, 12]


async def test_a_model_of_one_replica_is_a_model(three: Gateway, fakes: list[FakeTriton]) -> None:
    for fake in fakes[:2]:
        del fake.entries["llm"]
    await three.services.discovery.refresh()
    assert [card["id"] for card in (await three.http.get("/v1/models")).json()["data"]][:2] == ["demo-vl", "demo"]
    assert (await three.http.get("/readiness")).status_code == 200
    assert (await three.chat()).status_code == 200
    assert asked(fakes) == [0, 0, 1]


async def test_with_one_address_nothing_is_chosen(start_gateway: StartGateway, fake: FakeTriton) -> None:
    gateway = await start_gateway()
    await gateway.chat()
    text = (await gateway.http.get("/metrics")).text
    assert f"{REPLICA}requests_total{{" not in text
    assert f'{REPLICA}up{{replica="{fake.endpoint}"}} 1.0' in text


# Who is asked instead


@pytest.mark.parametrize("stream", [False, True])
async def test_death_before_the_first_word_is_not_seen(three: Gateway, fakes: list[FakeTriton], stream: bool) -> None:
    await three.chat()
    first = home(fakes)
    first.script = lambda received: [Hang()]
    asking = asyncio.ensure_future(three.chat(stream=stream))
    await until(lambda: first.requests)
    await first.stop()
    answer = await asking
    assert answer.status_code == 200 and "Hello" in answer.text and "error" not in answer.text
    assert sorted(asked(fakes)) == [0, 1, 1]
    retried = [await three.metric(f'{REPLICA}requests_total{{reason="retry",replica="{f.endpoint}"}}') for f in fakes]
    assert sorted(retried) == [0, 0, 1] and retried[fakes.index(first)] == 0
    # From now on nobody asks the dead one, whether discovery has looked or not.
    for number in range(9):
        assert (await three.chat(f"Question {number}")).status_code == 200
    assert len(first.requests) == 1


async def test_death_after_the_first_word_ends_its_streams_only(three: Gateway, fakes: list[FakeTriton]) -> None:
    for fake in fakes:
        fake.script = lambda received: [token("a"), Wait(1), token("b", "stop")]
    asking = [asyncio.ensure_future(three.chat(f"Question {number}", stream=True)) for number in range(12)]
    await until(lambda: sum(asked(fakes)) == 12)
    await asyncio.sleep(0.2)
    before = asked(fakes)
    most = max(before)
    await fakes[before.index(most)].stop()
    ends = Counter("[DONE]" in answer.text for answer in await asyncio.gather(*asking))
    assert ends == {True: 12 - most, False: most}
    assert asked(fakes) == before, "half an answer is not begun anew"


async def test_a_dead_model_is_left_before_its_first_word(three: Gateway, fakes: list[FakeTriton]) -> None:
    """Its process was killed: the server goes on, and only the index tells."""
    await three.chat()
    first = home(fakes)
    first.script = lambda received: [Hang()]
    asking = asyncio.ensure_future(three.chat())
    await until(lambda: first.requests)
    first.entries["llm"].state = "UNAVAILABLE"
    assert (await asyncio.wait_for(asking, 10)).status_code == 200
    await asyncio.wait_for(first.requests[0].cancelled.wait(), 10)


async def test_tritons_own_word_for_a_model_that_is_gone(three: Gateway, fakes: list[FakeTriton]) -> None:
    await three.chat()
    first = home(fakes)
    first.script = lambda received: [Fail("Request for unknown model: 'llm' has no available versions")]
    assert (await three.chat()).status_code == 200


@pytest.mark.parametrize(("error", "status"), [("[INVALID_ARGUMENT] no", 400), ("[RESOURCE_EXHAUSTED] full", 429)])
async def test_other_errors_are_not_tried_again(
    three: Gateway, fakes: list[FakeTriton], error: str, status: int
) -> None:
    for fake in fakes:
        fake.script = lambda received: [Fail(error)]
    assert (await three.chat()).status_code == status
    assert sum(asked(fakes)) == 1


async def test_a_request_is_tried_twice_at_most(three: Gateway, fakes: list[FakeTriton]) -> None:
    for fake in fakes:
        fake.script = lambda received: [Fail("Stub process 'llm_0_0' is not healthy.")]
    answer = await three.chat()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    assert sum(asked(fakes)) == 2
    assert [triton.num_open for triton in three.services.triton._tritons.values()] == [0, 0, 0]


async def test_no_request_fails_while_one_is_away_and_it_is_used_again(three: Gateway, fakes: list[FakeTriton]) -> None:
    answers = []
    for number in range(90):
        if number == 20:
            await fakes[0].stop()
        if number == 40:
            await fakes[0].start()
            await answer_with_replicas(three, 3)
            fakes[0].requests.clear()
        answers.append((await three.chat(f"Question {number}")).status_code)
        if number == 30:
            assert (await three.http.get("/readiness")).status_code == 200
            await answer_with_replicas(three, 2)
    assert answers == [200] * 90
    assert fakes[0].requests


async def test_with_all_gone_the_gateway_is_not_ready(three: Gateway, fakes: list[FakeTriton]) -> None:
    for fake in fakes:
        await fake.stop()
    assert "Triton cannot be reached" in (await answer_with(three, "/readiness", 503)).text
    assert (await three.chat()).status_code == 503
    await fakes[2].start()
    await answer_with(three, "/readiness", 200)
    assert (await three.chat()).status_code == 200


async def answer_with_replicas(gateway: Gateway, count: int) -> None:
    """Waits until the gateway counts so many that are up."""
    for _ in range(500):
        lines = (await gateway.http.get("/metrics")).text.splitlines()
        if sum(line.startswith(REPLICA + "up{") and line.endswith(" 1.0") for line in lines) == count:
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"there were never {count} replicas up")


# Addresses behind a name


async def asked_of(replicas: Replicas) -> set[str]:
    """Asks many questions; the addresses that they went to."""
    found = set()
    for number in range(60):
        async with replicas.stream("llm", "", {"text_input": f"Question {number}"}, frozenset({"llm"})) as stream:
            found.add(stream.triton.endpoint)
    return found


async def test_addresses_of_a_name_come_and_go(fakes: list[FakeTriton]) -> None:
    known: list[str] = []
    connected: list[tuple[str, str]] = []
    zero, one, two = (fake.endpoint for fake in fakes)

    async def look_up(name: str) -> list[str]:
        if not known:
            raise OSError(f"{name} has no address")
        return list(known)

    def connect(address: str, host: str) -> Triton:
        connected.append((address, host))
        return Triton(address, None, host)

    async def refresh() -> None:
        # The first call begins to look, the second one acts on what was found.
        await replicas.index()
        await asyncio.sleep(0.05)
        await replicas.index()

    replicas = Replicas(["triton.example:8001"], connect, Metrics(), look_up, look_up_age_s=0)
    with pytest.raises(ServerGone):
        await replicas.index()
    with pytest.raises(ServerGone):
        replicas.stream("llm", "", {"text_input": "Hello"})
    known[:] = [zero, one]
    assert (await replicas.index())["llm"].ready
    assert sorted(connected) == sorted([(zero, "triton.example"), (one, "triton.example")])
    assert await asked_of(replicas) == {zero, one}

    fakes[0].script = fakes[1].script = lambda received: [token("a"), Wait(0.5), token("b", "stop")]
    async with replicas.stream("llm", "", {"text_input": "Hello"}, frozenset({"llm"})) as stream:
        await anext(stream)
        going, staying = (zero, one) if stream.triton.endpoint == zero else (one, zero)
        known[:] = [staying, two]
        await refresh()
        assert await asked_of(replicas) == {staying, two}
        assert repr(replicas).endswith(f"leaving [<Triton {going}, 1 open>]>")
        assert await anext(stream), "an open stream goes on"
        stream.finished = True
    known.clear()
    await refresh()
    assert repr(replicas).endswith("leaving []>")
    assert await asked_of(replicas) == {staying, two}, "a name without an address keeps those that it had"
    await replicas.close()


async def test_names_are_looked_up() -> None:
    assert await addresses_of("127.0.0.1:8001") == ["127.0.0.1:8001"]
    assert await addresses_of("[::1]:8001") == ["[::1]:8001"]
    assert await addresses_of("localhost:8001") == ["127.0.0.1:8001"]
    with pytest.raises(OSError):
        await addresses_of("no-such-name.invalid:8001")


async def test_a_certificate_names_the_name(start_gateway: StartGateway, tmp_path: Path) -> None:
    """And not the address, which is what the channel is opened to."""
    authority, root, fake = trustme.CA(), tmp_path / "root.pem", FakeTriton()
    authority.cert_pem.write_to_path(str(root))
    made = authority.issue_cert("localhost")
    pair = (made.private_key_pem.bytes(), b"".join(blob.bytes() for blob in made.cert_chain_pems))
    fake.credentials = grpc.ssl_server_credentials([pair])
    await fake.start()
    try:
        by_name = await start_gateway(triton_grpc=f"localhost:{fake.port}", triton_ca_file=str(root))
        assert (await by_name.chat()).status_code == 200
        by_address = await start_gateway(triton_grpc=fake.endpoint, triton_ca_file=str(root))
        assert (await by_address.chat()).status_code == 503
    finally:
        await fake.stop()


# Of all together


async def test_loading_is_for_all(start_gateway: StartGateway, fakes: list[FakeTriton]) -> None:
    for fake in fakes:
        fake.entries["llm"].parameters["model"] = "org/demo"
    gateway = await start_gateway(triton_grpc=",".join(f.endpoint for f in fakes), loadable_models="org/other,org/demo")
    assert (await gateway.http.post("/api/v1/inference/unload")).status_code == 200
    assert [fake.entries["llm"].state for fake in fakes] == ["UNAVAILABLE"] * 3
    fakes[1].load_fault = "no memory\nmore"
    job = await loaded(gateway, "org/other")
    assert job["status"] == "failed" and job["error"] == f"{fakes[1].endpoint}: llm: no memory"
    fakes[1].load_fault = ""
    await gateway.services.discovery.refresh()
    assert (await gateway.http.post("/api/v1/inference/unload")).status_code == 200
    assert (await loaded(gateway, "org/other"))["status"] == "loaded"
    assert [fake.entries["llm"].parameters["model"] for fake in fakes] == ["org/other"] * 3


async def loaded(gateway: Gateway, model: str) -> Any:
    """The job, when it has ended."""
    assert (await gateway.http.post("/api/v1/inference/load", json={"model_path": model})).status_code == 202
    while True:
        job = (await gateway.http.get("/api/v1/inference/status")).json()["job"]
        if job["status"] != "loading":
            return job
        await asyncio.sleep(0.02)


async def test_metrics_of_all_are_one_text(start_gateway: StartGateway) -> None:
    """Each metric is told once, as its format demands, and says whose number is whose."""
    head = "# HELP nv_used bytes\n# TYPE nv_used gauge\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = head + 'nv_used{gpu="a, {b"} 1\n# HELP nv_cpu share\n# TYPE nv_cpu gauge\nnv_cpu 0.5\n'
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    one, two = [await asyncio.start_server(serve, "127.0.0.1", 0) for _ in range(2)]
    async with one, two:
        places = [f"127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in (one, two)]
        gateway = await start_gateway(triton_metrics=",".join([*places, "127.0.0.1:1", "no-such-name.invalid:1"]))
        text = (await gateway.http.get("/metrics")).text
    assert text.count(head) == 1
    families = {family.name: family for family in text_string_to_metric_families(text)}
    used = [(sample.labels, sample.value) for sample in families["nv_used"].samples]
    assert used == [({"replica": place, "gpu": "a, {b"}, 1) for place in places]
    assert [sample.labels for sample in families["nv_cpu"].samples] == [{"replica": place} for place in places]
