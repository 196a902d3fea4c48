"""The programs of both kinds, each with a configuration file that either kind can read.

`Rig` knows where everything is; `Program` is one running process with its log. Both App Proxy and
Patchbay get the same text for the same role, which is a part of what is proved.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path

from web import fetch

PATCHBAY, PYTHON = "Patchbay", "App Proxy"
READY_WITHIN = 90.0
END_WITHIN = 40.0
TRAFFICS = ("interactive", "inference")


class Broken(Exception):
    """A promise that does not hold; its text says which."""


def check(holds, text):
    if not holds:
        raise Broken(text)


def eventually(what, condition, within=20.0):
    """Waits until the condition gives something true, and returns that."""
    deadline = time.monotonic() + within
    while True:
        try:
            last = condition()
            if last:
                return last
        except (OSError, KeyError, ValueError) as error:
            last = error
        check(time.monotonic() < deadline, f"{what}: not within {within:.0f} s (last: {last})")
        time.sleep(0.05)


def free_ports(count):
    held = [socket.socket() for _ in range(count)]
    for each in held:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


class Program:
    """A process in a session of its own, which ends with this driver even where that is killed."""

    def __init__(self, name, command, log, environment=None):
        self.name, self.log = name, log
        with open(log, "ab") as out:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *map(str, command)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                env={**os.environ, **(environment or {})}, cwd=log.parent,
            )  # fmt: skip

    def alive(self):
        return self.process.poll() is None

    def wait_for(self, answers):
        def ready():
            check(self.alive(), f"{self.name} ended at its start ({self.process.returncode})")
            return answers()

        eventually(f"{self.name} is ready", ready, READY_WITHIN)

    def stop(self):
        """Asks it to end; whatever of its session is left after that is ended by force."""
        if self.alive():
            self.process.terminate()
        try:
            self.process.wait(END_WITHIN)
        except subprocess.TimeoutExpired:
            print(f"  ! {self.name} did not end within {END_WITHIN:.0f} s of SIGTERM", flush=True)
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


class Rig:
    """One installation: a database, a Redis, secrets, and the programs started in it."""

    def __init__(self, folder, programs, venv, redis, postgres, database):
        self.folder, self.programs, self.venv = Path(folder), Path(programs), Path(venv)
        self.redis, self.postgres, self.database = redis, postgres, database
        self.started = []
        self.workers = {}
        self.api_secret = secrets.token_urlsafe(32)
        self.jwt_secret = secrets.token_urlsafe(32)
        self.permit_secret = secrets.token_urlsafe(32)
        self.folder.mkdir(parents=True)
        (self.folder / "ipc").mkdir()
        self.ports = iter(range(12000 + (os.getpid() % 500) * 16, 32000))
        self.coordinator_port = self.neighbouring_ports(1)
        self.coordinator = f"http://127.0.0.1:{self.coordinator_port}"

    def shared(self):
        return f"""
[redis]
addr = {{ host = "127.0.0.1", port = {self.redis} }}

[secrets]
api_secret = "{self.api_secret}"
jwt_secret = "{self.jwt_secret}"

[permit_hash]
secret = "{self.permit_secret}"
digest_mod = "sha256"

[service_discovery]
type = "redis"

[logging]
level = "INFO"
drivers = ["console"]
pkg-ns = {{ "" = "WARNING", "ai.backend" = "INFO" }}
console = {{ colored = false, format = "verbose" }}

[debug]
enabled = false
"""

    def process_keys(self):
        termui = self.neighbouring_ports(2)
        return f"""
event_loop = "asyncio"
ipc_base_path = "{self.folder}/ipc"
aiomonitor_termui_port = {termui}
aiomonitor_webui_port = {termui + 1}
"""

    def coordinator_file(self):
        path = self.folder / "coordinator.toml"
        if not path.exists():
            address = f'{{ host = "127.0.0.1", port = {self.coordinator_port} }}'
            path.write_text(f"""
[proxy_coordinator]
bind_addr = {address}
advertised_addr = {address}
announce_addr = {address}
allow_unauthorized_configure_request = true
{self.process_keys()}
[db]
type = "postgresql"
addr = {{ host = "127.0.0.1", port = {self.postgres} }}
name = "{self.database}"
user = "postgres"
password = "none"
{self.shared()}""")
        return path

    def command(self, kind, role, config):
        if kind == PATCHBAY:
            return [self.programs / f"patchbay-{role}", "-f", config]
        return [self.venv / "bin/backend.ai", f"app-proxy-{role}", "start-server", "-f", config]

    def launch(self, kind, role, name, config, answers):
        log = self.folder / f"{name}-{kind.replace(' ', '').lower()}.log"
        program = Program(f"{kind}'s {name}", self.command(kind, role, config), log)
        self.started.append(program)
        program.wait_for(answers)
        return program

    def start_coordinator(self, kind):
        return self.launch(
            kind, "coordinator", "coordinator", self.coordinator_file(),
            lambda: fetch("GET", f"{self.coordinator}/status").status == 200,
        )  # fmt: skip

    def start_worker(self, kind, name, protocol="http", domain=None, traffics=TRAFFICS, more=""):
        """A worker with four ports, or with subdomains of `domain`; ready when it serves. A name
        that was used before stands for the same worker: its file is used again. `more` is added
        to the file."""
        if name not in self.workers:
            self.workers[name] = self.worker_file(name, protocol, domain, traffics, more)
        config, api = self.workers[name]
        ready = f"http://127.0.0.1:{api}/health/readyz"
        return self.launch(
            kind, "worker", name, config, lambda: fetch("GET", ready).status == 200
        )

    def worker_file(self, name, protocol, domain, traffics, more):
        """Writes a worker's file; returns its path and the port of the worker's API."""
        api = self.neighbouring_ports(1)
        first = self.neighbouring_ports(4)
        if domain:
            frontend = f"""frontend_mode = "wildcard"
[proxy_worker.wildcard_domain]
domain = "{domain}"
bind_addr = {{ host = "127.0.0.1", port = {first} }}
advertised_port = {first}
"""
        else:
            frontend = f"""frontend_mode = "port"
[proxy_worker.port_proxy]
bind_host = "127.0.0.1"
bind_port_range = [{first}, {first + 3}]
advertised_host = "127.0.0.1"
"""
        address = f'{{ host = "127.0.0.1", port = {api} }}'
        path = self.folder / f"{name}.toml"
        path.write_text(f"""
[proxy_worker]
coordinator_endpoint = "{self.coordinator}"
authority = "{name}"
protocol = "{protocol}"
accepted_traffics = {json.dumps(traffics)}
api_bind_addr = {address}
api_advertised_addr = {address}
announce_addr = {address}
{self.process_keys()}{frontend}
{more}
{self.shared()}""")
        return path, api

    def neighbouring_ports(self, count):
        """The first of neighbouring free ports, each given once. They are below those the system
        hands out on its own, so that nobody takes them while a program is exchanged."""
        while True:
            first, *_ = [next(self.ports) for _ in range(count)]
            try:
                for port in range(first, first + count):
                    with socket.socket() as probe:
                        probe.bind(("127.0.0.1", port))
                return first
            except OSError:
                continue

    def psql(self, statement, database="postgres"):
        done = subprocess.run(
            ["psql", "-h", "127.0.0.1", "-p", str(self.postgres), "-U", "postgres", "-X", "-q",
             "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statement],
            capture_output=True, text=True,
        )  # fmt: skip
        check(done.returncode == 0, f"psql: {done.stderr.strip()}")
        return done.stdout.strip()

    def create_database(self, alembic):
        """An empty database, or one brought up by the App Proxy's own migrations."""
        self.psql(f'CREATE DATABASE "{self.database}"')
        if not alembic:
            return
        ini = self.folder / "alembic.ini"
        ini.write_text(f"""[alembic]
script_location = ai.backend.appproxy.coordinator.models:alembic
sqlalchemy.url = postgresql+asyncpg://postgres:none@127.0.0.1:{self.postgres}/{self.database}
[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys =
[logger_root]
level = WARN
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
""")
        with open(self.folder / "alembic.log", "ab") as log:
            done = subprocess.run(
                [self.venv / "bin/alembic", "-c", ini, "upgrade", "head"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
            )  # fmt: skip
        check(done.returncode == 0, "the App Proxy's migrations failed")

    def stop(self, program=None):
        """Stops one program, or all, the last started first."""
        for each in [program] if program else list(reversed(self.started)):
            each.stop()
            self.started.remove(each)
