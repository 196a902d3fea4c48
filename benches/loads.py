"""The loads of the rig: what is asked of a proxy, and the program that asks it."""

import collections
import json
import re
import resource
import socket
import subprocess
import time

# Requests per second of the paced load: what all proxies can carry.
RATE = 10_000
# Connections of the idle load.
IDLE = 10_000

Load = collections.namedtuple("Load", "title path connections headers program")

LOADS = {
    "keepalive-1k": Load("1 KB, keep-alive, 64 connections", "/1k", 64, [], "wrk"),
    "keepalive-1k-512": Load("1 KB, keep-alive, 512 connections", "/1k", 512, [], "wrk"),
    "keepalive-10k": Load("10 KB, keep-alive, 64 connections", "/10k", 64, [], "wrk"),
    "keepalive-1m": Load("1 MB, keep-alive, 16 connections", "/1m", 16, [], "wrk"),
    "close-1k": Load("1 KB, a connection per request, 64 at once", "/1k", 64,
                     ["Connection: close"], "wrk"),
    "paced-1k": Load(f"1 KB, keep-alive, 64 connections, {RATE:,} requests/s", "/1k", 64, [],
                     "bench-pace"),
    "idle-1k": Load(f"{IDLE:,} kept connections, idle after one request", "/1k", IDLE, [], "idle"),
}

# Runs once in wrk when a measurement is over; a script without hooks for requests costs nothing.
REPORT = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nREPORT {"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "errors": %d}\\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def run(load, target, seconds, given):
    """Runs a load to its end; what it reports of requests, seconds, latencies and errors."""
    headers = [*load.headers, *target.headers]
    command = ["taskset", "-c", given.load_cpus]
    if load.program == "wrk":
        script = given.folder / "report.lua"
        script.write_text(REPORT)
        command += ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", "-s", script]
        for header in headers:
            command += ["-H", header]
        command.append(target.url + load.path)
    else:
        command += [given.programs / "bench-pace", target.url.removeprefix("http://"), load.path,
                    "--connections", load.connections, "--rate", RATE, "--seconds", seconds]
        for header in headers:
            command += ["--header", header]
    output = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout
    return json.loads(output.rpartition("REPORT ")[2])


def resident(pids):
    """Bytes of memory the processes have for themselves."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            total += int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) * 1024
    return total


def idle(load, target, pids):
    """Resident memory before and behind that many connections which have asked once and rest."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    host, port = target.url.removeprefix("http://").split(":")
    head = "".join(f"{header}\r\n" for header in [f"Host: {host}:{port}", *target.headers])
    request = f"GET {load.path} HTTP/1.1\r\n{head}\r\n".encode()
    before = resident(pids)
    held = []
    try:
        for _ in range(load.connections):
            connection = socket.create_connection((host, int(port)), 5)
            connection.sendall(request)
            answer = b""
            # The body is all the same letter, and none stands in a head behind the last line.
            while not answer.endswith(b"x" * 1024):
                piece = connection.recv(8192)
                if not piece:
                    raise OSError(f"{target.name} closed connection {len(held)}")
                answer += piece
            held.append(connection)
        # What rests gives its memory back after a second.
        time.sleep(4)
        return before, resident(pids)
    finally:
        for connection in held:
            connection.close()
