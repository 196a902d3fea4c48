"""Measures tunnels side by side: interleaved rounds, medians, CPU time of both ends together.

Called by scripts/bench-tunnels, which builds the programs. Starts the origin, and for each
contestant its two ends on one CPU; the load and the origin share the other.
"""

import argparse
import collections
import csv
import json
import pathlib
import subprocess
import sys
import time
import urllib.error
import urllib.request

import rig

LOADS = {"1k": ("1 KB, keep-alive, 64 connections", "/1k"),
         "10k": ("10 KB, keep-alive, 64 connections", "/10k")}
TOKEN = "token-of-the-bench"
CONNECTIONS = 64
FIELDS = ["load", "round", "tunnel", "requests", "seconds", "requests_per_second", "cpu_seconds",
          "cpu_seconds_per_100k", "gateway_cpu_per_100k", "agent_cpu_per_100k", "p50_ms", "p99_ms",
          "errors"]

Tunnel = collections.namedtuple("Tunnel", "name ends url")


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench-tunnels", add_help=False)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--only", default=",".join(CONTESTANTS))
    parser.add_argument("--loads", default=",".join(LOADS))
    parser.add_argument("--programs", type=pathlib.Path, required=True)
    parser.add_argument("--tools", type=pathlib.Path, required=True)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--csv", type=pathlib.Path, required=True)
    given = parser.parse_args()
    for names, known in ((given.only, CONTESTANTS), (given.loads, LOADS)):
        for name in names.split(","):
            if name not in known:
                parser.error(f"unknown name {name}: there are {', '.join(known)}")
    return given


def patchbay(given, origin, more=()):
    port, name = rig.free_port(), "-".join(["gateway", *more[1:]])
    config = given.folder / f"{name}.toml"
    config.write_text(f"""
[server]
threads = 1
access_log = false
[gateway]
bind = "127.0.0.1:{port}"
admin_bind = "127.0.0.1:{rig.free_port()}"
[tunnels]
queue = 256
[[tunnels.tokens]]
name = "bench"
token = "{TOKEN}"
""")
    worker = rig.start([given.programs / "patchbay-worker", "--config", config], port,
                       given.folder / f"{name}.log", 0)
    metrics = rig.free_port()
    agent = rig.start([given.programs / "patchbay-agent", "--gateway", f"http://127.0.0.1:{port}",
                       "--token", TOKEN, "--id", "bench", "--tunnel",
                       f"web=http://127.0.0.1:{origin}", "--metrics", f"127.0.0.1:{metrics}",
                       *more], metrics, given.folder / f"{name}-agent.log", 0)
    return [worker, agent], f"http://127.0.0.1:{port}/t/web"


def patchbay_poll(given, origin):
    return patchbay(given, origin, ("--transport", "poll"))


def rathole(given, origin):
    control, port = rig.free_port(), rig.free_port()
    server, client = given.folder / "server.toml", given.folder / "client.toml"
    server.write_text(f"""
[server]
bind_addr = "127.0.0.1:{control}"
default_token = "{TOKEN}"
[server.transport.tcp]
nodelay = true
[server.services.web]
bind_addr = "127.0.0.1:{port}"
nodelay = true
""")
    client.write_text(f"""
[client]
remote_addr = "127.0.0.1:{control}"
default_token = "{TOKEN}"
[client.transport.tcp]
nodelay = true
[client.services.web]
local_addr = "127.0.0.1:{origin}"
nodelay = true
""")
    program = given.tools / "rathole"
    first = rig.start([program, "--server", server], control, given.folder / "server.log", 0)
    second = rig.start([program, "--client", client], port, given.folder / "client.log", 0)
    return [first, second], f"http://127.0.0.1:{port}"


CONTESTANTS = {"patchbay": patchbay, "patchbay-poll": patchbay_poll, "rathole": rathole}


def wait_for_answer(url, log):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    sys.exit(f"{url} does not answer; see {log}")


def load(tunnel, path, seconds, folder):
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s",
               "-s", str(folder / "report.lua"), tunnel.url + path]
    before = [rig.cpu_seconds(end.pid) for end in tunnel.ends]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = [rig.cpu_seconds(end.pid) - spent for end, spent in zip(tunnel.ends, before)]
    return json.loads(output.rpartition("REPORT ")[2]), used


def measure(given, tunnels, writer):
    """True if any request failed."""
    rows = collections.defaultdict(list)
    for name in given.loads.split(","):
        title, path = LOADS[name]
        for tunnel in tunnels:
            load(tunnel, path, 1, given.folder)
        for number in range(given.rounds):
            turn = number % len(tunnels)
            for tunnel in tunnels[turn:] + tunnels[:turn]:
                got, used = load(tunnel, path, given.seconds, given.folder)
                per = [1e5 * spent / max(got["requests"], 1) for spent in (sum(used), *used)]
                row = dict(zip(FIELDS, [
                    name, number + 1, tunnel.name, got["requests"], round(got["seconds"], 3),
                    round(got["requests"] / got["seconds"], 1), round(sum(used), 2),
                    *(round(one, 3) for one in per), round(got["p50"], 3), round(got["p99"], 3),
                    got["errors"]]))
                writer.writerow(row)
                rows[name, tunnel.name].append(row)
        table(title, [rows[name, tunnel.name] for tunnel in tunnels])
    return any(row["errors"] for some in rows.values() for row in some)


def table(title, measured):
    base = next((rows for rows in measured if rows[0]["tunnel"] == "rathole"), None)
    cost = base and rig.median(base, "cpu_seconds_per_100k")
    print(f"\n{title}")
    print(f"  {'':<15}{'requests/s':>12}{'CPU s per 100k':>16}{'gateway':>9}{'agent':>7}"
          f"{'x rathole':>11}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}")
    for rows in measured:
        ours = rig.median(rows, "cpu_seconds_per_100k")
        print(f"  {rows[0]['tunnel']:<15}{rig.median(rows, 'requests_per_second'):>12,.0f}"
              f"{ours:>16.2f}{rig.median(rows, 'gateway_cpu_per_100k'):>9.2f}"
              f"{rig.median(rows, 'agent_cpu_per_100k'):>7.2f}"
              f"{(f'{ours / cost:.2f}' if cost else '-'):>11}{rig.median(rows, 'p50_ms'):>9.2f}"
              f"{rig.median(rows, 'p99_ms'):>9.2f}{sum(row['errors'] for row in rows):>8}")
    sys.stdout.flush()


def main():
    given = arguments()
    (given.folder / "report.lua").write_text(rig.REPORT)
    started, tunnels = [], []
    try:
        origin = rig.free_port()
        started.append(rig.start([given.programs / "bench-backend", "--listen",
                                  f"127.0.0.1:{origin}"], origin, given.folder / "origin.log", 1))
        for name in given.only.split(","):
            ends, url = CONTESTANTS[name](given, origin)
            started += ends
            wait_for_answer(url + "/1k", given.folder)
            tunnels.append(Tunnel(name, ends, url))
        given.csv.parent.mkdir(parents=True, exist_ok=True)
        with open(given.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            failed = measure(given, tunnels, writer)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            rig.end(process)
    if failed:
        sys.exit("some requests failed: the figures above are not comparable")


if __name__ == "__main__":
    main()
