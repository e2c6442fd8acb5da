#!/usr/bin/env bash
# Compiles the kernels of lab/kernels for the processor, for the pretended driver: build.sh OUTPUT.so (needs g++).
# Then PRETEND_KERNELS=OUTPUT.so makes the pretended driver run them.
set -euo pipefail
output=$(realpath -m "${1:?where to write the library}")
cd "$(dirname "$0")"
kernels=../../../lab/kernels
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The names of all kernels, as the PTX has them.
grep -ohP '\.entry \K\w+' $kernels/ptx/*.ptx | sort -u | sed 's/.*/KNOWN(&)/' >"$work/names.h"
g++ -std=c++17 -O1 -g -shared -fPIC -DPLATEAU_EMULATED -I. -I"$work" -I$kernels -o "$output" -x c++ kernels.cpp
