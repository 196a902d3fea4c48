"""What the Manager, a browser and a client of a model service do with circuits, step by step."""

import base64
import json
import socket
import subprocess
import threading
import time
import uuid
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

from rig import check, eventually
from web import WebSocket, fetch


class Circuits:
    """The Manager's side of one coordinator, whichever kind it is at the moment."""

    def __init__(self, rig):
        self.base, self.redis = rig.coordinator, rig.redis
        self.headers = {"X-BackendAI-Token": rig.api_secret, "Accept": "application/json"}

    def call(self, method, path, body=None, expect=200):
        answer = fetch(method, self.base + path, self.headers, body)
        check(answer.status == expect, f"{method} {path}: {answer}")
        return answer.json()

    def workers(self):
        return {each["authority"]: each for each in self.call("GET", "/api/worker")["workers"]}

    def open(self, app, host, port, protocol="http"):
        """POST /v2/conf (without the API token, as the Manager sends it), then GET /v2/proxy/auth."""
        session = str(uuid.uuid4())
        owner = {
            "id": session, "user_uuid": str(uuid.uuid4()), "group_id": str(uuid.uuid4()),
            "access_key": "AKINTEROP", "domain_name": "default",
        }  # fmt: skip
        body = {"login_session_token": None, "kernel_host": host, "kernel_port": port}
        answer = fetch("POST", f"{self.base}/v2/conf", body={**body, "session": owner})
        check(answer.status == 200, f"POST /v2/conf: {answer}")
        query = {"app": app, "protocol": protocol, "session_id": session}
        query = urlencode({**query, "token": answer.json()["token"]})
        opened = self.call("GET", f"/v2/proxy/auth?{query}")
        check(opened["reuse"] is False, f"a new circuit is said to be reused: {opened}")
        return opened["redirect_url"], query

    def has_endpoints(self):
        """Whether this coordinator has the calls for model services."""
        none = {"endpoints": []}
        answer = fetch("POST", f"{self.base}/v2/endpoints/bulk", self.headers, none)
        return answer.status != 404

    def live(self, key):
        """The text of a key in the database of live data, or nothing."""
        command = ["redis-cli", "-p", str(self.redis), "-n", "2", "GET", key]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def circuit_of(setup_url):
    """The circuit's id, out of the setup token's claims."""
    claims = parse_qs(urlsplit(setup_url).query)["token"][0].split(".")[1]
    return json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["circuit"]


class App:
    """An interactive HTTP app that a browser has got into."""

    def __init__(self, circuits, setup_url, query):
        self.circuits, self.query = circuits, query
        self.id = circuit_of(setup_url)
        self.session = parse_qs(query)["session_id"][0]
        self.enter(setup_url)

    def enter(self, setup_url):
        """Follows the redirects to the app, as a browser does, and keeps the cookies on the way."""
        url, cookies = setup_url, {}
        for hop in range(4):
            joined = "; ".join(f"{name}={value}" for name, value in cookies.items())
            answer = fetch("GET", url, {"Cookie": joined} if joined else None)
            for each in answer.headers.get_all("Set-Cookie") or []:
                name, value = each.split(";")[0].split("=", 1)
                cookies[name] = value
            if answer.status not in (302, 303, 307):
                break
            url = urljoin(url, answer.headers["Location"])
        check(hop > 0, f"GET /setup: {answer}")
        check(answer.status == 200, f"the end of the way from /setup is {url}: {answer}")
        check(cookies, "no cookie was set on the way from /setup")
        parts = urlsplit(url)
        self.url = f"{parts.scheme}://{parts.netloc}"
        self.cookie = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}

    def get(self, path="/", permit=True):
        return fetch("GET", self.url + path, self.cookie if permit else None)

    def close(self):
        """Closes the circuit and waits until its slot is free."""
        self.circuits.call("DELETE", f"/api/circuit/{self.id}")
        eventually(f"the slot of {self.url} is free", lambda: self.get().status == 400)

    def websocket(self):
        return WebSocket(f"{self.url}/ws", self.cookie)


def prove_interactive(say, circuits, kernel):
    """An interactive HTTP circuit from its opening to its end."""
    setup_url, query = circuits.open("jupyter", "127.0.0.1", kernel)
    say(f"POST /v2/conf and GET /v2/proxy/auth opened a circuit: {setup_url.split('?')[0]}")
    app = App(circuits, setup_url, query)
    say(f"GET /setup leads to {app.url}, with a permit cookie")
    stranger = app.get(permit=False)
    check(stranger.status == 401, f"a request without the permit: {stranger}")
    page = app.get()
    check(page.status == 200 and b"<html" in page.body, f"the app's page: {page}")
    say("a request with the permit reaches the app; without it the answer is 401")
    again = circuits.call("GET", f"/v2/proxy/auth?{app.query}")
    check(again["reuse"] is True, f"the same app was not reused: {again}")
    check(circuit_of(again["redirect_url"]) == app.id, "another circuit was reused")
    check(app.get().status == 200, "the app is gone after it was opened a second time")
    say("opening it a second time reuses the circuit")
    tunnel = app.websocket()
    for text in ("first", "second", "grüße"):
        check(tunnel.echo(text) == text, "the WebSocket echoes something else")
    tunnel.close()
    say("a WebSocket carries messages both ways and closes")
    eventually("the requests are counted", lambda: counted(circuits, app) >= 3)
    say("the worker's activity marks are where coordinators and the Manager look for them")
    app.close()
    circuits.call("GET", f"/api/circuit/{app.id}", expect=404)
    say("DELETE /api/circuit closes it: its slot answers 400")


def counted(circuits, app):
    """The requests the worker has marked in Redis, once the marks of the last use are there too."""
    keys = [f"circuit.{app.id}.last_access", f"circuit.{app.id}.requests"]
    marked = [circuits.live(key) for key in [*keys, f"session.{app.session}.last_access"]]
    check(not all(marked) or float(marked[0]) > 0 < float(marked[2]), f"the marks are {marked}")
    return int(marked[1]) if all(marked) else 0


class Model:
    """A model service, opened without routes."""

    def __init__(self, circuits):
        self.circuits, self.id = circuits, str(uuid.uuid4())
        tags = {
            "session": {"user_uuid": str(uuid.uuid4()), "project_id": str(uuid.uuid4()),
                        "domain_name": "default"},
            "endpoint": {"id": self.id, "runtime_variant": "vllm", "existing_url": None},
        }  # fmt: skip
        made = self.bulk("POST", "", version="v2", service_name="my-llm", tags=tags,
                         open_to_public=False, health_check={"enable": True, "path": "/"})  # fmt: skip
        self.url = made["url"].rstrip("/")
        body = {"user_uuid": str(uuid.uuid4()), "exp": int(time.time()) + 600}
        token = circuits.call("POST", f"/v2/endpoints/{self.id}/token", body)["token"]
        self.bearer = {"Authorization": f"BackendAI {token}"}

    def bulk(self, method, path, **facts):
        """Calls one of the bulk routes for this model alone; returns what is said about it."""
        body = {"endpoints": [{"deployment_id": self.id, **facts}]}
        (told,) = self.circuits.call(method, f"/v2/endpoints/bulk{path}", body)["endpoints"]
        check(told.get("success", True), f"{method} /v2/endpoints/bulk{path}: {told}")
        return told

    def route(self, *kernels):
        """Makes the service's routes lead to these kernels' ports."""
        routes = [{"session_id": str(uuid.uuid4()), "route_id": str(uuid.uuid4()),
                   "kernel_host": "127.0.0.1", "kernel_port": port} for port in kernels]  # fmt: skip
        self.bulk("POST", "/routes", routes=routes)

    def get(self, token=True):
        return fetch("GET", self.url, self.bearer if token else None)

    def answers(self, status):
        eventually(f"{self.url} answers {status}", lambda: self.get().status == status)


def prove_inference(say, circuits, kernel):
    """A model service on a subdomain: opened without routes, given one, asked for a token."""
    model = Model(circuits)
    say(f"POST /v2/endpoints/bulk opened an inference circuit: {model.url}")
    model.answers(503)
    model.route(kernel)
    model.answers(200)
    stranger = model.get(token=False)
    check(stranger.status == 401, f"a request without a token: {stranger}")
    say("a route update reaches the worker: 503 before, 200 after; 401 without the token")
    model.bulk("DELETE", "")
    model.answers(400)
    say("DELETE /v2/endpoints/bulk closes it")


def prove_tcp(say, circuits):
    """A TCP circuit: the gateway of /setup's answer carries bytes both ways."""
    with Echo() as echo:
        setup_url, _ = circuits.open("sshd", "127.0.0.1", echo.port, protocol="tcp")
        answer = fetch("GET", setup_url)
        check(answer.status == 200, f"GET /setup: {answer}")
        start = answer.json()["redirectURI"]
        gateway = urlsplit(parse_qs(urlsplit(start).query)["gateway"][0])
        check(gateway.scheme == "tcp", f"the gateway is {gateway.geturl()}")
        with socket.create_connection(("127.0.0.1", gateway.port), 10) as line:
            line.settimeout(10)
            line.sendall(b"through the line")
            back = line.recv(100)
            check(back == b"through the line", f"the TCP circuit brought back {back!r}")
        say(f"a TCP circuit carries bytes both ways: {gateway.geturl()}")
        circuit = circuit_of(setup_url)
        circuits.call("DELETE", f"/api/circuit/{circuit}")
        eventually("the closed TCP slot refuses", lambda: refuses(gateway.port))
        say("DELETE /api/circuit closes it: its port hangs up")


def refuses(port):
    """Whether a connection to the port is refused, or ended without a byte."""
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as line:
            line.settimeout(5)
            line.sendall(b"anybody?")
            return line.recv(1) == b""
    except OSError:
        return True


class Echo:
    """A TCP server that sends everything back."""

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.close()

    def _accept(self):
        while True:
            try:
                line, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[line], daemon=True).start()

    @staticmethod
    def _serve(line):
        with line:
            try:
                while data := line.recv(4096):
                    line.sendall(data)
            except OSError:
                pass


class Watch:
    """Uses an app all the time, by requests and by one WebSocket, and keeps what failed."""

    def __init__(self, app):
        self.app, self.failures, self.requests, self.messages = app, [], 0, 0
        self.ended = threading.Event()
        self.tunnel = app.websocket()
        self.threads = [threading.Thread(target=each, daemon=True) for each in (self._get, self._talk)]
        for thread in self.threads:
            thread.start()

    def _repeat(self, once):
        while not self.ended.wait(0.1):
            try:
                once()
            except OSError as error:
                self.failures.append(repr(error))

    def _get(self):
        def once():
            answer = self.app.get()
            self.requests += 1
            if answer.status != 200:
                self.failures.append(str(answer))

        self._repeat(once)

    def _talk(self):
        def once():
            self.messages += 1
            text = f"message {self.messages}"
            if self.tunnel.echo(text) != text:
                self.failures.append(f"{text} was not echoed")

        self._repeat(once)

    def all_is_well(self):
        """Whether nothing has failed, and both are still going on."""
        check(not self.failures, f"{self.app.url}: {self.failures[:3]}")
        before = self.requests, self.messages
        eventually(
            f"{self.app.url} goes on",
            lambda: self.requests > before[0] and self.messages > before[1],
        )

    def end(self):
        self.ended.set()
        for thread in self.threads:
            thread.join(30)
        self.tunnel.close()
