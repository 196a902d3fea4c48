# shellcheck shell=bash
# Processes the scripts start: always private, always on loopback, always stopped by the script
# that started them. Source console.sh first; call stop_all from an EXIT trap.

STARTED=()

# Prints N free TCP ports of the loopback address, one a line.
free_ports() {
    python3 - "${1:-1}" <<'PYTHON'
import socket, sys
held = [socket.socket() for _ in range(int(sys.argv[1]))]
for each in held:
    each.bind(("127.0.0.1", 0))
for each in held:
    print(each.getsockname()[1])
PYTHON
}

# free_block WANTED COUNT: prints the first of COUNT neighbouring free ports, WANTED if it can be.
# Searched below the range the system hands out on its own, so that they stay free.
free_block() {
    python3 - "$@" <<'PYTHON'
import itertools, random, socket, sys

def free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True

wanted, count = map(int, sys.argv[1:])
tries = (random.randrange(12000, 30000) for _ in range(1000))
for first in itertools.chain([wanted], tries):
    if all(free(port) for port in range(first, first + count)):
        print(first)
        break
else:
    sys.exit("no free ports")
PYTHON
}

# start LOG PROGRAM ARGUMENT… : runs it in the background; its id is in STARTED_PID. It has a session
# of its own, so that Ctrl-C reaches only the script, which then ends it in order; and it ends with
# the script even where that is killed.
start() {
    local log=$1
    shift
    setpriv --pdeathsig TERM setsid "$@" >>"$log" 2>&1 </dev/null &
    STARTED_PID=$!
    STARTED+=("$STARTED_PID")
}

# wait_until SECONDS PID COMMAND… : until the command succeeds; fails when the time is up or the
# process is gone. PID 0 stands for no process.
wait_until() {
    local deadline=$((SECONDS + $1)) pid=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || return 1
        ((pid == 0)) || kill -0 "$pid" 2>/dev/null || return 1
        sleep 0.05
    done
}

# Asks all started processes to end, the last first, and waits for them.
stop_all() {
    local index
    for ((index = ${#STARTED[@]} - 1; index >= 0; index--)); do
        kill -TERM "${STARTED[index]}" 2>/dev/null || continue
        wait "${STARTED[index]}" 2>/dev/null || true
    done
    STARTED=()
}

# start_redis FOLDER PORT: a private Redis that keeps nothing.
start_redis() {
    start "$1/redis.log" redis-server --bind 127.0.0.1 --port "$2" --dir "$1" \
        --save '' --appendonly no --daemonize no
    wait_until 20 "$STARTED_PID" bash -c "exec 3<>/dev/tcp/127.0.0.1/$2" || {
        tail -n 20 "$1/redis.log" >&2
        fail "Redis did not start"
    }
}

# Prints the folder of PostgreSQL's server programs: the newest version's.
postgres_programs() {
    local folder
    folder=$(compgen -G '/usr/lib/postgresql/*/bin' | sort -V | tail -n 1)
    [[ -n $folder ]] || folder=$(dirname "$(command -v initdb)")
    echo "$folder"
}

# PostgreSQL refuses to run as root: root hands over to the user postgres.
as_postgres() {
    if [[ $(id -u) == 0 ]]; then runuser -u postgres -- "$@"; else "$@"; fi
}

# start_postgres FOLDER PORT [durable]: a private PostgreSQL for tests; user postgres, no password. It
# trades durability for speed, unless it is to be durable, as an installation's is.
start_postgres() {
    local folder=$1/postgres port=$2 programs speed
    speed='-c fsync=off -c synchronous_commit=off -c full_page_writes=off'
    [[ ${3:-} != durable ]] || speed=''
    programs=$(postgres_programs)
    mkdir -p "$folder"
    if [[ $(id -u) == 0 ]]; then
        chmod 755 "$1"
        chown postgres "$folder"
    fi
    (cd / && as_postgres "$programs/initdb" -D "$folder/data" -U postgres -A trust -E UTF8 \
        --locale=C --no-sync) >"$1/initdb.log" 2>&1 || {
        tail -n 20 "$1/initdb.log" >&2
        fail "PostgreSQL could not be initialised"
    }
    POSTGRES_DATA=$folder/data
    (cd / && as_postgres "$programs/pg_ctl" -D "$POSTGRES_DATA" -w -t 60 -s -l "$folder/log" -o "-p $port \
        -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=300 \
        $speed" start) || {
        tail -n 20 "$folder/log" >&2
        fail "PostgreSQL did not start"
    }
}

stop_postgres() {
    [[ -n ${POSTGRES_DATA:-} ]] || return 0
    (cd / && as_postgres "$(postgres_programs)/pg_ctl" -D "$POSTGRES_DATA" -m immediate -s stop) || true
}
