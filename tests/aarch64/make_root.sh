#!/bin/sh
# Make a folder from which qemu-user runs an AArch64 Python with this project's dependencies: make_root.sh FOLDER
#
# Needs Debian with qemu-user-static, its package server and PyPI; no root, and nothing is installed.
set -eu

fail() {
    echo "make_root.sh: $1" >&2
    exit 1
}

root=$1
host_python=${PYTHON:-python3}
command -v qemu-aarch64-static >/dev/null || fail "no qemu-aarch64-static: apt-get install qemu-user-static"
command -v apt-get >/dev/null || fail "no apt-get: the AArch64 Python comes from Debian's packages"

dependencies=$("$host_python" -c \
    'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"])')
[ -e "$root/complete" ] && [ "$(cat "$root/complete")" = "$dependencies" ] && exit 0
rm -rf "$root"
mkdir -p "$root/apt/lists/partial" "$root/apt/archives/partial"
root=$(cd "$root" && pwd)

# apt with a state of its own, in which nothing is installed: so it fetches all that Python needs, libc included.
arm64_apt() {
    apt-get -q -y -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$root/apt" \
        -o Dir::State::status=/dev/null -o Dir::Cache="$root/apt" -o Debug::NoLocking=1 "$@" >"$root/apt/log" 2>&1 ||
        fail "apt-get cannot fetch arm64 packages: $(grep -m 1 '^E:' "$root/apt/log" || tail -n 1 "$root/apt/log")"
}
arm64_apt update --error-on=any
arm64_apt install --download-only --no-install-recommends python3 libstdc++6
for package in "$root"/apt/archives/*.deb; do
    dpkg -x "$package" "$root/system"
done

python=$(basename "$(readlink "$root/system/usr/bin/python3")")
# shellcheck disable=SC2086 # one argument for each dependency
"$host_python" -m pip install -q --disable-pip-version-check --only-binary=:all: --target "$root/site" \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    --python-version "${python#python}" $dependencies >"$root/pip.log" 2>&1 ||
    fail "pip cannot fetch AArch64 wheels: $(grep -m 1 '^ERROR' "$root/pip.log" || tail -n 1 "$root/pip.log")"
rm -rf "$root/apt"
echo "$dependencies" >"$root/complete"
