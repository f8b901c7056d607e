#!/usr/bin/env bash
# Installs what the test suite uses beyond Python packages, where it can:
#   bubblewrap  rehearses the container without a container engine
#   chromium    looks at reports, driven by chromium-driver
#   strace      makes chosen system calls fail, and lists what a server writes
#   e2fsprogs   makes a small file system that tests fill
# It never fails the build: a test that misses its tool skips and says so.
set -euo pipefail

declare -A package_of=([bwrap]=bubblewrap [chromium]=chromium [chromedriver]=chromium-driver [mkfs.ext4]=e2fsprogs [strace]=strace)
missing=()
for program in "${!package_of[@]}"; do
    command -v "$program" >/dev/null || missing+=("${package_of[$program]}")
done
if ((${#missing[@]} == 0)); then
    exit 0
fi

give_up() {
    echo "system_packages: not installed: ${missing[*]} ($1). The tests that need them will be skipped." >&2
    exit 0
}

as_root=()
if ((EUID != 0)); then
    # -n: never stop a build to ask for a password.
    sudo -n true 2>/dev/null || give_up "neither root nor sudo without a password"
    as_root=(sudo -n)
fi
command -v apt-get >/dev/null || give_up "no apt-get; install them with this system's own package manager"

echo "system_packages: installing ${missing[*]}"
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends "${missing[@]}")
# The list of packages may be absent or old: refresh it only when the first try fails.
"${install[@]}" >/dev/null 2>&1 ||
    { "${as_root[@]}" apt-get update --quiet >/dev/null 2>&1 && "${install[@]}" >/dev/null 2>&1; } ||
    give_up "apt-get could not install them"
