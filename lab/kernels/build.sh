#!/usr/bin/env bash
# Compiles the kernels (*.cu) to PTX (ptx/*.ptx), which is checked in: building Plateau needs no compiler for cards.
#   lab/kernels/build.sh            fetches nvcc 13.0 from PyPI into target/cuda-toolchain (about 105 MB) and compiles
#   NVCC=/path/to/nvcc build.sh     compiles with that one; it must be 13.0, or the driver that Plateau asks for is too old
# Run it after every change to a source; a test fails while ptx/DIGEST and the sources differ.
set -euo pipefail
cd "$(dirname "$0")"

# The compiler's parts, as the PyPI package cuda-toolkit 13.0.2 pins them.
PACKAGES=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88
          nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85)
# Ampere: the driver translates it for that card and every later one.
ARCHITECTURE=compute_80

if [ -z "${NVCC:-}" ]; then
    toolchain=$(cd ../.. && pwd)/target/cuda-toolchain
    NVCC=$toolchain/site/nvidia/cu13/bin/nvcc
    if [ ! -x "$NVCC" ]; then
        python3 -m venv "$toolchain/venv"
        "$toolchain/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
            --upgrade --target "$toolchain/site" "${PACKAGES[@]}"
        chmod +x "$toolchain"/site/nvidia/cu13/bin/* "$toolchain"/site/nvidia/cu13/nvvm/bin/*
    fi
fi
"$NVCC" --version | grep -q 'release 13\.0,' || { echo "$NVCC is not of CUDA 13.0" >&2; exit 1; }

mkdir -p ptx
for source in *.cu; do
    "$NVCC" -arch=$ARCHITECTURE --ptx -O3 -std=c++17 -o "ptx/${source%.cu}.ptx.new" "$source"
    # Without comments, which name the compiler's build.
    grep -v '^[[:space:]]*//' "ptx/${source%.cu}.ptx.new" | grep -v '^[[:space:]]*$' >"ptx/${source%.cu}.ptx"
    rm "ptx/${source%.cu}.ptx.new"
done

# What the PTX was made of, as `sha256sum` prints it; `sha256sum --check` in this folder verifies by hand.
sha256sum -- *.cuh *.cu ptx/*.ptx >ptx/DIGEST
echo "compiled $(ls ptx/*.ptx | wc -l) modules with $("$NVCC" --version | grep release)"
