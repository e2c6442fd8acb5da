#!/usr/bin/env bash
# Starts or stops agents on the hosts of a host file, through ssh.
#
#   deploy/ssh/launch.sh start --coordinator URL [--ca FILE --token-file FILE] [--plateau PATH] HOSTFILE
#   deploy/ssh/launch.sh stop HOSTFILE
#
# HOSTFILE: one line per host, `HOST DEVICE…`, e.g. `node7 cuda:0 cuda:1` or `node8 cpu cpu`; `#` starts a comment.
# PATH is the binary on the hosts (default: plateau from their PATH). The URL must be reachable from them. Process ids
# and logs lie in ~/.plateau on each host. For an https:// URL give the coordinator's ca.pem and a file with a token for
# agents (`plateau keys token add KEYS NAME --role agent --out FILE`): both are copied to ~/.plateau on each host, the token
# over ssh's standard input and readable by you alone.
set -euo pipefail

die() { echo "launch.sh: $*" >&2; exit 1; }

action=${1:-}
[ $# -gt 0 ] && shift
coordinator=
plateau=plateau
ca=
token=
hostfile=
while [ $# -gt 0 ]; do
    case $1 in
        --coordinator) coordinator=${2:?--coordinator needs a URL}; shift 2 ;;
        --ca) ca=${2:?--ca needs a file}; shift 2 ;;
        --token-file) token=${2:?--token-file needs a file}; shift 2 ;;
        --plateau) plateau=${2:?--plateau needs a path}; shift 2 ;;
        -*) die "unknown option $1 (see the head of this file)" ;;
        *) hostfile=$1; shift ;;
    esac
done
[ -n "$hostfile" ] || die "give a host file"
[ -r "$hostfile" ] || die "cannot read the host file $hostfile"

# remote HOST SCRIPT ARGUMENT…: runs SCRIPT there; arguments are quoted, never pasted into the script.
remote() {
    local host=$1 script=$2
    shift 2
    # The quoted words are meant to be expanded here.
    # shellcheck disable=SC2029
    ssh -o BatchMode=yes -o ConnectTimeout=10 "$host" "bash -s -- $(printf '%q ' "$@")" <<<"$script"
}

# copy HOST FILE NAME: into ~/.plateau/NAME there, readable by its owner alone.
copy() {
    # shellcheck disable=SC2029
    ssh -o BatchMode=yes -o ConnectTimeout=10 "$1" \
        "umask 077; mkdir -p ~/.plateau; cat >~/.plateau/$3.new; mv ~/.plateau/$3.new ~/.plateau/$3" <"$2"
}

start_script='
set -eu
plateau=$1 coordinator=$2 name=$3 device=$4
mkdir -p "$HOME/.plateau"
case $coordinator in https:*)
    export PLATEAU_CA=$HOME/.plateau/ca.pem PLATEAU_TOKEN_FILE=$HOME/.plateau/agent.token ;;
esac
log=$HOME/.plateau/$name
if [ -e "$log.pid" ] && kill -0 "$(cat "$log.pid")" 2>/dev/null; then echo "$name already runs"; exit 0; fi
nohup "$plateau" agent --coordinator "$coordinator" --name "$name" --device "$device" --threads 1 \
    --work-dir "$HOME/.plateau/work" --log-file "$log.jsonl" >"$log.out" 2>&1 </dev/null &
echo $! >"$log.pid"
sleep 0.5
kill -0 "$(cat "$log.pid")" 2>/dev/null || { cat "$log.out" >&2; rm -f "$log.pid"; exit 1; }
echo "started $name"
'
stop_script='
for file in "$HOME"/.plateau/"$1"-*.pid; do
    [ -e "$file" ] || continue
    kill -TERM "$(cat "$file")" 2>/dev/null || true
    for _ in $(seq 300); do kill -0 "$(cat "$file")" 2>/dev/null || break; sleep 0.1; done
    rm -f "$file"
    echo "stopped $(basename "$file" .pid)"
done
'

failed=0
while read -r host devices; do
    case $host in '' | '#'*) continue ;; esac
    case $action in
        start)
            [ -n "$coordinator" ] || die "start needs --coordinator URL"
            case $coordinator in https:*)
                if [ -z "$ca" ] || [ -z "$token" ]; then die "an https:// coordinator needs --ca FILE and --token-file FILE"; fi
                copy "$host" "$ca" ca.pem && copy "$host" "$token" agent.token || {
                    echo "launch.sh: the keys could not be copied to $host" >&2
                    failed=1
                    continue
                } ;;
            esac
            number=0
            for device in ${devices:-cpu}; do
                name=$host-${device//:/-}-$number
                number=$((number + 1))
                remote "$host" "$start_script" "$plateau" "$coordinator" "$name" "$device" || {
                    echo "launch.sh: no agent for $device on $host" >&2
                    failed=1
                }
            done
            ;;
        stop) remote "$host" "$stop_script" "$host" || failed=1 ;;
        *) die "say start or stop (see the head of this file)" ;;
    esac
done < <(sed 's/#.*//' "$hostfile")
exit $failed
