#!/bin/sh
# Unpacks ONNX Runtime's C headers into a folder, for Debian and Ubuntu releases that have no libonnxruntime-dev of their own.
#
#   ./fetch_onnxruntime_headers.sh build/onnxruntime-headers [SUITE]
#
# The package comes from a newer suite (trixie unless named) of the mirror that this machine's apt already uses. Nothing is
# installed: apt works on lists of its own inside the folder, and the package is only unpacked. The last line of the output is
# the folder to hand to CMake as ONNXRUNTIME_INCLUDE_DIR.
set -eu

fail() {
    echo "error: $1" >&2
    exit 2
}

[ $# -ge 1 ] || fail "no folder given; usage: $0 FOLDER [SUITE]"
folder=$1
suite=${2:-trixie}
for program in apt-get dpkg; do
    command -v "$program" >/dev/null || fail "$program is not on this machine; name an unpacked ONNX Runtime release to CMake instead: -DONNXRUNTIME_INCLUDE_DIR=DIR/include"
done

# deb822 files name the mirror in "URIs:", one-line files in the first field after "deb [options]".
mirror=$(cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list /etc/apt/sources.list 2>/dev/null | awk '
    $1 == "URIs:" { for (i = 2; i <= NF; i++) print $i }
    $1 == "deb" { line = $0; sub(/^deb[ \t]+(\[[^]]*\][ \t]+)?/, "", line); split(line, part, /[ \t]+/); print part[1] }' |
    grep -E '/debian/?$' | head -n 1)
[ -n "$mirror" ] || fail "apt has no Debian mirror among its sources; install libonnxruntime-dev by hand or name an unpacked ONNX Runtime release to CMake"

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
work="$folder/.apt"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/parts"
keys=$(ls /usr/share/keyrings/debian-archive-keyring.* 2>/dev/null | head -n 1)
[ -n "$keys" ] || fail "the package debian-archive-keyring is missing; install it with: apt-get install debian-archive-keyring"
echo "deb [signed-by=$keys] $mirror $suite main" > "$work/sources.list"

# The sandbox user of apt cannot write into a folder of ours, and installed packages must not weigh in. A mirror that falls silent is
# given up after three times 30 seconds.
set -- -q -o Acquire::Retries=2 -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30 -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts="$work/parts" -o Dir::State::lists="$work/lists" \
    -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none
apt-get "$@" update >"$work/log" 2>&1 || fail "the package lists of $suite could not be read from apt's mirror; see $work/log"
(cd "$work" && apt-get "$@" download libonnxruntime-dev >>"$work/log" 2>&1) || fail "$suite has no libonnxruntime-dev, or it could not be downloaded; see $work/log"
dpkg -x "$work"/libonnxruntime-dev_*.deb "$folder"
rm -rf "$work"
header=$(find "$folder" -name onnxruntime_c_api.h | head -n 1)
[ -n "$header" ] || fail "libonnxruntime-dev of $suite holds no onnxruntime_c_api.h"
dirname "$header"
