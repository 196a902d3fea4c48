"""Measures TCP carried side by side: Patchbay's TCP circuit, HAProxy in TCP mode, nginx's stream.
Interleaved rounds, medians, throughput and CPU seconds of each proxy's processes per gigabyte.

Called by scripts/bench --tcp. Each proxy runs one thread on CPU 0, the origin and the load
share CPU 1, as in rig.py.
"""

import collections
import csv
import json
import subprocess
import sys

import rig
import rivals

LOADS = {
    "down": ("TCP, one way, from the app, 8 connections", 8),
    "up": ("TCP, one way, to the app, 8 connections", 8),
}
FIELDS = ["load", "round", "proxy", "bytes", "seconds", "gigabytes_per_second", "cpu_seconds",
          "cpu_seconds_per_gigabyte", "errors"]


def load(given, target, direction, connections, seconds):
    command = ["taskset", "-c", "1", given.programs / "bench-tcp", "--connect", target.url,
               direction, connections, seconds]
    before = rig.cpu_seconds(target.pid)
    output = subprocess.run(list(map(str, command)), capture_output=True, text=True,
                            check=True).stdout
    used = rig.cpu_seconds(target.pid) - before
    return {**json.loads(output), "cpu": used}


def measure(given, targets, writer):
    """Whether any connection broke."""
    rows = collections.defaultdict(list)
    for name, (title, connections) in LOADS.items():
        for target in targets:
            load(given, target, name, connections, 1)
        for number in range(given.rounds):
            turn = number % len(targets)
            for target in targets[turn:] + targets[:turn]:
                got = load(given, target, name, connections, given.seconds)
                gigabytes = got["bytes"] / 1e9
                row = dict(zip(FIELDS, [
                    name, number + 1, target.name, got["bytes"], round(got["seconds"], 3),
                    round(gigabytes / got["seconds"], 3), round(got["cpu"], 2),
                    round(got["cpu"] / max(gigabytes, 1e-9), 4), got["errors"]]))
                writer.writerow(row)
                rows[name, target.name].append(row)
            rig.progress(f"  {title}: round {number + 1} of {given.rounds}")
        rig.progress("")
        table(title, [rows[name, target.name] for target in targets])
    return any(row["errors"] for some in rows.values() for row in some)


def table(title, measured):
    print(f"\n{title}")
    print(f"  {'':<17}{'GB/s':>8}{'spread':>15}{'CPU s per GB':>14}{'spread':>15}{'errors':>8}")
    for rows in sorted(measured, key=lambda rows: rig.median(rows, "cpu_seconds_per_gigabyte")):
        def spread(field, rows=rows):
            all_of_it = [row[field] for row in rows]
            return f"{min(all_of_it):.2f}-{max(all_of_it):.2f}"
        print(f"  {rows[0]['proxy']:<17}{rig.median(rows, 'gigabytes_per_second'):>8.2f}"
              f"{spread('gigabytes_per_second'):>15}"
              f"{rig.median(rows, 'cpu_seconds_per_gigabyte'):>14.3f}"
              f"{spread('cpu_seconds_per_gigabyte'):>15}{sum(row['errors'] for row in rows):>8}")
    sys.stdout.flush()


def main():
    given = rig.arguments()
    given.folder.mkdir(parents=True, exist_ok=True)
    started = []
    try:
        origin = given.origin_port
        started.append(rig.start([given.programs / "bench-tcp", "--listen", f"127.0.0.1:{origin}"],
                                 origin, given.folder / "origin.log", 1))
        targets = [rig.Target(one["name"], one["pid"], one["url"], []) for one in given.running]
        for name, recipe in rivals.TCP_RECIPES.items():
            if given.only and name not in given.only.split(","):
                continue
            port = rig.free_port()
            process = rig.start(recipe(given, port, origin), port, given.folder / f"{name}.log", 0)
            started.append(process)
            targets.append(rig.Target(name, process.pid, f"127.0.0.1:{port}", []))
        if not targets:
            sys.exit("nothing to measure: --only names no proxy that carries TCP")
        given.csv.parent.mkdir(parents=True, exist_ok=True)
        with open(given.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            failed = measure(given, targets, writer)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            rig.end(process)
    if failed:
        sys.exit("some connections broke: the figures above are not comparable")


if __name__ == "__main__":
    main()
