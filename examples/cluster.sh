#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Starts a PostgreSQL and three nodes of the scheduler on this machine, for a try, in a folder of
# their own that goes away with them:
#
#   examples/cluster.sh               until Ctrl-C
#   examples/cluster.sh COMMAND...    until this command has ended
#
# Needs Debian's package postgresql, of which no service is touched.  TASK_SCHEDULER names the
# program if it is not in the PATH, and PORT the first of the three ports if that is not 8081.
set -eu
program=$(command -v "${TASK_SCHEDULER:-task-scheduler}") || {
    echo "there is no task-scheduler in the PATH; say TASK_SCHEDULER=build/task-scheduler" >&2
    exit 1
}
program=$(realpath "$program")
tools=$(find /usr/lib/postgresql/*/bin -name initdb 2>/dev/null | sort -V | tail -n 1)
[ -n "$tools" ] || { echo "there is no PostgreSQL: apt-get install postgresql" >&2; exit 1; }
tools=$(dirname "$tools")
first=${PORT:-8081}
here=$PWD

folder=$(mktemp -d)
database='' nodes='' as_postgres=''
end() {
    # shellcheck disable=SC2086  # they are several
    [ -z "$nodes" ] || { kill $nodes 2>/dev/null; wait $nodes; } || true
    [ -z "$database" ] || { kill -INT "$database" && wait "$database"; } || true
    rm -rf "$folder"
}
trap end EXIT
trap 'exit 130' INT TERM

# PostgreSQL refuses to run as root.
if [ "$(id -u)" = 0 ]; then
    chown postgres "$folder"
    as_postgres='setpriv --reuid=postgres --regid=postgres --clear-groups'
fi
cd "$folder"
$as_postgres "$tools/initdb" -D data -U postgres -A trust -E UTF8 --no-locale >initdb.log
$as_postgres "$tools/postgres" -D data -c listen_addresses='' -c unix_socket_directories="$folder" \
    >postgres.log 2>&1 &
database=$!
until "$tools/pg_isready" -q -h "$folder"; do
    kill -0 "$database" || { cat postgres.log >&2; exit 1; }
    sleep 0.05
done

# Of PostgreSQL's own variables the nodes take where the database is.
export PGHOST="$folder" PGUSER=postgres PGDATABASE=postgres
for port in "$first" $((first + 1)) $((first + 2)); do
    "$program" --store postgres: --port "$port" >"node-$port.log" 2>&1 &
    nodes="$nodes $!"
    until "$program" health --ready --url "http://127.0.0.1:$port" >/dev/null 2>&1; do
        kill -0 $! 2>/dev/null || { cat "node-$port.log" >&2; exit 1; }
        sleep 0.05
    done
    echo "a node answers at http://127.0.0.1:$port, process $!"
done

if [ $# -gt 0 ]; then
    cd "$here"
    "$@"
    exit
fi
cat <<END

task-scheduler nodes --url http://127.0.0.1:$first                      lists them
task-scheduler add --url http://127.0.0.1:$((first + 1)) --in 10s hello      schedules by any node
curl -N http://127.0.0.1:$((first + 2))/sse                                shows events at any node

Kill the owner, whose process is named above, and see what becomes of it.  Ctrl-C ends all.
END
wait "$database"
