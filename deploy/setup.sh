#!/usr/bin/env bash
# Prepares this machine to build snipdb: RocksDB 7 (headers and library), a C
# and C++ compiler, make, and the root certificates that the Go module proxy
# needs. Safe to run again: it says nothing and changes nothing when all is
# there. `make build` runs it first.
set -euo pipefail

# grocksdb v1.7.14 is written against RocksDB 7.8; another major version has
# another C API and another file format.
readonly want_major=7

# missing_packages names, for each thing that must be there and is not, the
# Debian package that brings it. Checking the thing and not the package lets a
# RocksDB built by hand count.
missing_packages() {
  have_header rocksdb/c.h || echo librocksdb-dev
  command -v "${CC:-gcc}" >/dev/null || echo gcc
  command -v "${CXX:-g++}" >/dev/null || echo g++
  have_header stdlib.h || echo libc6-dev
  command -v make >/dev/null || echo make
  [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
}

# include_dirs are where the compiler looks without being told, and where
# CGO_CFLAGS sends it.
include_dirs() {
  printf '%s\n' /usr/include /usr/local/include
  local flag
  for flag in ${CGO_CFLAGS:-}; do
    case $flag in -I*) printf '%s\n' "${flag#-I}" ;; esac
  done
}

have_header() { [ -n "$(find_header "$1")" ]; }

find_header() {
  local dir
  while read -r dir; do
    if [ -e "$dir/$1" ]; then
      echo "$dir/$1"
      return
    fi
  done < <(include_dirs)
}

requirement() {
  cat >&2 <<TEXT
snipdb needs, to be built on this system:
  - RocksDB 7.8, headers and library (rocksdb/c.h and librocksdb; any 7.x has
    a chance, no other major version has), with the snappy, lz4, zstd and zlib
    headers and libraries that it was built with
  - a C and a C++ compiler (gcc and g++, or CC and CXX set to others)
  - GNU make
Debian 12 ships RocksDB 7.8.3, and there this script installs it all by itself:
  apt-get install librocksdb-dev gcc g++ libc6-dev make ca-certificates
Elsewhere (the Ubuntu LTS releases ship RocksDB 6 or 8) install it by hand;
headers and library in an unusual place are found through
CGO_CFLAGS=-I<dir> and CGO_LDFLAGS=-L<dir>.
TEXT
}

check_rocksdb_version() {
  local header major minor patch
  header=$(find_header rocksdb/version.h)
  if [ -z "$header" ]; then
    echo "deploy/setup.sh: rocksdb/version.h is not installed" >&2
    requirement
    exit 1
  fi
  major=$(awk '$2 == "ROCKSDB_MAJOR" { print $3 }' "$header")
  minor=$(awk '$2 == "ROCKSDB_MINOR" { print $3 }' "$header")
  patch=$(awk '$2 == "ROCKSDB_PATCH" { print $3 }' "$header")
  if [ "$major" != "$want_major" ]; then
    echo "deploy/setup.sh: $header is RocksDB $major.$minor.$patch, and snipdb needs $want_major.x (7.8)" >&2
    requirement
    exit 1
  fi
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    echo "deploy/setup.sh: root is needed, and there is no sudo. Run as root: $*" >&2
    exit 1
  fi
}

# check_candidate stops before a RocksDB of another major version is installed.
check_candidate() {
  local candidate
  candidate=$(apt-cache policy librocksdb-dev | awk '$1 == "Candidate:" { print $2 }')
  case $candidate in
    "$want_major".*) ;;
    *)
      echo "deploy/setup.sh: this system's librocksdb-dev is ${candidate:-not to be had}, and snipdb needs $want_major.x (7.8)" >&2
      requirement
      exit 1
      ;;
  esac
}

main() {
  local missing
  missing=$(missing_packages | tr '\n' ' ')
  missing=${missing% }
  if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null; then
      echo "deploy/setup.sh: missing here, by Debian's names: $missing" >&2
      requirement
      exit 1
    fi
    echo "deploy/setup.sh: installing the Debian packages that are missing: $missing"
    as_root apt-get update -qq
    case " $missing " in *" librocksdb-dev "*) check_candidate ;; esac
    # shellcheck disable=SC2086 # one word per package
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
    echo "deploy/setup.sh: done"
  fi
  check_rocksdb_version
}

main "$@"
