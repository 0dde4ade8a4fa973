"""One delivery to a receiver on a real port: that it arrives, why it does not, and that it goes nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import certifi
import pytest
from standardwebhooks import Webhook

from orchestrator import __version__
from orchestrator.errors import InvalidArgument
from orchestrator.webhook import Undelivered, check_secret, check_url, new_secret, post

BODY = '{"type": "run.finished", "words": "déjà vu"}'.encode()
SECRET = new_secret()
NAME = "receiver.test"
KEY = "MDEy" * 8  # base64
OK = b"HTTP/1.1 200 OK\r\n\r\n"


class Receiver:
    """A server of raw bytes. It answers a request (None: reads none, empty: hangs up), and says `again` for ever."""

    def __init__(self, answer: bytes | None, again: bytes, tls: ssl.SSLContext | None) -> None:
        self.answer, self.again, self.tls = answer, again, tls
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.served: list[asyncio.Task[None]] = []
        self.heard, self.port = asyncio.Event(), 0

    def url(self, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}/in?token=s3cret#part"

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.served.append(asyncio.ensure_future(self.serve(reader, writer)))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            if self.tls is not None:
                await writer.start_tls(self.tls)
            if self.answer is not None:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                self.seen.append((first, headers, await reader.readexactly(int(headers["content-length"]))))
                writer.write(self.answer)
            while self.answer != b"":
                writer.write(self.again)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        if not await reader.read(65_536):
                            break
                        self.heard.set()


@asynccontextmanager
async def receiver(
    answer: bytes | None = OK, again: bytes = b"", host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncGenerator[Receiver]:
    """A receiver. Waits at the end until everyone who came hung up: nothing that we opened stays open."""
    there = Receiver(answer, again, tls)
    try:
        server = await asyncio.start_server(there.accept, host, 0)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    async with server, asyncio.timeout(10):
        there.port = server.sockets[0].getsockname()[1]
        yield there
        await asyncio.gather(*there.served)


send = partial(post, message_id="msg_1", body=BODY, secret=SECRET)


async def fails(url: str, timeout_s: float = 10.0) -> tuple[str, bool]:
    """Why it does not arrive, and whether for good. In no case is the query of the URL part of it."""
    with pytest.raises(Undelivered) as caught:
        await send(url, timeout_s=timeout_s)
    assert "s3cret" not in str(caught.value)
    return caught.value.reason, caught.value.final


def resolves(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
    """What the one name resolves to, one answer each time."""
    left, real = list(answers), asyncio.get_running_loop().getaddrinfo

    async def getaddrinfo(host: Any, port: Any, **more: Any) -> Any:
        if host != NAME:
            return await real(host, port, **more)
        if not (addresses := left.pop(0)):
            raise socket.gaierror(socket.EAI_NONAME, "nobody knows it")
        return [found for address in addresses for found in await real(address, port, **more)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)


# ---- delivered


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("127.0.0.1", "localhost")])
async def test_a_message_arrives_with_a_signature_that_the_library_verifies(host: str, shown: str) -> None:
    async with receiver(host=host) as there:
        assert await send(there.url(shown)) == 200
    [(first, headers, body)] = there.seen
    assert Webhook(SECRET).verify(body, headers) == json.loads(BODY)
    told = [headers[name] for name in ("webhook-id", "host", "content-type", "user-agent")]
    assert told == ["msg_1", f"{shown}:{there.port}", "application/json", f"orchestrator/{__version__}"]
    assert (first, body) == ("POST /in?token=s3cret HTTP/1.1", BODY)


@pytest.mark.parametrize("status", [200, 202, 204, 299, 400, 401, 404, 410, 429, 500, 503, 999])
async def test_a_status_of_the_two_hundreds_is_a_delivery_and_410_alone_is_final(status: int) -> None:
    async with receiver(b"HTTP/1.1 %d s3cret\r\n\r\n" % status) as there:
        if status < 300:
            assert await send(there.url()) == status
        else:
            assert await fails(there.url()) == (f"HTTP {status}", status == 410)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with receiver() as other:
        async with receiver(f"HTTP/1.1 {status} There\r\nlocation: {other.url()}\r\n\r\n".encode()) as there:
            assert await fails(there.url()) == (f"HTTP {status}; redirects are not followed", False)
        assert not other.served


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiver() as proxy, receiver() as there:
        for name in "http_proxy HTTP_PROXY all_proxy ALL_PROXY no_proxy NO_PROXY".split():
            monkeypatch.setenv(name, "" if name.lower() == "no_proxy" else proxy.url())
        assert await send(there.url()) == 200
        assert not proxy.served


# ---- receivers that misbehave


@pytest.mark.parametrize(("answer", "again", "scheme"), [
    (None, b"", "http"), (None, b"", "https"), (b"HTTP/1.1 200 OK\r\nname: ", b"x", "http"),
    (b"HTTP/1.1 102 Processing\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\n" * 100, "http"),
])  # fmt: skip
async def test_a_receiver_that_never_comes_to_an_end_is_given_up(answer: bytes, again: bytes, scheme: str) -> None:
    async with receiver(answer, again) as there:
        assert await fails(there.url(scheme=scheme), timeout_s=0.2) == ("timed out after 0.2 s", False)


async def test_an_answer_whose_body_never_ends_is_a_delivery_at_once() -> None:
    async with receiver(OK, b"x" * 65_536) as there:
        assert await send(there.url()) == 200


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_caller_that_goes_away_leaves_no_connection(scheme: str) -> None:
    async with receiver(None) as there:
        sending = asyncio.create_task(send(there.url(scheme=scheme)))
        await there.heard.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending


@pytest.mark.parametrize("junk", [
    b"SSH-2.0-s3cret\r\n\r\n", b"HTTP/1.1 099 s3cret\r\n\r\n", b"HTTP/1.1 101 s3cret\r\nupgrade: s3cret\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n: s3cret\r\n\r\n", b"HTTP/1.1 200 OK\r\nname: " + b"x" * 1_000_000, b"\0" * 1_000_000,
])  # fmt: skip
async def test_junk_in_place_of_an_answer_is_told_as_such(junk: bytes) -> None:
    async with receiver(junk) as there:
        assert await fails(there.url()) == ("the answer is not HTTP", False)


async def test_a_receiver_that_hangs_up_or_does_not_listen_is_told_as_such() -> None:
    async with receiver(b"") as there:
        assert await fails(there.url()) == ("the receiver closed the connection without an answer", False)
    assert await fails(there.url()) == ("connection refused", False)


# ---- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ssl.SSLContext]:
    """A certificate for the one name, signed by itself, and a server that has it."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    there = tmp_path_factory.mktemp("tls")
    make = f"""openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 2 -subj /CN={NAME}
               -addext subjectAltName=DNS:{NAME} -addext keyUsage=digitalSignature,keyCertSign"""
    subprocess.run(make.split(), cwd=there, check=True, capture_output=True, timeout=30)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(there / "cert", there / "key")
    return str(there / "cert"), tls


@pytest.mark.parametrize(("host", "vouched", "told"), [
    (NAME, True, None), (NAME, False, "self"), ("127.0.0.1", True, "IP address mis"), ("localhost", True, "Hostname")
])  # fmt: skip
async def test_a_certificate_is_of_the_name_in_the_url_and_vouched_for_or_it_is_refused(
    certificate: tuple[str, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch, host: str, vouched: bool, told: str | None
) -> None:
    resolves(monkeypatch, ["127.0.0.1"])
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    if vouched:
        monkeypatch.setattr(certifi, "where", lambda: certificate[0])
    async with receiver(tls=certificate[1]) as there:
        if told is None:
            assert await send(there.url(host, "https")) == 200
        else:
            assert (await fails(there.url(host, "https")))[0].startswith(f"the certificate is refused: {told}")
    assert len(there.seen) == (told is None)


async def test_http_and_https_taken_for_each_other_are_told_as_such(certificate: tuple[str, ssl.SSLContext]) -> None:
    async with receiver(None, OK) as plain, receiver(tls=certificate[1]) as there:
        assert (await fails(plain.url(scheme="https")))[0].startswith("TLS failed: ")
        assert (await fails(there.url()))[0].startswith(("the answer is not HTTP", "the receiver closed the"))


# ---- names


@pytest.mark.parametrize(("addresses", "told"), [
    (["169.254.169.254"], "link-local"), (["127.0.0.1", "169.254.1.1"], "link-local"), (["fe80::1"], "link-local"),
    (["::ffff:169.254.1.1"], "link-local"), (["2002:a9fe:a9fe::1"], "link-local"), (["fd00:ec2::254"], "link-local"),
    (["0.0.0.0"], "unspecified"), (["::"], "unspecified"), (["224.0.0.1"], "multicast"), (["ff02::1"], "multicast"),
    ([], "the host is not found: nobody knows it"),
])  # fmt: skip
async def test_a_name_that_leads_nowhere_is_refused_and_for_good_if_it_is_link_local(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str], told: str
) -> None:
    resolves(monkeypatch, addresses)
    async with receiver() as there:
        reason, final = await fails(there.url(NAME))
        assert told in reason
        assert (final, there.served) == (told == "link-local", [])


async def test_a_name_is_looked_up_once_and_its_addresses_are_tried_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    resolves(monkeypatch, ["::1", "127.0.0.1"], ["169.254.169.254"])
    async with receiver() as there:
        assert await send(there.url(NAME)) == 200
        assert there.seen[0][1]["host"] == f"{NAME}:{there.port}"
        assert (await fails(there.url(NAME)))[1], "the second time it is asked for, it is another address"


# ---- what a caller gives

GOOD = """http://localhost https://a.example/in?x=1&y=%20#z HTTPS://A.Example:443 http://127.0.0.1:1
    http://[::1]:65535/in http://10.0.0.1/ http://[fd00::1] http://web_hook:80?x=a@b http://a.example. http://127.1:80
    https://münchen.example http://169.254.169.254.example http://a.example: https://xn--mnchen-3ya.example"""
BAD = """a.example http: http:a.example //a.example ftp://a.example file:///etc/passwd http:// http:///in http://:80
    http://?x http://#x http://u@a.example http://u:p@a.example http://@a.example http://a.example@b.example http://.
    http://a.example:0 http://a.example:65536 http://a.example:999999 http://a.example:x http://a.example:-1
    http://a.example:٨٠ http://a..example http://a\\b.example http://a%2eb http://[::1 http://::1 http://[::1]x
    http://x[::1] http://[::g] http://[127.0.0.1] http://[v1.x] http://[] http://[fe80::1] http://[fe80::1%25eth0]
    http://[fe80::1%eth0]:80 http://[::1%25lo] http://[febf::1] http://[::ffff:169.254.169.254] http://[::ffff:a9fe:1]
    http://[::169.254.169.254] http://[2002:a9fe:a9fe::] http://[64:ff9b::169.254.1.1] http://[::ffff:0:169.254.1.1]
    http://[2001:0:a9fe:a9fe::1] http://[2001:0:1:1:0:0:5601:5601] http://[fd00:ec2::254] http://[::] http://[ff02::1]
    http://0.0.0.0 http://0 http://224.0.0.1 http://169.254.169.254 http://169.254.0.0:80/x http://169.254.169.254./
    http://2852039166/ http://0xa9fea9fe http://0XA9.0xFE.0xA9.0xFE http://0251.0376.0251.0376 http://025177524776
    http://169.254.43518 http://169.16689662 http://169。254。169。254 http://１６９.254.169.254"""
UNPRINTABLE = [f"http://a.example/{character}" for character in " \t\n\r\0\x7f\x85\xa0\u2028\u202e\ud800"]
LONG = f"http://a.example/{'x' * 1_983}"


@pytest.mark.parametrize("url", [*GOOD.split(), LONG])
def test_a_url_to_which_something_can_be_delivered_is_taken_as_it_is(url: str) -> None:
    assert check_url(url) == url


@pytest.mark.parametrize("url", [
    *BAD.split(), *UNPRINTABLE, f"{LONG}x", f"http://{'x' * 64}", f"http://{'x.' * 127}x", " http://a", "http://a b",
    "http://a\n", "", None, 7, b"http://a", ["http://a"],
])  # fmt: skip
def test_a_url_to_which_nothing_can_be_delivered_is_refused(url: object) -> None:
    with pytest.raises(InvalidArgument, match=r"^on_finish\.webhook "):
        check_url(url)


@pytest.mark.parametrize("key", ["", KEY[4:] + "MDE=", KEY * 2 + KEY[12:] + "MDE=", f"{KEY}=", f"{KEY} ", f"{KEY}é"])
def test_a_secret_of_another_form_is_refused_and_not_repeated(key: str) -> None:
    for secret in (f"whsec_{key}", key, f"WHSEC_{KEY}"):
        with pytest.raises(InvalidArgument, match=r"^(?!.*MDEy)"):
            check_secret(secret)


def test_a_secret_is_the_base64_of_24_to_64_bytes_and_new_ones_differ() -> None:
    for secret in (f"whsec_{KEY}", f"whsec_{KEY * 2 + KEY[12:]}MA==", made := new_secret()):
        check_secret(secret)
    assert made != new_secret()
