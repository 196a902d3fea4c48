# shellcheck shell=bash
# A coordinator and a worker of one's own, configured in a folder, and a circuit opened the way the
# Manager opens one. Source console.sh and processes.sh first.
#
# The caller sets RUN (the folder to run in), REQUEST_ID (of what is opened) and, if it likes,
# WORKER_COMMAND (what the worker runs under, such as taskset), WORKER_HOST (the address its circuits
# are at) and PROTOCOL (of its circuits).

WORKER_COMMAND=()
WORKER_HOST=127.0.0.1
PROTOCOL=http

# build_programs PROFILE: all programs with the demo app, from one selection of packages, so that the
# quickstart and the benchmarks share the build; sets PROGRAMS.
build_programs() {
    local profile=$1
    step "Building the programs ($profile; the first time takes some minutes)"
    cargo build --profile "$profile" --locked --bins \
        -p patchbay-coordinator -p patchbay-worker -p patchbay-agent -p patchbay-tests
    PROGRAMS=${CARGO_TARGET_DIR:-$ROOT/target}/${profile/dev/debug}
}

random_secret() { python3 -c 'import secrets; print(secrets.token_urlsafe(32))'; }
random_uuid() { cat /proc/sys/kernel/random/uuid; }

# json KEY: prints that key of the JSON object on standard input; nested keys are joined by dots.
json() {
    python3 -c '
import functools, json, sys
found = functools.reduce(lambda at, key: at[key], sys.argv[1].split("."), json.load(sys.stdin))
print(found if isinstance(found, str) else json.dumps(found))' "$1"
}

# Shows the ends of the logs, for whoever has to find out what went wrong.
show_logs() {
    local log
    for log in "$RUN"/*.log; do
        [[ -s $log ]] || continue
        printf '\n%s--- the end of %s%s\n' "$DIM" "$(basename "$log")" "$PLAIN" >&2
        tail -n 15 "$log" >&2
    done
}

# As fail, with the logs.
fail_with_logs() {
    show_logs
    fail "$@"
}

# configure COORDINATOR_PORT WORKER_PORT FIRST_PORT LAST_PORT [LINES]: writes both files. LINES are
# added to the worker's.
configure() {
    local lines=${5:-}
    API_SECRET=$(random_secret)
    COORDINATOR=http://127.0.0.1:$1
    local shared
    shared="[secrets]
api_secret = \"$API_SECRET\"
jwt_secret = \"$(random_secret)\"

[permit_hash]
secret = \"$(random_secret)\"
"
    (
        umask 077
        cat >"$RUN/coordinator.toml" <<TOML
[proxy_coordinator]
bind_addr = "127.0.0.1:$1"

[db]
type = "sqlite"
path = "$RUN/patchbay.sqlite"

$shared
TOML
        cat >"$RUN/worker.toml" <<TOML
[proxy_worker]
authority = "worker-1"
coordinator_endpoint = "$COORDINATOR"
frontend_mode = "port"
protocol = "$PROTOCOL"
accepted_traffics = ["interactive"]
api_bind_addr = "127.0.0.1:$2"

[proxy_worker.port_proxy]
bind_host = "$WORKER_HOST"
bind_port_range = [$3, $4]

$shared
$lines
TOML
    )
    WORKER=http://127.0.0.1:$2
}

answers() { curl -fsS -o /dev/null -m 2 "$1"; }

# Starts the coordinator and waits until it says it is ready; its id is in COORDINATOR_PID.
start_coordinator() {
    start "$RUN/coordinator.log" "$PROGRAMS/patchbay-coordinator" --config "$RUN/coordinator.toml"
    COORDINATOR_PID=$STARTED_PID
    wait_until 20 "$COORDINATOR_PID" answers "$COORDINATOR/health/readyz" ||
        fail_with_logs "the coordinator did not become ready"
}

# The same for the worker, with WORKER_PID.
start_worker() {
    start "$RUN/worker.log" "${WORKER_COMMAND[@]}" "$PROGRAMS/patchbay-worker" --config "$RUN/worker.toml"
    WORKER_PID=$STARTED_PID
    wait_until 20 "$WORKER_PID" answers "$WORKER/health/readyz" ||
        fail_with_logs "the worker did not become ready"
}

# call ARGUMENT…: curl with the request id of this opening, failing on any error.
call() { curl -sS --fail-with-body -m 20 -H "X-Backend-Request-ID: $REQUEST_ID" "$@"; }

# open_circuit HOST PORT APP [QUERY]: opens a circuit to an app in two calls, as the Manager does.
# Leaves the token in TOKEN and the URL for the browser in SETUP_URL.
# shellcheck disable=SC2034 # both are for the caller
open_circuit() {
    local session answer
    session=$(random_uuid)
    answer=$(call -X POST "$COORDINATOR/v2/conf" \
        -H "X-BackendAI-Token: $API_SECRET" -H 'Content-Type: application/json' --data-binary @- <<JSON
{"login_session_token": null, "kernel_host": "$1", "kernel_port": $2,
 "session": {"id": "$session", "user_uuid": "$(random_uuid)", "group_id": "$(random_uuid)",
             "access_key": "AKQUICKSTART", "domain_name": "default"}}
JSON
    ) || fail_with_logs "POST /v2/conf was refused: $answer"
    TOKEN=$(json token <<<"$answer")
    answer=$(call -H 'Accept: application/json' \
        "$COORDINATOR/v2/proxy/auth?app=$3&protocol=$PROTOCOL&token=$TOKEN&session_id=$session${4:-}") ||
        fail_with_logs "GET /v2/proxy/auth was refused: $answer"
    SETUP_URL=$(json redirect_url <<<"$answer")
}
