"""gRPC's own client and server (grpcio) with Patchbay between them.

Starts a coordinator and a worker of the programs given, opens a circuit to a server in this
process, and plays the cases of gRPC's interoperability suite that say something about a proxy. Ends
with 0 if all passed.
"""

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
import uuid
from concurrent import futures
from pathlib import Path

import grpc

SERVICE = "interop.Cases"
LARGE = 4 * 1024 * 1024 - 1024
CANCELLED = threading.Event()


def unary(request, context):
    context.send_initial_metadata((("x-initial", "of the app"),))
    told = dict(context.invocation_metadata()).get("x-ask", "")
    context.set_trailing_metadata((("x-told", told), ("x-bytes-bin", b"\x00\xff")))
    return request


def server_streams(request, context):
    for number in range(int(request)):
        yield b"%d" % number


def client_streams(requests, context):
    return b"%d" % sum(len(request) for request in requests)


def bidi(requests, context):
    yield from requests


def fails(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: \u00fcber 100 %")


def hangs(request, context):
    context.add_callback(CANCELLED.set)
    yield b"begun"
    CANCELLED.wait(20)


def serve():
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStreams": grpc.unary_stream_rpc_method_handler(server_streams),
        "ClientStreams": grpc.stream_unary_rpc_method_handler(client_streams),
        "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
        "Fails": grpc.unary_unary_rpc_method_handler(fails),
        "Hangs": grpc.unary_stream_rpc_method_handler(hangs),
    }
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(64), options=options)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(url, body=None):
    request = urllib.request.Request(url, headers={"accept": "application/json"})
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("content-type", "application/json")
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)


class Patchbay:
    """A coordinator and a worker with one port."""

    SECRETS = (
        '[secrets]\napi_secret = "interop"\njwt_secret = "interop"\n\n'
        '[permit_hash]\nsecret = "interop"\n\n'
    )

    def __init__(self, programs, folder):
        self.folder = Path(folder)
        self.api, worker, self.slot = free_port(), free_port(), free_port()
        coordinator = (
            f'{self.SECRETS}[db]\ntype = "sqlite"\npath = "{self.folder}/patchbay.db"\n\n'
            f'[proxy_coordinator]\nbind_addr = {{ host = "127.0.0.1", port = {self.api} }}\n'
            "allow_unauthorized_configure_request = true\n"
        )
        self.running = [self.start(programs, "patchbay-coordinator", coordinator)]
        await_url(f"http://127.0.0.1:{self.api}/status")
        settings = (
            f'{self.SECRETS}[proxy_worker]\nauthority = "interop"\n'
            f'coordinator_endpoint = "http://127.0.0.1:{self.api}"\nprotocol = "grpc"\n'
            'accepted_traffics = ["interactive"]\nfrontend_mode = "port"\n'
            f'api_bind_addr = {{ host = "127.0.0.1", port = {worker} }}\n'
            f'port_proxy = {{ bind_host = "127.0.0.1", bind_port_range = [{self.slot}, {self.slot}], '
            'advertised_host = "127.0.0.1" }\n'
        )
        self.running.append(self.start(programs, "patchbay-worker", settings))
        await_url(f"http://127.0.0.1:{worker}/health/readyz")

    def start(self, programs, name, configuration):
        file = self.folder / f"{name}.toml"
        file.write_text(configuration)
        log = (self.folder / f"{name}.log").open("w")
        command = [str(Path(programs) / name), "--config", str(file)]
        return subprocess.Popen(command, stdout=log, stderr=log)

    def open(self, kernel):
        session = str(uuid.uuid4())
        owner = {
            "id": session,
            "user_uuid": str(uuid.uuid4()),
            "group_id": str(uuid.uuid4()),
            "access_key": "AKINTEROP",
            "domain_name": "default",
        }
        conf = {
            "login_session_token": None,
            "kernel_host": "127.0.0.1",
            "kernel_port": kernel,
            "session": owner,
        }
        base = f"http://127.0.0.1:{self.api}/v2"
        token = ask(f"{base}/conf", conf)["token"]
        query = {
            "app": "model",
            "protocol": "grpc",
            "token": token,
            "session_id": session,
            "open_to_public": "true",
        }
        ask(f"{base}/proxy/auth?{urllib.parse.urlencode(query)}")
        return f"127.0.0.1:{self.slot}"

    def stop(self):
        for process in reversed(self.running):
            process.terminate()
            process.wait(10)


def await_url(url):
    end = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


class Cases:
    """The cases; each is a method and says by `assert` what has to be."""

    def __init__(self, channel):
        self.unary = channel.unary_unary(f"/{SERVICE}/Unary")
        self.server_streams = channel.unary_stream(f"/{SERVICE}/ServerStreams")
        self.client_streams = channel.stream_unary(f"/{SERVICE}/ClientStreams")
        self.bidi = channel.stream_stream(f"/{SERVICE}/Bidi")
        self.fails = channel.unary_unary(f"/{SERVICE}/Fails")
        self.hangs = channel.unary_stream(f"/{SERVICE}/Hangs")
        self.unknown = channel.unary_unary(f"/{SERVICE}/Unknown")

    def empty_unary(self):
        assert self.unary(b"", timeout=10) == b""

    def large_unary(self):
        message = bytes(range(256)) * (LARGE // 256)
        assert self.unary(message, timeout=30) == message

    def custom_metadata(self):
        answer, call = self.unary.with_call(b"x", timeout=10, metadata=(("x-ask", "me"),))
        assert answer == b"x"
        assert ("x-initial", "of the app") in call.initial_metadata()
        assert ("x-told", "me") in call.trailing_metadata()
        assert ("x-bytes-bin", b"\x00\xff") in call.trailing_metadata()

    def server_streaming(self):
        assert list(self.server_streams(b"1000", timeout=20)) == [b"%d" % n for n in range(1000)]

    def client_streaming(self):
        pieces = (b"x" * 1000 for _ in range(1000))
        assert self.client_streams(pieces, timeout=20) == b"1000000"

    def ping_pong(self):
        turn = threading.Semaphore(1)

        def ask_in_turn():
            for number in range(100):
                turn.acquire()
                yield b"%d" % number

        for number, answer in enumerate(self.bidi(ask_in_turn(), timeout=20)):
            assert answer == b"%d" % number
            turn.release()
        assert number == 99

    def empty_stream(self):
        assert list(self.bidi(iter(()), timeout=10)) == []

    def status_code_and_message(self):
        error = self.refused(self.fails, b"")
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        assert error.details() == "not now: \u00fcber 100 %", error

    def unimplemented_method(self):
        assert self.refused(self.unknown, b"").code() == grpc.StatusCode.UNIMPLEMENTED

    def timeout_on_a_sleeping_server(self):
        call = self.hangs(b"", timeout=0.5)
        try:
            list(call)
            raise AssertionError("it ended in order")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        assert CANCELLED.wait(5), "the server never heard of it"
        CANCELLED.clear()

    def cancel_after_first_response(self):
        call = self.hangs(b"", timeout=20)
        assert next(call) == b"begun"
        call.cancel()
        assert CANCELLED.wait(5), "the server never heard of it"
        CANCELLED.clear()

    def cancel_after_begin(self):
        hold = threading.Event()

        def pieces():
            yield b"x"
            hold.wait(10)

        call = self.client_streams.future(pieces(), timeout=20)
        call.cancel()
        hold.set()
        assert call.cancelled()

    def concurrent_calls(self):
        calls = [self.unary.future(b"%d" % number, timeout=30) for number in range(1000)]
        assert [call.result() for call in calls] == [b"%d" % number for number in range(1000)]

    @staticmethod
    def refused(method, request):
        try:
            method(request, timeout=10)
        except grpc.RpcError as error:
            return error
        raise AssertionError("it ended in order")


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--programs", required=True, help="folder of Patchbay's programs")
    programs = arguments.parse_args().programs
    server, port = serve()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        patchbay = Patchbay(programs, folder)
        try:
            options = [("grpc.max_receive_message_length", -1)]
            channel = grpc.insecure_channel(patchbay.open(port), options=options)
            cases = Cases(channel)
            names = [name for name in vars(Cases) if name not in ("__init__", "refused")]
            for name in (name for name in names if not name.startswith("__")):
                try:
                    getattr(cases, name)()
                    print(f"  ok      {name}")
                except (AssertionError, grpc.RpcError) as error:
                    failed += 1
                    print(f"  FAILED  {name}: {error!r}")
            server.stop(0)
            gone = cases.refused(cases.unary, b"")
            if gone.code() != grpc.StatusCode.UNAVAILABLE:
                failed += 1
                print(f"  FAILED  a dead app is unavailable: {gone!r}")
            channel.close()
        finally:
            patchbay.stop()
        if failed:
            print((Path(folder) / "patchbay-worker.log").read_text())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
