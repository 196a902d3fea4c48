"""A soak: load after load on one proxy, for as long as is asked, watching for what grows."""

import itertools
import os
import time

import loads

# Kept connections and fresh ones, short bodies and long ones, in turn.
TURNS = ["keepalive-1k", "keepalive-1k-512", "close-1k", "keepalive-10k", "keepalive-1m"]
# Seconds of one load.
PIECE = 20
# Growth of the later half over the earlier that is allowed: caches of the allocator, the ring of
# recent requests.
SLACK = 8e6


def descriptors(pids):
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


def endures(given, target, processes_of):
    """Runs the soak; whether every request was answered and nothing grew."""
    end = time.monotonic() + given.soak * 60
    total, errors, seen = 0, 0, []
    print(f"\n{'load':<20}{'requests so far':>18}{'errors':>8}{'resident MB':>13}{'descriptors':>13}")
    for name in itertools.cycle(TURNS):
        if time.monotonic() >= end:
            break
        got = loads.run(loads.LOADS[name], target, PIECE, given)
        total, errors = total + got["requests"], errors + got["errors"]
        # Connections end, and what rests gives its memory back.
        time.sleep(3)
        pids = processes_of(target.pid)
        seen.append((loads.resident(pids), descriptors(pids)))
        print(f"{name:<20}{total:>18,}{errors:>8}{seen[-1][0] / 1e6:>13.1f}{seen[-1][1]:>13}",
              flush=True)
    half = len(seen) // 2
    if half == 0:
        return errors == 0
    memory = [max(one[0] for one in part) for part in (seen[:half], seen[half:])]
    files = [max(one[1] for one in part) for part in (seen[:half], seen[half:])]
    print(f"highest in the earlier half and in the later: {memory[0] / 1e6:.1f} and "
          f"{memory[1] / 1e6:.1f} MB, {files[0]} and {files[1]} descriptors")
    return errors == 0 and memory[1] <= memory[0] + SLACK and files[1] <= files[0] + 64
