#!/usr/bin/env bash
# Starts a coordinator and its agents on this host: one agent per GPU, or N agents on the CPU.
#
#   deploy/local.sh start [--data-dir DIR] [--listen ADDRESS:PORT] [--keys KEYS] [--cpu-agents N]
#   deploy/local.sh status [--data-dir DIR]
#   deploy/local.sh stop  [--data-dir DIR]
#
# To be reached from other hosts, listen beyond loopback with keys, e.g. --listen 0.0.0.0:7733 --keys keys: where the folder
# KEYS is none yet, `plateau keys init` makes it for this host's name, with a token to submit with in KEYS/submit.token.
#
# The binary is $PLATEAU, else `plateau` from PATH, else target/release/plateau. Logs and process ids lie in DIR/launch.
set -euo pipefail

die() { echo "local.sh: $*" >&2; exit 1; }

here=$(cd "$(dirname "$0")/.." && pwd)
plateau=${PLATEAU:-$(command -v plateau || echo "$here/target/release/plateau")}
[ -x "$plateau" ] || die "no plateau binary at $plateau: build it (cargo build --release) or set PLATEAU"

action=${1:-}
[ $# -gt 0 ] && shift
data_dir=plateau-data
listen=127.0.0.1:7733
cpu_agents=
keys=
while [ $# -gt 0 ]; do
    case $1 in
        --data-dir) data_dir=${2:?--data-dir needs a folder}; shift 2 ;;
        --listen) listen=${2:?--listen needs an address}; shift 2 ;;
        --keys) keys=${2:?--keys needs a folder}; shift 2 ;;
        --cpu-agents) cpu_agents=${2:?--cpu-agents needs a number}; shift 2 ;;
        *) die "unknown option $1 (see the head of this file)" ;;
    esac
done
launch=$data_dir/launch

gpus() {
    [ -z "$cpu_agents" ] || return 0
    command -v nvidia-smi >/dev/null 2>&1 || return 0
    nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true
}

# spawn NAME COMMAND...: in the background, with its own log and pid file.
spawn() {
    local name=$1
    shift
    nohup "$@" >"$launch/$name.out" 2>"$launch/$name.err" </dev/null &
    echo $! >"$launch/$name.pid"
    echo "started $name (pid $!)"
}

start() {
    mkdir -p "$launch"
    if compgen -G "$launch/*.pid" >/dev/null; then
        die "$launch holds process ids: run 'local.sh stop --data-dir $data_dir' first"
    fi
    local url=http://$listen with_keys=()
    if [ -n "$keys" ]; then
        url=https://127.0.0.1:${listen##*:}
        with_keys=(--keys "$keys")
        [ -e "$keys/ca.pem" ] || "$plateau" keys init "$keys" --out "$keys/submit.token"
        [ -e "$keys/agents.token" ] ||
            "$plateau" keys token add "$keys" "agents-of-local.sh" --role agent --out "$keys/agents.token"
        [ -e "$keys/read.token" ] ||
            "$plateau" keys token add "$keys" "local.sh" --role read --out "$keys/read.token"
        export PLATEAU_CA=$keys/ca.pem PLATEAU_TOKEN_FILE=$keys/read.token
    fi
    spawn coordinator "$plateau" coordinator --data-dir "$data_dir" --listen "$listen" "${with_keys[@]}" \
        --log-file "$launch/coordinator.jsonl"
    for _ in $(seq 100); do
        "$plateau" --coordinator "$url" list >/dev/null 2>&1 && break
        kill -0 "$(cat "$launch/coordinator.pid")" 2>/dev/null || {
            cat "$launch/coordinator.err" >&2
            rm -f "$launch/coordinator.pid"
            die "the coordinator ended at once (its words are above)"
        }
        sleep 0.1
    done
    [ -z "$keys" ] || export PLATEAU_TOKEN_FILE=$keys/agents.token
    local devices=() device name number=0
    for gpu in $(gpus); do devices+=("cuda:$gpu"); done
    if [ ${#devices[@]} -eq 0 ]; then
        for _ in $(seq "${cpu_agents:-$(nproc)}"); do devices+=(cpu); done
    fi
    for device in "${devices[@]}"; do
        name=$(hostname)-${device//:/-}-$number
        number=$((number + 1))
        spawn "agent-$name" "$plateau" agent --coordinator "$url" --name "$name" --device "$device" \
            --threads 1 --work-dir "$launch/work" --log-file "$launch/agent-$name.jsonl"
    done
    if [ -n "$keys" ]; then
        echo "next: $plateau --coordinator $url --ca $keys/ca.pem --token-file $keys/submit.token submit STUDY.toml"
    else
        echo "next: $plateau --coordinator $url submit STUDY.toml"
    fi
}

stop() {
    local file pid
    # Agents first: they checkpoint, give their leases back and leave; then the coordinator.
    for file in "$launch"/agent-*.pid "$launch"/coordinator.pid; do
        [ -e "$file" ] || continue
        pid=$(cat "$file")
        kill -TERM "$pid" 2>/dev/null || true
        for _ in $(seq 300); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        if kill -0 "$pid" 2>/dev/null; then
            echo "pid $pid did not leave within 30 s: killed" >&2
            kill -KILL "$pid" 2>/dev/null || true
        fi
        rm -f "$file"
        echo "stopped $(basename "$file" .pid)"
    done
}

status() {
    local file
    for file in "$launch"/*.pid; do
        [ -e "$file" ] || { echo "nothing was started in $data_dir"; return; }
        if kill -0 "$(cat "$file")" 2>/dev/null; then state=running; else state=gone; fi
        echo "$(basename "$file" .pid) $state"
    done
}

case $action in
    start | stop | status) "$action" ;;
    *) die "say start, status or stop (see the head of this file)" ;;
esac
