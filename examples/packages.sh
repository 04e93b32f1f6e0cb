# What the scripts need from the system. Sourced by examples/quickstart.sh and tests/run.sh:
#   need_packages package:probe ...      installs the packages whose probe is missing (apt-get, as root or by sudo);
#                                        elsewhere names them and ends with exit code 2
# A probe is a command, or a file below an include folder.

library_packages=(cmake:cmake ninja-build:ninja g++:g++ libeigen3-dev:eigen3/Eigen/Core
  librandom123-dev:Random123/philox.h libcli11-dev:CLI/CLI.hpp libtomlplusplus-dev:toml++/toml.h
  nlohmann-json3-dev:nlohmann/json.hpp libdnnl-dev:oneapi/dnnl/dnnl.hpp)
test_packages=(catch2:catch2/catch.hpp libboost-context-dev:boost/context/fiber.hpp
  libbenchmark-dev:benchmark/benchmark.h)

is_there() {
  command -v "$1" >/dev/null || [ -e "/usr/include/$1" ] || [ -e "/usr/local/include/$1" ]
}

need_packages() {
  local missing=() as_root=() entry
  for entry in "$@"; do
    is_there "${entry#*:}" || missing+=("${entry%%:*}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0

  if ! command -v apt-get >/dev/null; then
    echo "missing, by their Debian names: ${missing[*]}; install them with this system's package manager" >&2
    exit 2
  fi
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
      echo "missing packages: ${missing[*]}; run as root: apt-get install ${missing[*]}" >&2
      exit 2
    fi
    as_root=(sudo)
  fi
  echo "installing ${missing[*]}" >&2
  "${as_root[@]}" apt-get update -q >&2
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
}
