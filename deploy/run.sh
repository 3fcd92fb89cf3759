#!/usr/bin/env bash
# `make run`: three real nodes on this machine, with the documentation of Go's
# standard library in them, until Ctrl-C.
#
#   deploy/run.sh [FOLDER]
#
# With a FOLDER the data stays there, and the next run with the same folder
# starts again from it. Without one it is in a temporary folder, which is
# removed at the end. RUN_ONCE=1 ends after the demonstration. BASE_PORT (8001)
# is the first of three HTTP ports; the Raft ports are 1000 below. BIN is the
# folder with the two binaries.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly nodes=(n1 n2 n3)
readonly collection=godoc
readonly base=${BASE_PORT:-8001}
readonly bin=${BIN:-bin}
pids=()
dir=""
remove=""
stopping=""

say() { printf '\n%s\n' "$*"; }

http_addr() { echo "127.0.0.1:$((base + $1))"; }
raft_addr() { echo "127.0.0.1:$((base - 1000 + $1))"; }

endpoints() {
  local i list=()
  for i in "${!nodes[@]}"; do list+=("http://$(http_addr "$i")"); done
  (IFS=,; echo "${list[*]}")
}

snipctl() { "$bin/snipctl" --endpoints "$(endpoints)" "$@"; }

# stop_nodes ends each node by its process id with SIGTERM, and says how it
# went. The nodes run in process groups of their own, so that Ctrl-C reaches
# them through here only, and in good order.
stop_nodes() {
  [ -z "$stopping" ] || return 0
  stopping=yes
  trap '' INT TERM
  if [ "${#pids[@]}" -gt 0 ]; then
    say "Stopping ..."
    local i status
    for i in "${!pids[@]}"; do kill -TERM "${pids[$i]}" 2>/dev/null || true; done
    for i in "${!pids[@]}"; do
      status=0
      wait "${pids[$i]}" || status=$?
      echo "  ${nodes[$i]} (pid ${pids[$i]}) ended with status $status"
    done
  fi
  if [ -n "$remove" ]; then
    rm -rf "$remove"
  elif [ -n "$dir" ]; then
    printf '  the data is in %s; start again with: make run DIR=%q\n' "$dir" "$dir"
  fi
}

fail() {
  echo "deploy/run.sh: $*" >&2
  local i
  for i in "${!nodes[@]}"; do
    if [ -s "$dir/${nodes[$i]}.log" ]; then
      echo "the end of $dir/${nodes[$i]}.log:" >&2
      tail -n 15 "$dir/${nodes[$i]}.log" >&2
    fi
  done
  exit 1
}

start_nodes() {
  local i
  set -m # a process group for each node
  for i in "${!nodes[@]}"; do
    "$bin/snipdb" serve --node-id "${nodes[$i]}" --data-dir "$dir/${nodes[$i]}" \
      --http-addr "$(http_addr "$i")" --raft-addr "$(raft_addr "$i")" \
      --bootstrap-expect "${#nodes[@]}" --join "$(endpoints)" \
      >>"$dir/${nodes[$i]}.log" 2>&1 &
    pids+=("$!")
    echo "  ${nodes[$i]}  pid $!  API http://$(http_addr "$i")  Raft $(raft_addr "$i")  log $dir/${nodes[$i]}.log"
  done
  set +m
}

# check_nodes fails if a node has ended: a port that is taken, for one.
check_nodes() {
  local i
  for i in "${!pids[@]}"; do
    kill -0 "${pids[$i]}" 2>/dev/null || fail "${nodes[$i]} has ended by itself"
  done
}

# read_back reads a document from one node, by HTTP, at a consistency level.
# It uses snipctl, because a bare machine has no curl.
read_back() {
  local node=$1 addr=$2 id=$3 level=$4
  printf '  %s  %-12s  ' "$node" "$level"
  "$bin/snipctl" --endpoints "http://$addr" --timeout 10s doc get "$collection" "$id" --consistency "$level" --text |
    awk 'NR == 1 { print substr($0, 1, 60) "..." } END { exit NR == 0 }' ||
    fail "$node did not give $id back"
}

examples() {
  local leader=$1 follower=$2
  cat <<TEXT

Try (another terminal):

  # write at a follower; it passes the write on to the leader
  curl -X PUT http://$follower/v1/collections/notes/docs/hello -H 'Content-Type: application/json' \\
    -d '{"title":"Hello","content":["first snippet","second snippet"]}'

  # read it from any node: the newest state there is, wherever you ask
  curl 'http://$leader/v1/collections/notes/docs/hello?consistency=linearizable'

  # a package of the standard library, from a follower, as it is there now
  curl http://$follower/v1/collections/$collection/docs/net%2Fhttp

  $bin/snipctl --endpoints $(endpoints) status
  $bin/snipctl --endpoints $(endpoints) doc get $collection net/http
TEXT
}

main() {
  dir=${1:-}
  if [ -z "$dir" ]; then
    dir=$(mktemp -d "${TMPDIR:-/tmp}/snipdb-run-XXXXXX")
    remove=$dir
  fi
  mkdir -p "$dir"
  dir=$(cd "$dir" && pwd)
  trap stop_nodes EXIT
  trap 'exit 0' INT # the way to end it
  trap 'exit 143' TERM

  say "Starting three nodes in $dir"
  start_nodes
  snipctl wait --timeout 60s || { check_nodes; fail "the nodes were not ready in a minute"; }
  check_nodes

  if [ -e "$dir/imported" ]; then
    say "The documentation of Go's standard library is there already, from an earlier run."
  else
    say "Importing the documentation of Go's standard library, a document a package, a snippet a declaration"
    snipctl import --collection "$collection" --godoc "$(go env GOROOT)/src" || fail "the import failed"
    touch "$dir/imported"
  fi

  say "Reading from each node, followers included:"
  local i
  # The linearizable read first: it waits until the node has all that was
  # acknowledged, and what a node has once, a local read finds there.
  for i in "${!nodes[@]}"; do
    read_back "${nodes[$i]}" "$(http_addr "$i")" net/http linearizable
    read_back "${nodes[$i]}" "$(http_addr "$i")" sort local
  done

  say "Status:"
  snipctl status
  examples "$(http_addr 0)" "$(http_addr 1)"

  if [ -n "${RUN_ONCE:-}" ]; then
    return
  fi
  say "Ctrl-C stops the three nodes."
  # wait -n returns when a node ends; nobody ends one but us, or a failure.
  wait -n "${pids[@]}" || true
  check_nodes
}

main "$@"
