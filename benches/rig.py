"""Measures proxies side by side: interleaved rounds, medians, CPU time of each proxy's processes.

Called by scripts/bench, which builds the programs, starts Patchbay and hands it over with
--running. Starts the origin and the other proxies itself, each on one thread pinned to one CPU;
the origin and the load share another. Python's standard library is all it needs.
"""

import argparse
import collections
import csv
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import time

import loads
import rivals
import soak

Target = collections.namedtuple("Target", "name pid url headers")
FIELDS = ["load", "round", "proxy", "requests", "seconds", "requests_per_second", "cpu_seconds",
          "cpu_seconds_per_100k", "p50_ms", "p99_ms", "errors"]


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", add_help=False)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--loads", default=",".join(loads.LOADS))
    parser.add_argument("--load-cpus", default="1")
    parser.add_argument("--soak", type=int, default=0)
    parser.add_argument("--programs", type=pathlib.Path, required=True)
    parser.add_argument("--venv", type=pathlib.Path, required=True)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--csv", type=pathlib.Path, required=True)
    parser.add_argument("--origin-port", type=int, required=True)
    parser.add_argument("--running", type=json.loads, action="append", default=[])
    given = parser.parse_args()
    unknown = [load for load in given.loads.split(",") if load not in loads.LOADS]
    if unknown:
        parser.error(f"unknown load {unknown[0]}: there are {', '.join(loads.LOADS)}")
    return given


def processes_of(root):
    """The process and all its descendants."""
    children = collections.defaultdict(list)
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            stat = read_stat(int(entry))
            if stat:
                children[int(stat[1])].append(int(entry))
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue.extend(children[pid])
    return found


def read_stat(pid):
    """The fields of /proc/PID/stat after the program's name; None once it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def cpu_seconds(root):
    ticks = 0
    for pid in processes_of(root):
        stat = read_stat(pid)
        if stat:
            ticks += int(stat[11]) + int(stat[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port, process, log):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"{log.stem} did not start:\n{log.read_text(errors='replace')[-2000:]}")


def start(command, port, log, cpu, environment=None):
    with open(log, "ab") as out:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", str(cpu), *map(str, command)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            env={**os.environ, **(environment or {})})
    wait_for_port(port, process, log)
    return process


def end(process):
    """Waits a little for a process that was asked to end, then insists."""
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def ask(load, target, seconds, given):
    before = cpu_seconds(target.pid)
    report = loads.run(load, target, seconds, given)
    return {**report, "cpu": cpu_seconds(target.pid) - before}


def measure(given, targets, writer):
    """Prints a table for each load; whether any request failed."""
    failed = False
    for name in given.loads.split(","):
        load = loads.LOADS[name]
        if load.program == "idle":
            memory(load, targets)
            continue
        rows = collections.defaultdict(list)
        for target in targets:
            ask(load, target, 1, given)
        for number in range(given.rounds):
            # Each round begins with another proxy, so that none always follows the same one.
            turn = number % len(targets)
            for target in targets[turn:] + targets[:turn]:
                got = ask(load, target, given.seconds, given)
                row = dict(zip(FIELDS, [
                    name, number + 1, target.name, got["requests"], round(got["seconds"], 3),
                    round(got["requests"] / got["seconds"], 1), round(got["cpu"], 2),
                    round(got["cpu"] / max(got["requests"], 1) * 1e5, 3),
                    round(got["p50"], 3), round(got["p99"], 3), got["errors"]]))
                writer.writerow(row)
                rows[target.name].append(row)
            progress(f"  {load.title}: round {number + 1} of {given.rounds}")
        progress("")
        table(load.title, [rows[target.name] for target in targets])
        failed |= any(row["errors"] for some in rows.values() for row in some)
    return failed


def memory(load, targets):
    print(f"\n{load.title}\n  {'':<17}{'MB before':>15}{'MB behind':>15}{'KiB each':>12}")
    for target in targets:
        before, behind = loads.idle(load, target, processes_of(target.pid))
        each = (behind - before) / 1024 / load.connections
        print(f"  {target.name:<17}{before / 1e6:>15.1f}{behind / 1e6:>15.1f}{each:>12.1f}",
              flush=True)


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def median(rows, field):
    return statistics.median(row[field] for row in rows)


def table(title, measured):
    cost = {rows[0]["proxy"]: median(rows, "cpu_seconds_per_100k") for rows in measured}
    print(f"\n{title}")
    print(f"  {'':<17}{'CPU s per 100k':>15}{'spread':>15}{'x nginx':>9}{'x HAProxy':>11}{'x Envoy':>9}"
          f"{'x bare':>8}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}")
    for rows in sorted(measured, key=lambda rows: median(rows, "cpu_seconds_per_100k")):
        name = rows[0]["proxy"]
        all_costs = [row["cpu_seconds_per_100k"] for row in rows]
        spread = f"{min(all_costs):.2f}-{max(all_costs):.2f}"
        print(f"  {name:<17}{cost[name]:>15.2f}{spread:>15}{ratio(cost, name, 'nginx'):>9}"
              f"{ratio(cost, name, 'haproxy'):>11}{ratio(cost, name, 'envoy'):>9}"
              f"{ratio(cost, name, 'bare-pingora'):>8}"
              f"{median(rows, 'requests_per_second'):>12,.0f}{median(rows, 'p50_ms'):>9.2f}"
              f"{median(rows, 'p99_ms'):>9.2f}{sum(row['errors'] for row in rows):>8}")
    sys.stdout.flush()


def ratio(cost, name, base):
    return f"{cost[name] / cost[base]:.2f}" if cost.get(base) else "-"


def main():
    given = arguments()
    given.folder.mkdir(parents=True, exist_ok=True)
    started = []
    try:
        origin = given.origin_port
        started.append(start([given.programs / "bench-backend", "--listen", f"127.0.0.1:{origin}"],
                             origin, given.folder / "origin.log", given.load_cpus))
        targets = [Target(one["name"], one["pid"], one["url"].rstrip("/"), one["headers"])
                   for one in given.running]
        for name, recipe in rivals.RECIPES.items():
            if given.only and name not in given.only.split(","):
                continue
            port = free_port()
            command, environment = recipe(given, port, origin)
            process = start(command, port, given.folder / f"{name}.log", "0", environment)
            started.append(process)
            targets.append(Target(name, process.pid, f"http://127.0.0.1:{port}", []))
        if not targets:
            sys.exit("nothing to measure: --only names no proxy")
        given.csv.parent.mkdir(parents=True, exist_ok=True)
        with open(given.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            if given.soak:
                failed = not soak.endures(given, targets[0], processes_of)
            else:
                failed = measure(given, targets, writer)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            end(process)
    if failed:
        sys.exit("something failed: the figures above do not count")


if __name__ == "__main__":
    main()
