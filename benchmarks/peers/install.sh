#!/usr/bin/env bash
# Installs what the library is compared with, from PyPI, into virtual environments below build/peers:
#   bash benchmarks/peers/install.sh [torch] [onnx] [tensorflow] [jax]      all without an argument
# torch: PyTorch (the wheel of PyPI carries CUDA and is large; PIP_INDEX_URL may name another index) and what exports its
# models to ONNX. onnx: ONNX Runtime and OpenVINO. tensorflow, jax: for the CPU.
# Exit code: 0 installed, 1 not, 2 wrong usage or no python3 with venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

peers=("$@")
[ $# -gt 0 ] || peers=(torch onnx tensorflow jax)
for peer in "${peers[@]}"; do
  case $peer in
    torch) packages=(torch numpy safetensors onnx onnxscript) ;;
    onnx) packages=(onnxruntime openvino numpy safetensors) ;;
    tensorflow) packages=(tensorflow-cpu numpy safetensors) ;;
    jax) packages=(jax numpy safetensors) ;;
    *) echo "usage: bash benchmarks/peers/install.sh [torch] [onnx] [tensorflow] [jax]" >&2; exit 2 ;;
  esac
  if ! python3 -m venv "build/peers/$peer"; then
    echo "python3 cannot make a virtual environment (Debian: apt-get install python3-venv)" >&2
    exit 2
  fi
  "build/peers/$peer/bin/python" -m pip install --quiet --upgrade "${packages[@]}" || exit 1
  "build/peers/$peer/bin/python" -m pip list --format=freeze | grep -E '^(torch|onnxruntime|openvino|tensorflow[-_]cpu|jax)=='
done

# MKL, which PyTorch multiplies with, takes a slow path on processors that are not Intel's, unless this function says
# otherwise. Unofficial, and for comparison only: run.py preloads it in the tuned measurements where it is there.
compiler=$(command -v cc || command -v gcc || true)
if [ -n "$compiler" ]; then
  echo 'int mkl_serv_intel_cpu_true(void) { return 1; }' | "$compiler" -shared -fPIC -x c - -o build/peers/mkl_as_on_intel.so
else
  echo "no C compiler: PyTorch is measured without the faster path of MKL" >&2
fi
