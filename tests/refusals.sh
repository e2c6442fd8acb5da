#!/usr/bin/env bash
# Shows what a user sees of bad input and faults that need no other program: `tests/refusals.sh [PATH_OF_PLATEAU]`. For people to
# read; what must hold of it is tested (tests/CASES.md). A full disk is shown where a small file system can be mounted (as root).
set -uo pipefail
plateau=$(realpath "${1:-$(dirname "$0")/../target/release/plateau}")
work=$(mktemp -d)
cd "$work"
trap 'kill $(jobs -p) 2>/dev/null; wait; mountpoint -q small && umount small; rm -rf "$work"' EXIT
title() { printf '\n== %s\n' "$1"; }
# The command as a user writes it, what it prints, and how it ends.
show() {
    printf '$ plateau %s\n' "$*"
    "$plateau" "$@" 2>&1 | cut -c1-400 | head -20
    printf '(exit %s)\n' "${PIPESTATUS[0]}"
}
started() { until grep -q "$2" "$1" 2>/dev/null; do sleep 0.1; done; }
study() {
    cat <<TOML
name = "$1"
[task]
kind = "modular"
modulus = 13
train-share = 0.5
[model]
layers = 1
heads = 2
dim = 128
mlp-dim = 512
norm = "none"
[train]
steps = 200000
optimizer = { kind = "adamw", lr = 3e-3, weight-decay = 1.0 }
[checkpoint]
every = 20
keep-every = 20
[axes]
seed = [0, 1]
TOML
}

title "A path as the name of a study"
study '../../etc/passwd' >path.toml
show check path.toml

title "An unknown value, a misspelt key, a study of 10^12 trials"
study unknown | sed 's/"modular"/"modullar"/' >unknown.toml
show check unknown.toml
study misspelt | sed 's/^steps/stpes/' >misspelt.toml
show check misspelt.toml
{ study huge | grep -v '^seed'; printf 'seed = { range = [0, 1000000] }\n"train.warmup" = { range = [0, 1000000] }\n'; } >huge.toml
show check huge.toml

title "A study file of 10 GB"
truncate -s 10G giant.toml
show check giant.toml

title "TLS and tokens: wrong authority, no token, revoked token"
"$plateau" keys init keys --host localhost --out submit.token >keys.txt
"$plateau" keys init others >/dev/null
"$plateau" --output json coordinator --data-dir data --listen 127.0.0.1:0 --keys keys >coordinator.txt 2>&1 &
started coordinator.txt 127.0.0.1:
address=$(grep -oE '127\.0\.0\.1:[0-9]+' coordinator.txt | head -1)
url=https://$address
show list --coordinator "$url" --ca others/ca.pem --token-file submit.token
show list --coordinator "$url" --ca keys/ca.pem
"$plateau" keys token revoke keys first >/dev/null
sleep 2
show list --coordinator "$url" --ca keys/ca.pem --token-file submit.token

title "A data directory of 20 MiB"
mkdir small
if mount -t tmpfs -o size=20m tmpfs small 2>/dev/null; then
    study disk >disk.toml
    "$plateau" coordinator --data-dir small/data --listen 127.0.0.1:0 >disk.txt 2>&1 &
    coordinator=$!
    started disk.txt 127.0.0.1:
    url=http://$(grep -oE '127\.0\.0\.1:[0-9]+' disk.txt | head -1)
    "$plateau" agent --name one --coordinator "$url" >agent.txt 2>&1 &
    show submit disk.toml --coordinator "$url"
    sleep "${SECONDS_TO_FILL:-15}"
    df -h small | cat
    show list --coordinator "$url"
    trial=$("$plateau" --output quiet trials disk --coordinator "$url" 2>/dev/null | head -1)
    [ -n "$trial" ] && show explain "$trial" --coordinator "$url"
    dd if=/dev/zero of=small/filler bs=1M count=4 status=none
    study later | sed 's/\[0, 1\]/[2, 3]/' >later.toml
    show submit later.toml --coordinator "$url"
    echo "-- the coordinator's own words:"
    grep -vE "received|submitted" disk.txt | cut -c1-400 | tail -8
    echo "-- the agent's:"
    grep -E "WARN|ERROR" agent.txt | cut -c1-400 | tail -3
    dd if=/dev/zero of=small/filler2 bs=1M status=none 2>/dev/null
    sleep 5
    echo "-- and with no byte left:"
    cut -c1-600 disk.txt | tail -2
    kill -0 "$coordinator" 2>/dev/null && echo "the coordinator runs" || echo "the coordinator has stopped"
    show coordinator --data-dir small/data --listen 127.0.0.1:0
    rm small/filler small/filler2
    show verify small/data
else
    echo "not shown: no file system can be mounted here"
fi
