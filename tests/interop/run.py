"""The scenarios of interoperability with the Backend.AI App Proxy; scripts/interop starts this.

Every step prints one line. The first promise that does not hold ends the run with exit code 1 and
the ends of the logs; everything that was started is stopped in any case.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from circuits import App, Circuits, Model, Watch, prove_inference, prove_interactive, prove_tcp
from rig import PATCHBAY, PYTHON, Broken, Program, Rig, check, free_ports
from web import fetch


def say(text):
    print(f"  ✓ {text}", flush=True)


def mixed(rig, kernel, coordinator, worker):
    """A coordinator of one kind and workers of the other, through every kind of circuit."""
    rig.create_database(alembic=coordinator == PYTHON)
    rig.start_coordinator(coordinator)
    say(f"{coordinator}'s coordinator serves")
    circuits = Circuits(rig)
    by_port = rig.start_worker(worker, "port-worker")
    say(f"{worker}'s port-worker registered and serves")
    prove_interactive(say, circuits, kernel)
    rig.stop(by_port)
    by_name = rig.start_worker(worker, "wildcard-worker", domain=".apps.example")
    say(f"{worker}'s wildcard-worker registered and serves")
    prove_interactive(say, circuits, kernel)
    if circuits.has_endpoints():
        prove_inference(say, circuits, kernel)
    else:
        print(f"  – left out: {coordinator}'s coordinator does not serve /v2/endpoints", flush=True)
    rig.stop(by_name)
    rig.start_worker(worker, "tcp-worker", protocol="tcp")
    say(f"{worker}'s tcp-worker registered and serves")
    prove_tcp(say, circuits)
    check(set(circuits.workers()) == {"port-worker", "wildcard-worker", "tcp-worker"},
          f"the workers are {circuits.workers()}")  # fmt: skip
    nothing_taken(circuits)


def nothing_taken(circuits):
    """Checks that the books show no slot in use."""
    taken = {name: each["occupied_slots"] for name, each in circuits.workers().items()}
    check(set(taken.values()) == {0}, f"slots are still taken: {taken}")
    say("no slot is taken any more")


def python_worker(rig, kernel):
    """Patchbay's coordinator, App Proxy's workers"""
    mixed(rig, kernel, PATCHBAY, PYTHON)


def python_coordinator(rig, kernel):
    """App Proxy's coordinator, Patchbay's workers"""
    mixed(rig, kernel, PYTHON, PATCHBAY)


def open_app(circuits, name, kernel):
    setup_url, query = circuits.open(name, "127.0.0.1", kernel)
    return App(circuits, setup_url, query)


def known(circuits, app):
    """Checks that the coordinator of the moment knows the circuit, and opens it a second time."""
    shown = circuits.call("GET", f"/api/circuit/{app.id}")
    check(shown["id"] == app.id and shown["app_mode"] == "interactive", f"it shows {shown}")
    again = circuits.call("GET", f"/v2/proxy/auth?{app.query}")
    check(again["reuse"] is True, f"the circuit was not reused: {again}")
    app.enter(again["redirect_url"])
    check(app.get().status == 200, "the app is gone after it was opened a second time")


def handover(rig, kernel):
    """One database: App Proxy's coordinator, then Patchbay's, then App Proxy's again"""
    rig.create_database(alembic=True)
    coordinator = rig.start_coordinator(PYTHON)
    say("App Proxy's coordinator serves, with the schema of its own migrations")
    circuits = Circuits(rig)
    rig.start_worker(PYTHON, "worker-python", traffics=["interactive"])
    rig.start_worker(PATCHBAY, "worker-patchbay", traffics=["interactive"])
    rig.start_worker(PATCHBAY, "worker-models", domain=".models.example", traffics=["inference"])
    say("workers of both kinds serve")
    apps = open_on_each(circuits, kernel)
    watches = [Watch(app) for app in apps]
    model = Model(circuits)
    model.route(kernel)
    model.answers(200)
    say("an app is open on each, with requests and a WebSocket going on from here to the end")
    before = set(circuits.workers())
    for kind in (PATCHBAY, PYTHON):
        rig.stop(coordinator)
        for watch in watches:
            watch.all_is_well()
        model.answers(200)
        coordinator = rig.start_coordinator(kind)
        say(f"{kind}'s coordinator took over: same address, same database, same file")
        check(set(circuits.workers()) == before, f"the workers are now {circuits.workers()}")
        for app in apps:
            known(circuits, app)
        say(f"it knows all {len(apps)} apps and every worker; opening an app again reuses its circuit")
        for app in open_on_each(circuits, kernel):
            apps.append(app)
            watches.append(Watch(app))
        closed = open_app(circuits, kernel)
        closed.close()
        say("it opens circuits on both workers and closes one")
        for watch in watches:
            watch.all_is_well()
    model.route()
    model.answers(503)
    model.bulk("DELETE", "")
    model.answers(400)
    say("a model service answered at every change, and its routes can be changed again")
    finish(circuits, apps, watches)


def open_app(circuits, kernel):
    setup_url, query = circuits.open("notebook", "127.0.0.1", kernel)
    app = App(circuits, setup_url, query)
    check(app.get().status == 200, f"{app.url}: {app.get()}")
    return app


def open_on_each(circuits, kernel):
    """Opens two apps. The worker with the most free slots is taken: with equal ones before, each
    gets one."""
    apps = [open_app(circuits, kernel) for _ in range(2)]
    used = {circuits.call("GET", f"/api/circuit/{app.id}")["worker"] for app in apps}
    check(len(used) == 2, f"both circuits are on the worker {used}")
    return apps


def known(circuits, app):
    """Checks that the coordinator of the moment knows the circuit, and opens it a second time."""
    shown = circuits.call("GET", f"/api/circuit/{app.id}")
    check(shown["id"] == app.id and shown["app_mode"] == "interactive", f"it shows {shown}")
    again = circuits.call("GET", f"/v2/proxy/auth?{app.query}")
    check(again["reuse"] is True, f"the circuit was not reused: {again}")
    app.enter(again["redirect_url"])
    check(app.get().status == 200, "the app is gone after it was opened a second time")


def finish(circuits, apps, watches):
    for watch in watches:
        watch.all_is_well()
        watch.end()
    requests = sum(watch.requests for watch in watches)
    messages = sum(watch.messages for watch in watches)
    say(f"nothing failed meanwhile: {requests} requests, {messages} messages")
    for app in apps:
        app.close()
    say("App Proxy's coordinator closed every circuit, Patchbay's too")
    nothing_taken(circuits)


def exchange(rig, kernel, coordinator):
    """One worker's place handed from the App Proxy's to Patchbay's and back."""
    rig.create_database(alembic=coordinator == PYTHON)
    serving = rig.start_coordinator(coordinator)
    circuits = Circuits(rig)
    legacy = "[permit]\nlegacy = true\n"
    worker = rig.start_worker(PYTHON, "worker", more=legacy)
    apps = [open_app(circuits, kernel)]
    say(f"{coordinator}'s coordinator and App Proxy's worker serve an app: {apps[0].url}")
    for kind in (PATCHBAY, PYTHON):
        rig.stop(worker)
        worker = rig.start_worker(kind, "worker")
        say(f"{kind}'s worker took over: same name, same ports, same file")
        for app in apps:
            check(app.get().status == 200, f"the permit from before: {app.get()}")
            check(app.get(permit=False).status == 401, "strangers are let in")
        say(f"it serves the circuits opened before ({len(apps)}), to browsers with a permit from before")
        apps.append(open_app(circuits, kernel))
        say("it is told of a new circuit and serves it")
    for app in apps:
        app.close()
    nothing_taken(circuits)
    return circuits, serving


def exchange_under_python(rig, kernel):
    """One worker: App Proxy's, Patchbay's, App Proxy's again; under App Proxy's coordinator"""
    exchange(rig, kernel, PYTHON)


def exchange_under_patchbay(rig, kernel):
    """The same under Patchbay's coordinator, which made the database itself"""
    circuits, coordinator = exchange(rig, kernel, PATCHBAY)
    rig.stop(coordinator)
    rig.start_coordinator(PYTHON)
    app = open_app(circuits, kernel)
    app.close()
    nothing_taken(circuits)
    say("App Proxy's coordinator works with the database that Patchbay's made")


SCENARIOS = {
    "python-worker": python_worker,
    "python-coordinator": python_coordinator,
    "handover": handover,
    "exchange-under-python": exchange_under_python,
    "exchange-under-patchbay": exchange_under_patchbay,
}


def tails(folder, lines=25):
    for log in sorted(folder.rglob("*.log")):
        text = log.read_text(errors="replace").splitlines()
        if text:
            print(f"\n--- the end of {log.name}", *text[-lines:], sep="\n", file=sys.stderr)


def start_kernel(folder, programs):
    (port,) = free_ports(1)
    command = [programs / "patchbay-demo-app", "--listen", f"127.0.0.1:{port}"]
    kernel = Program("the demo app", command, folder / "kernel.log")
    kernel.wait_for(lambda: fetch("GET", f"http://127.0.0.1:{port}/").status == 200)
    return kernel, port


def run(arguments, folder):
    kernel, port = start_kernel(folder, arguments.programs)
    try:
        for name in arguments.scenarios or SCENARIOS:
            scenario = SCENARIOS[name]
            print(f"▸ {name}: {scenario.__doc__}", flush=True)
            rig = Rig(
                folder / name, arguments.programs, arguments.venv,
                arguments.redis, arguments.postgres, f"interop_{name}",
            )  # fmt: skip
            try:
                scenario(rig, port)
            finally:
                rig.stop()
    finally:
        kernel.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=Path, required=True, help="folder of Patchbay's programs")
    parser.add_argument("--venv", type=Path, required=True, help="where the App Proxy is installed")
    parser.add_argument("--redis", type=int, required=True, help="port")
    parser.add_argument("--postgres", type=int, required=True, help="port")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    arguments = parser.parse_args()
    unknown = set(arguments.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"unknown scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="patchbay-interop-"))
    try:
        run(arguments, folder)
    except Broken as broken:
        tails(folder)
        print(f"✗ {broken}", file=sys.stderr)
        return 1
    except Exception:
        tails(folder)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
