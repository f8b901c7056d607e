#!/usr/bin/env bash
# Rehearses the container where there is no container engine. It installs the server the way the Dockerfile does, then
# runs it under bubblewrap as the image would run: user 10001, first process of its namespace, no capabilities, a
# read-only root, and only /data and /tmp to write to. It fails unless the server becomes healthy, stops with status 0
# on SIGTERM, and never so much as tried to write anywhere else.
#
#   tools/scripts/rehearse_container.sh
#
# Needs bwrap and strace (tools/scripts/system_packages.sh) and the development environment (make env).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly start_seconds=60 stop_seconds=30
bin=$PWD/.venv/bin

fail() {
    echo "rehearse_container: $*" >&2
    [[ -s $scratch/server.log ]] && sed 's/^/  server: /' "$scratch/server.log" >&2
    exit 1
}

scratch=$(mktemp -d)
supervisor=
clean_up() {
    # bwrap dies with its tracer and takes the server with it (--die-with-parent).
    [[ -n $supervisor ]] && kill -KILL "$supervisor" 2>/dev/null
    rm -rf "$scratch"
}
trap clean_up EXIT

for program in bwrap strace; do
    command -v "$program" >/dev/null || fail "$program is not installed: run tools/scripts/system_packages.sh"
done

echo "rehearse_container: installing"
venv=$scratch/venv
export UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
unset VIRTUAL_ENV
UV_PROJECT_ENVIRONMENT=$venv "$bin/uv" sync --quiet --locked --no-build --no-dev --extra server \
    --no-install-project --python "$bin/python"
"$bin/python" -m build --wheel --no-isolation --outdir "$scratch/dist" >"$scratch/build.log" 2>&1 ||
    { cat "$scratch/build.log" >&2 && fail "the wheel could not be built"; }
"$bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-index "$scratch"/dist/*.whl

mkdir "$scratch/data"
port=$("$bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
address=127.0.0.1:$port

# bwrap can't make /data on a root that it has bound read-only. So the root is an empty file system on which the
# machine's folders are bound one by one; it turns read-only when everything is in place.
mounts=()
for entry in /*; do
    case $entry in
        /data | /dev | /proc | /sys | /tmp) ;;
        *)
            if [[ -L $entry ]]; then
                mounts+=(--symlink "$(readlink "$entry")" "$entry")
            else
                mounts+=(--ro-bind "$entry" "$entry")
            fi
            ;;
    esac
done

# The command comes after the options, so that this can be put between a tracer and its server.
sandbox=(
    bwrap --unshare-all --share-net --uid 10001 --gid 10001 --cap-drop ALL --new-session --die-with-parent --as-pid-1
    "${mounts[@]}" --proc /proc --dev /dev
    --size $((64 * 1024 * 1024)) --tmpfs /tmp --ro-bind "$venv" "$venv" --bind "$scratch/data" /data
    --remount-ro / --chdir /data
    --clearenv --setenv PATH "$venv/bin:/usr/bin:/bin" --setenv PYTHONDONTWRITEBYTECODE 1 --setenv PYTHONUNBUFFERED 1
)

# Every call that makes, changes or removes a name, with its *at forms: the pattern matches beginnings.
calls='/^(open|creat|mkdir|mknod|rename|link|symlink|unlink|rmdir|truncate|chmod|chown|lchown|fchmodat|fchownat|utime)'
echo "rehearse_container: starting on $address"
strace -f -qq -y -s 4096 -o "$scratch/trace" -e trace="$calls,execve" -- \
    "${sandbox[@]}" --json-status-fd 3 -- recension-server serve --data /data --listen "$address" \
    3>"$scratch/status" >"$scratch/server.log" 2>&1 &
supervisor=$!

for ((second = 0; ; second++)); do
    kill -0 "$supervisor" 2>/dev/null || fail "the server ended before it was healthy"
    ((second < start_seconds)) || fail "not healthy within $start_seconds seconds"
    "${sandbox[@]}" -- recension-server health --target "$address" >"$scratch/health.log" 2>&1 && break
    sleep 1
done
echo "rehearse_container: healthy"

# The process that bwrap reports is the server itself (--as-pid-1), by its number outside.
server=$(grep -oE '"child-pid": *[0-9]+' "$scratch/status" | grep -oE '[0-9]+')
kill -TERM "$server"
for ((second = 0; ; second++)); do
    kill -0 "$supervisor" 2>/dev/null || break
    ((second < stop_seconds)) || fail "still running $stop_seconds seconds after SIGTERM"
    sleep 1
done
status=0
wait "$supervisor" || status=$?
supervisor=
((status == 0)) || fail "status $status after SIGTERM"
echo "rehearse_container: stopped with status 0"

# What was written, from the moment the server's program started; before it, bwrap builds the sandbox.
[[ -n $(find "$scratch/data" -mindepth 1 -print -quit) ]] || fail "nothing was written to /data"
stray=$(awk '
    !started { started = /execve\("[^"]*\/recension-server"/; next }
    /^[0-9]+ +execve/ || /<\.\.\. / || /^[0-9]+ +(---|\+\+\+)/ { next }
    /^[0-9]+ +open/ && !/O_(WRONLY|RDWR|CREAT|TRUNC|TMPFILE)/ { next }
    {
        rest = $0
        # A path, after the folder that a call with a descriptor starts from, which strace -y shows in angle brackets.
        while (match(rest, /(<[^<>]*>, )?"[^"]*"/)) {
            found = substr(rest, RSTART, RLENGTH)
            rest = substr(rest, RSTART + RLENGTH)
            folder = "/data"
            if (found ~ /^</) { folder = found; sub(/^</, "", folder); sub(/>, .*/, "", folder) }
            path = found; sub(/^[^"]*"/, "", path); sub(/"$/, "", path)
            if (path !~ /^\//) path = folder "/" path
            if (path !~ /^\/(data|tmp)(\/|$)/ && path != "/dev/null") { print; break }
        }
    }
' "$scratch/trace")
[[ -z $stray ]] || fail "tried to write outside /data and /tmp"$'\n'"$stray"
echo "rehearse_container: nothing written outside /data and /tmp"
