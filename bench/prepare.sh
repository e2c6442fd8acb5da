# Sourced by the measuring scripts, in the project's root: builds what the command line does not bring, and leaves in
# `prepared` the options that say where it is.
#
#   prepare_binary OPTION PACKAGE BINARY ARGUMENTS...   a program's release build, unless OPTION is among the arguments
#   prepare_python ARGUMENTS...                         the peers' environment, unless --python is; its path also in `python`

target=${CARGO_TARGET_DIR:-target}
prepared=()

# value_of OPTION ARGUMENTS...: the value given to the option, if any.
value_of() {
    local option=$1 previous='' word
    shift
    for word in "$@"; do
        [ "$previous" = "$option" ] && printf '%s' "$word" && return
        case $word in "$option"=*) printf '%s' "${word#*=}" && return ;; esac
        previous=$word
    done
}

prepare_binary() {
    local option=$1 package=$2 binary=$3 features=()
    shift 3
    [ -n "$(value_of "$option" "$@")" ] && return
    [ "$(value_of --device "$@")" = cuda ] && features=(--features cuda)
    cargo build --release --bin "$binary" -p "$package" "${features[@]}"
    prepared+=("$option" "$target/release/$binary")
}

prepare_python() {
    python=$(value_of --python "$@")
    [ -n "$python" ] && return
    python=$target/bench-python/bin/python
    bench/peers/environment.sh "$target/bench-python"
    prepared+=(--python "$python")
}
