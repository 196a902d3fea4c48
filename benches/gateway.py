"""Measures what a gateway's middleware costs: the same requests with none, with a rate limit, and
with a rate limit behind JSON Web Tokens, beside Envoy and Traefik doing the same.

Called by scripts/bench-gateway, which starts Patchbay and hands it over with --running; tokens and
keys are made by --make before. Rounds are interleaved and medians shown, as in rig.py.
"""

import argparse
import base64
import collections
import csv
import hashlib
import hmac
import json
import pathlib
import subprocess
import sys
import time

import rig

SECRET = "a secret of more than thirty-two letters"
LIMIT = 1_000_000
CONNECTIONS = 64
# Runs once in wrk when a measurement is over.
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


def encode(part):
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def openssl(*arguments, given=None):
    return subprocess.run(["openssl", *map(str, arguments)], input=given, capture_output=True,
                          check=True).stdout


def make(folder):
    """Writes key.pem (public), jwks.json, hs256.jwt and rs256.jwt."""
    folder.mkdir(parents=True, exist_ok=True)
    private = folder / "private.pem"
    openssl("genrsa", "-out", private, "2048")
    openssl("rsa", "-in", private, "-pubout", "-out", folder / "key.pem")
    modulus = openssl("rsa", "-in", private, "-noout", "-modulus").decode().strip().split("=")[1]
    claims = encode(json.dumps({"iss": "bench", "sub": "ada", "exp": int(time.time()) + 86_400,
                                "scope": "read write"}).encode())

    def body(header):
        return f"{encode(json.dumps(header).encode())}.{claims}"

    hs = body({"alg": "HS256", "typ": "JWT", "kid": "hs"})
    mac = hmac.new(SECRET.encode(), hs.encode(), hashlib.sha256).digest()
    (folder / "hs256.jwt").write_text(f"{hs}.{encode(mac)}")
    rs = body({"alg": "RS256", "typ": "JWT", "kid": "rs"})
    signature = openssl("dgst", "-sha256", "-sign", private, given=rs.encode())
    (folder / "rs256.jwt").write_text(f"{rs}.{encode(signature)}")
    (folder / "jwks.json").write_text(json.dumps({"keys": [
        {"kty": "oct", "alg": "HS256", "kid": "hs", "k": encode(SECRET.encode())},
        {"kty": "RSA", "alg": "RS256", "kid": "rs", "n": encode(bytes.fromhex(modulus)),
         "e": "AQAB"}]}))


def envoy(given, port, origin, checks):
    """With `checks`, tokens are verified (and cached) and a local rate limit is kept."""
    def address(number):
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    extensions = "type.googleapis.com/envoy.extensions.filters"
    filters = [{"name": "envoy.filters.http.router", "typed_config": {
        "@type": f"{extensions}.http.router.v3.Router"}}]
    if checks:
        limit = {
            "@type": f"{extensions}.http.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "limit",
            "token_bucket": {"max_tokens": LIMIT, "tokens_per_fill": LIMIT, "fill_interval": "1s"},
            "filter_enabled": {"default_value": {"numerator": 100}},
            "filter_enforced": {"default_value": {"numerator": 100}},
        }
        tokens = {
            "@type": f"{extensions}.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"bench": {
                "issuer": "bench",
                "local_jwks": {"inline_string": (given.keys / "jwks.json").read_text()},
                "jwt_cache_config": {"jwt_cache_size": 100}}},
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "bench"}}],
        }
        filters = [{"name": "envoy.filters.http.jwt_authn", "typed_config": tokens},
                   {"name": "envoy.filters.http.local_ratelimit", "typed_config": limit}, *filters]
    connections = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in", "generate_request_id": False, "http_filters": filters,
        "route_config": {"virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "0s"}}],
        }]},
    }
    unlimited = {"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}
    configuration = {"static_resources": {
        "listeners": [{"name": "in", "address": address(port), "filter_chains": [{"filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": connections},
        ]}]}],
        "clusters": [{
            "name": "origin", "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [unlimited]},
            "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": address(origin)}}]}]},
        }],
    }}
    file = given.folder / f"envoy-{port}.json"
    file.write_text(json.dumps(configuration, indent=1))
    return [given.venv / "bin/envoy", "-c", file, "--concurrency", "1", "--disable-hot-restart",
            "--log-level", "error"], None


def traefik(given, port, origin, checks):
    """Its free edition knows no tokens: with `checks` it has a rate limit only."""
    routes = {"http": {
        "routers": {"all": {"rule": "PathPrefix(`/`)", "service": "origin", "entryPoints": ["in"]}},
        "services": {"origin": {"loadBalancer": {
            "servers": [{"url": f"http://127.0.0.1:{origin}"}], "serversTransport": "kept"}}},
        "serversTransports": {"kept": {"maxIdleConnsPerHost": 1024}},
    }}
    if checks:
        limit = {"rateLimit": {"average": LIMIT, "burst": LIMIT}}
        routes["http"]["middlewares"] = {"limit": limit}
        routes["http"]["routers"]["all"]["middlewares"] = ["limit"]
    file = given.folder / f"traefik-{port}.yaml"
    file.write_text(json.dumps(routes, indent=1))
    return [given.venv / "bin/traefik", f"--entryPoints.in.address=127.0.0.1:{port}",
            f"--providers.file.filename={file}", "--log.level=ERROR",
            "--global.checkNewVersion=false", "--global.sendAnonymousUsage=false"], \
        {"GOMAXPROCS": "1"}


def ask(target, seconds, folder):
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s",
               "-s", str(folder / "report.lua")]
    for header in target.headers:
        command += ["-H", header]
    before = rig.cpu_seconds(target.pid)
    output = subprocess.run([*command, target.url + "/1k"], capture_output=True, text=True,
                            check=True).stdout
    used = rig.cpu_seconds(target.pid) - before
    return {**json.loads(output.rpartition("REPORT ")[2]), "cpu": used}


def measure(given, targets, writer):
    rows = collections.defaultdict(list)
    for target in targets:
        ask(target, 1, given.folder)
    for number in range(given.rounds):
        turn = number % len(targets)
        for target in targets[turn:] + targets[:turn]:
            got = ask(target, given.seconds, given.folder)
            row = dict(zip(rig.FIELDS, [
                "gateway", number + 1, target.name, got["requests"], round(got["seconds"], 3),
                round(got["requests"] / got["seconds"], 1), round(got["cpu"], 2),
                round(got["cpu"] / max(got["requests"], 1) * 1e5, 3),
                round(got["p50"], 3), round(got["p99"], 3), got["errors"]]))
            writer.writerow(row)
            rows[target.name].append(row)
    table([rows[target.name] for target in targets])
    return any(row["errors"] for some in rows.values() for row in some)


def table(measured):
    cost = {rows[0]["proxy"]: rig.median(rows, "cpu_seconds_per_100k") for rows in measured}
    print(f"\n1 KB, keep-alive, {CONNECTIONS} connections")
    print(f"  {'':<20}{'CPU s per 100k':>15}{'spread':>15}{'x circuit':>11}{'requests/s':>12}"
          f"{'p99 ms':>9}{'errors':>8}")
    for rows in measured:
        name = rows[0]["proxy"]
        costs = [row["cpu_seconds_per_100k"] for row in rows]
        spread = f"{min(costs):.2f}-{max(costs):.2f}"
        base = cost.get("circuit")
        ratio = f"{cost[name] / base:.2f}" if base else "-"
        print(f"  {name:<20}{cost[name]:>15.2f}{spread:>15}{ratio:>11}"
              f"{rig.median(rows, 'requests_per_second'):>12,.0f}"
              f"{rig.median(rows, 'p99_ms'):>9.2f}{sum(row['errors'] for row in rows):>8}")


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench-gateway", add_help=False)
    parser.add_argument("--make", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", default="")
    for name in ("--programs", "--venv", "--folder", "--keys", "--csv"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--origin-port", type=int)
    parser.add_argument("--running", type=json.loads, action="append", default=[])
    return parser.parse_args()


def main():
    given = arguments()
    if given.make:
        make(given.make)
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    (given.folder / "report.lua").write_text(REPORT)
    bearer = {name: "Authorization: Bearer " + (given.keys / f"{name}.jwt").read_text()
              for name in ("hs256", "rs256")}
    started = []
    try:
        origin = given.origin_port
        started.append(rig.start(
            [given.programs / "bench-backend", "--listen", f"127.0.0.1:{origin}"], origin,
            given.folder / "origin.log", "1"))
        targets = [rig.Target(one["name"], one["pid"], one["url"].rstrip("/"), one["headers"])
                   for one in given.running]
        for name, recipe, checks, headers in [
                ("envoy", envoy, False, [[]]),
                ("envoy-chain", envoy, True, [[bearer["hs256"]], [bearer["rs256"]]]),
                ("traefik", traefik, False, [[]]), ("traefik-limit", traefik, True, [[]])]:
            if given.only and name.split("-")[0] not in given.only.split(","):
                continue
            port = rig.free_port()
            command, environment = recipe(given, port, origin, checks)
            process = rig.start(command, port, given.folder / f"{name}.log", "0", environment)
            started.append(process)
            for number, some in enumerate(headers):
                shown = f"{name}-{('hs256', 'rs256')[number]}" if len(headers) > 1 else name
                targets.append(rig.Target(shown, process.pid, f"http://127.0.0.1:{port}", some))
        given.csv.parent.mkdir(parents=True, exist_ok=True)
        with open(given.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rig.FIELDS)
            writer.writeheader()
            failed = measure(given, targets, writer)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            rig.end(process)
    if failed:
        sys.exit("some requests failed: the figures above are not comparable")


if __name__ == "__main__":
    main()
