#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The main job, on real bytes: two image files joined by a table, exported over NBD, read back by
# an NBD client and compared. `make demo` runs it; exit status 0 says that every byte was right.
set -euo pipefail

work=$(mktemp -d /tmp/dmtool-demo.XXXXXX) # short: a socket's path has 107 bytes and no more
export DMTOOL_DIR=$work/run # a core process of our own: yours, if any, is not touched
cleanup() {
    dmtool remove_all >/dev/null 2>&1 || true
    dmtool daemon stop >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap cleanup EXIT
cd "$work"

say() { printf '\n%s\n' "$*"; }
run() {
    printf '  $ %s\n' "$*"
    "$@" 2>&1 | sed 's/^/  /'
}

# 64 bytes a line, so 8 lines a sector: line 262144 of a file is at its byte 16777216.
image() { seq -f "$1, line %047.0f" 0 262143 >"$1"; }

say "1. Two image files of 16 MiB; every line says where it is."
image disk1.img
image disk2.img
run head -n 2 disk1.img

say "2. A table: all of disk1.img, then disk2.img without its first MiB (2048 sectors)."
cat >joined.table <<'TABLE'
0     32768 linear disk1.img 0
32768 30720 linear disk2.img 2048
TABLE
run cat joined.table

say "3. A mapped device from it. No root, no kernel module."
run dmtool version
run dmtool create joined joined.table
run dmtool table joined
run dmtool status joined

say "4. Where do the sectors on both sides of the seam go?"
run dmtool explain joined 32767+2

say "5. The device is exported over NBD. A client reads all of it:"
uri=$(dmtool uri joined)
run dmtool uri joined
if command -v nbdcopy >/dev/null; then
    run nbdcopy "$uri" copy.img
else
    echo "  (nbdcopy is not here, Debian has it in libnbd-bin: dmtool reads it)"
    printf '  $ dmtool read joined >copy.img\n'
    dmtool read joined >copy.img
fi

say "6. Is that what the two files say, byte for byte?"
{
    cat disk1.img
    tail -c +$((2048 * 512 + 1)) disk2.img
} >expected.img
run sha256sum expected.img copy.img
if ! cmp expected.img copy.img; then
    say "NO. That is a bug in dmtool."
    exit 1
fi

say "7. And a write across the seam lands in both files:"
end="[the last 32 bytes of disk1.img]"
start="[disk2.img from its sector 2048]"
seam=$((32768 * 512))
printf '  $ printf %%s "%s" | dmtool write joined --offset %d\n' "$end$start" $((seam - 32))
printf %s "$end$start" | dmtool write joined --offset $((seam - 32))
printf '  disk1.img: %s\n' "$(tail -c 32 disk1.img)"
printf '  disk2.img: %s\n' "$(dd if=disk2.img bs=32 skip=$((2048 * 16)) count=1 status=none)"
if [[ $(tail -c 32 disk1.img) != "$end" ]] ||
    [[ $(dd if=disk2.img bs=32 skip=$((2048 * 16)) count=1 status=none) != "$start" ]]; then
    say "NO. That is a bug in dmtool."
    exit 1
fi

say "All bytes are right. (The device and the files are removed again.)"
