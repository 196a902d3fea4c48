"""Proofs of the tunnels at full size; called by scripts/prove-tunnels."""

import argparse
import contextlib
import hashlib
import http.client
import http.server
import os
import pathlib
import random
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time

TOKEN = "token-of-the-proofs"
MEGABYTE = 1 << 20
LARGE = 2048 * MEGABYTE
MEMORY = 64 * MEGABYTE
# Longest that a request may take to be refused while its agent cannot be reached: two intervals of
# signs of life and the time-out of a connection.
PATIENCE = 25


def fail(text):
    sys.exit(f"amiss: {text}")


def free_port(host="127.0.0.1"):
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


class App(http.server.BaseHTTPRequestHandler):
    """Echoes, takes uploads, serves zeros; keeps nothing."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        count = int(self.path.rpartition("/")[2]) if "/zeros/" in self.path else 0
        self.send_response(200)
        self.send_header("content-length", str(count or 2))
        self.end_headers()
        piece = bytes(65536)
        while count > 0:
            count -= self.wfile.write(piece[:count])
        if "/zeros/" not in self.path:
            self.wfile.write(b"ok")

    def do_POST(self):
        left, taken = int(self.headers["content-length"]), hashlib.sha256()
        keep = b"" if "/echo" in self.path else None
        while left > 0:
            piece = self.rfile.read(min(left, 65536))
            left -= len(piece)
            taken.update(piece)
            if keep is not None:
                keep += piece
        body = keep if keep is not None else taken.hexdigest().encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-path", self.path)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class AppServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads, request_queue_size = True, 1024

    def handle_error(self, *_):
        """A visitor that breaks off is what some of the proofs are about."""


class Bench:
    """A gateway and an agent, in folders and on ports of their own."""

    def __init__(self, programs, host="127.0.0.1", wrap=(), tunnels=(), more="", app=True):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="patchbay-proof-"))
        self.programs, self.host, self.wrap, self.started = programs, host, list(wrap), []
        self.port, admin = free_port(), free_port()
        config = self.folder / "gateway.toml"
        config.write_text(f'[gateway]\nbind = "{host}:{self.port}"\nadmin_bind = "127.0.0.1:{admin}"\n'
                          f'[tunnels]\nping_interval = "2s"\n[[tunnels.tokens]]\nname = "all"\n'
                          f'token = "{TOKEN}"\n{more}')
        self.gateway = self.start([programs / "patchbay-worker", "--config", config], "gateway")
        self.until(lambda: self.status("/api/health") == 200, "the gateway")
        if app:
            server = AppServer(("127.0.0.1", 0), App)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            tunnels = [f"web=http://127.0.0.1:{server.server_port}", *tunnels]
        self.tunnels = tunnels
        self.start_agent()

    def start_agent(self):
        arguments = [part for one in self.tunnels for part in ("--tunnel", one)]
        self.agent = self.start([*self.wrap, self.programs / "patchbay-agent", "--gateway",
                                 f"http://{self.host}:{self.port}", "--token", TOKEN, "--id", "proof",
                                 *arguments], "agent")

    def start(self, command, name):
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
        self.started.append(process)
        return process

    def ask(self, path, method="GET", body=None, patience=60):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=patience)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def status(self, path, patience=60):
        try:
            return self.ask(path, patience=patience)[0]
        except OSError:
            return 0

    def until(self, condition, what, seconds=60, pause=0.02):
        start = time.monotonic()
        while not condition():
            if time.monotonic() - start > seconds:
                log = "".join(file.read_text(errors="replace")[-2000:] for file in self.folder.glob("*.log"))
                fail(f"not in time: {what}\n{log}")
            time.sleep(pause)
        return time.monotonic() - start

    def answers(self, what, path="/t/web/"):
        return self.until(lambda: self.status(path) == 200, what)

    def peak(self, process):
        for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
        return 0

    def end(self):
        for process in self.started:
            process.terminate()
        for process in self.started:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def bench(*args, **more):
    one = Bench(*args, **more)
    try:
        yield one
    finally:
        one.end()


def large(given):
    with bench(given.programs) as one:
        one.answers("the tunnel")
        start = time.monotonic()
        connection = http.client.HTTPConnection(one.host, one.port, timeout=600)
        connection.request("GET", f"/t/web/zeros/{LARGE}")
        answer, count = connection.getresponse(), 0
        while piece := answer.read(MEGABYTE):
            count += len(piece)
        down = time.monotonic() - start
        if count != LARGE:
            fail(f"{count} bytes of {LARGE} came down")
        start, piece, known = time.monotonic(), bytes(MEGABYTE), hashlib.sha256()
        connection.putrequest("POST", "/t/web/upload")
        connection.putheader("content-length", str(LARGE))
        connection.endheaders()
        for _ in range(LARGE // MEGABYTE):
            connection.send(piece)
            known.update(piece)
        told = connection.getresponse().read().decode()
        up = time.monotonic() - start
        if told != known.hexdigest():
            fail("what came up is not what was sent")
        print(f"    2 GB down in {down:.1f} s, up in {up:.1f} s")
        for name, process in (("gateway", one.gateway), ("agent", one.agent)):
            peak = one.peak(process)
            print(f"    {name}: {peak / MEGABYTE:.0f} MB at most")
            if peak >= MEMORY:
                fail(f"the {name} took {peak} bytes")


def slow(given):
    """A visitor that reads nothing holds up nobody."""
    with bench(given.programs) as one:
        one.answers("the tunnel")
        alone = median_of(one)
        stuck = []
        for _ in range(50):
            visitor = socket.create_connection((one.host, one.port))
            visitor.sendall(f"GET /t/web/zeros/{LARGE} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            stuck.append(visitor)
        time.sleep(2)
        beside = median_of(one)
        print(f"    median answer: {alone * 1e3:.1f} ms alone, {beside * 1e3:.1f} ms beside 50 visitors that read nothing")
        for name, process in (("gateway", one.gateway), ("agent", one.agent)):
            print(f"    {name}: {one.peak(process) / MEGABYTE:.0f} MB at most")
        if beside > max(10 * alone, 0.1):
            fail("the slow hold up the others")


def median_of(one, count=100):
    times = []
    for _ in range(count):
        start = time.monotonic()
        if one.status("/t/web/") != 200:
            fail("a request failed")
        times.append(time.monotonic() - start)
    return sorted(times)[count // 2]


def ssh(given):
    if not (shutil.which("ssh") and shutil.which("sshd") and shutil.which("ssh-keygen")):
        print("    not shown: there is no sshd here (apt-get install openssh-server)")
        return
    port, door = free_port(), free_port()
    more = f'[[tunnels.tcp]]\nbind = "127.0.0.1:{door}"\ntunnel = "shell"\n'
    with bench(given.programs, tunnels=[f"shell=tcp://127.0.0.1:{port}"], more=more) as one:
        keys = one.folder
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name], check=True)
        shutil.copy(keys / "user.pub", keys / "authorized")
        os.makedirs("/run/sshd", exist_ok=True)
        one.start([shutil.which("sshd"), "-D", "-e", "-f", "/dev/null", "-h", keys / "host", "-o", f"Port={port}",
                   "-o", "ListenAddress=127.0.0.1", "-o", f"AuthorizedKeysFile={keys}/authorized", "-o",
                   "StrictModes=no", "-o", "PidFile=none", "-o", "UsePAM=no", "-o", "PermitRootLogin=yes"], "sshd")
        command = ["ssh", "-q", "-i", keys / "user", "-o", "StrictHostKeyChecking=no", "-o",
                   f"UserKnownHostsFile={keys}/known", "-o", "BatchMode=yes", "-p", str(door), "127.0.0.1"]

        def greets():
            ran = subprocess.run([*command, "echo", "hello"], capture_output=True, text=True, timeout=30)
            return ran.stdout == "hello\n"
        one.until(greets, "a session through the tunnel", pause=0.3)
        data = os.urandom(32 * MEGABYTE)
        start = time.monotonic()
        ran = subprocess.run([*command, "cat"], input=data, capture_output=True, timeout=120)
        if ran.stdout != data:
            fail("what came back by SSH is not what was sent")
        print(f"    a session, and 32 MB there and back through cat in {time.monotonic() - start:.1f} s")


class Namespace:
    """The agent's network: one wire to ours."""

    def __init__(self):
        self.name, self.near = f"pb{os.getpid()}", f"pbv{os.getpid()}"
        third = random.randrange(1, 250)
        self.here, self.there = f"10.213.{third}.1", f"10.213.{third}.2"
        far = self.near + "x"
        for line in (f"netns add {self.name}", f"link add {self.near} type veth peer name {far}",
                     f"link set {far} netns {self.name}", f"addr add {self.here}/30 dev {self.near}",
                     f"link set {self.near} up", f"-n {self.name} addr add {self.there}/30 dev {far}",
                     f"-n {self.name} link set lo up", f"-n {self.name} link set {far} up"):
            self.ip(line)
        self.far = far

    def ip(self, line):
        subprocess.run(["ip", *line.split()], check=True)

    def swallow(self):
        """Frames go to a station that is not there, both ways: no error, no answer."""
        self.ip(f"neigh replace {self.there} lladdr 02:00:00:00:0b:ad dev {self.near} nud permanent")
        self.ip(f"-n {self.name} neigh replace {self.here} lladdr 02:00:00:00:0b:ad dev {self.far} nud permanent")

    def heal(self):
        self.ip(f"neigh del {self.there} dev {self.near}")
        self.ip(f"-n {self.name} neigh del {self.here} dev {self.far}")

    def remove(self):
        subprocess.run(["ip", "link", "del", self.near], check=False)
        subprocess.run(["ip", "netns", "del", self.name], check=False)


def interrupted(given, name, begin, end):
    if os.geteuid() != 0 or not shutil.which("ip"):
        print(f"    {name} not shown: network namespaces need root and iproute2")
        return
    wire = Namespace()
    inside = ["ip", "netns", "exec", wire.name]
    port = 3000
    try:
        app = subprocess.Popen([*inside, sys.executable, __file__, "--serve", str(port)])
        with bench(given.programs, host=wire.here, wrap=inside, tunnels=[f"web=http://127.0.0.1:{port}"],
                   app=False) as one:
            one.answers("the tunnel")
            under_way = socket.create_connection((one.host, one.port), timeout=120)
            under_way.sendall(f"GET /t/web/zeros/{LARGE * 100} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            under_way.recv(1000)
            begin(wire)
            start, slowest, statuses = time.monotonic(), 0, set()
            ended = threading.Thread(target=drain, args=(under_way,))
            ended.start()
            while time.monotonic() - start < 30:
                asked = time.monotonic()
                statuses.add(one.status("/t/web/", patience=120))
                slowest = max(slowest, time.monotonic() - asked)
                time.sleep(0.1)
            ended.join(1)
            if ended.is_alive():
                fail("a download hangs although its agent is gone")
            if slowest > PATIENCE or 0 in statuses:
                fail(f"a request took {slowest:.1f} s; {statuses}")
            end(wire)
            back = one.answers("the tunnel after the return")
            print(f"    {name} for 30 s: requests got {sorted(statuses)} within {slowest:.1f} s, "
                  f"answers again {back:.2f} s after the return")
    finally:
        app.terminate()
        app.wait()
        wire.remove()


def drain(visitor):
    with contextlib.suppress(OSError):
        while visitor.recv(MEGABYTE):
            pass


def cut(given):
    interrupted(given, "the wire cut", lambda wire: wire.ip(f"link set {wire.near} down"),
                lambda wire: wire.ip(f"link set {wire.near} up"))


def swallow(given):
    interrupted(given, "packets swallowed", Namespace.swallow, Namespace.heal)


def soak(given):
    """Tagged bodies while the agent and the gateway's connection come and go."""
    with bench(given.programs) as one:
        one.answers("the tunnel")
        until, lock, counts = time.monotonic() + 60 * given.minutes, threading.Lock(), {}

        def visit(number):
            rng, connection = random.Random(number), None
            while time.monotonic() < until:
                tag = f"{number}-{rng.random()}-" + "x" * rng.randrange(1 << rng.randrange(4, 17))
                path = f"/echo/{number}/{rng.randrange(1 << 30)}"
                try:
                    connection = connection or http.client.HTTPConnection(one.host, one.port, timeout=60)
                    connection.request("POST", "/t/web" + path, tag.encode())
                    answer = connection.getresponse()
                    body, status = answer.read(), answer.status
                    if status == 200 and (body != tag.encode() or answer.headers["x-path"] != path):
                        os.write(2, f"amiss: {path} got another's answer\n".encode())
                        os._exit(1)
                except (OSError, http.client.HTTPException):
                    connection, status = None, 0
                with lock:
                    counts[status] = counts.get(status, 0) + 1

        threads = [threading.Thread(target=visit, args=(number,)) for number in range(64)]
        for thread in threads:
            thread.start()
        kills = 0
        while time.monotonic() < until - 5:
            time.sleep(5)
            one.agent.kill()
            one.agent.wait()
            kills += 1
            one.start_agent()
        for thread in threads:
            thread.join()
        total = sum(counts.values())
        print(f"    {total} requests, agent killed {kills} times; by status: {dict(sorted(counts.items()))}; "
              "none got another's answer")
        if counts.get(200, 0) < total / 2:
            fail("most requests failed")


CASES = {"large": large, "slow": slow, "ssh": ssh, "cut": cut, "swallow": swallow, "soak": soak}


def main():
    parser = argparse.ArgumentParser(prog="scripts/prove-tunnels", add_help=False)
    parser.add_argument("--programs", type=pathlib.Path)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--serve", type=int)
    parser.add_argument("cases", nargs="*")
    given = parser.parse_args()
    if given.serve:
        AppServer(("127.0.0.1", given.serve), App).serve_forever()
    for name in given.cases or CASES:
        if name not in CASES:
            parser.error(f"unknown case {name}: there are {', '.join(CASES)}")
    for name in given.cases or CASES:
        print(f"  {name}", flush=True)
        CASES[name](given)


if __name__ == "__main__":
    main()
