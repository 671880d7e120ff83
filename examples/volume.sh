#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The whole life of a volume without any command of its own: mkdir makes it, cat gives it a table,
# echo suspends and resumes it, rmdir removes it. "Allow scripts to simply cat a text mapping table
# in order to set up a volume" (Red Hat's logical volume project, 2001).
#
# usage: volume.sh DIRECTORY    where mapper/ and control/ are: `dmtool mount-point` prints it
set -euo pipefail

dir=$(cd "$1" && pwd)
vol=$dir/control/example
work=$(mktemp -d)
cd "$work"
cleanup() {
    if [ -d "$vol" ]; then rmdir "$vol"; fi
    rm -rf "$work"
}
trap cleanup EXIT

say() { printf '\n%s\n' "$*"; }

say "1. Two images, with what only a disk would have in its first sector."
head -c 4M /dev/zero >disk1.img
head -c 4M /dev/zero >disk2.img
echo 'this is disk one' 1<>disk1.img
echo 'this is disk two' 1<>disk2.img

say "2. mkdir makes a device, cat loads and activates its table. Paths start here, in $PWD."
mkdir "$vol"
cat >"$vol/table" <<TABLE
0    8192 linear disk1.img 0
8192 8192 linear disk2.img 0
TABLE
cat "$vol/table" "$vol/info"

say "3. It is a file now."
tr -d '\0' <"$dir/mapper/example"
echo 'THIS' 1<>"$dir/mapper/example" # <> opens without emptying; > would leave the rest as well
head -n 2 disk1.img | tr -d '\0'

say "4. A table with a mistake is refused as a whole."
if echo '0 8192 linaer disk1.img 0' 2>/dev/null >"$vol/table"; then
    echo 'it was taken!'
    exit 1
fi
cat "$vol/error"
[ "$(cat "$vol/deps")" = "$work/disk1.img
$work/disk2.img" ]

say "5. Who waits for events is told: here of a new name."
exec 3<"$vol/events"
mv "$vol" "$dir/control/renamed"
read -r event <&3
exec 3<&-
echo "event $event"
vol=$dir/control/renamed

say "6. Suspended, it takes a new table, with the disks the other way round; I/O waits for resume."
echo suspend >"$vol/state"
cat "$vol/state"
tr -d '\0' <"$dir/mapper/renamed" >seen &
reader=$!
cat >"$vol/table" <<TABLE
0    8192 linear disk2.img 0
8192 8192 linear disk1.img 0
TABLE
echo resume >"$vol/state"
wait $reader
cat "$vol/state" seen

say "7. rmdir removes it."
rmdir "$vol"
[ ! -e "$dir/mapper/renamed" ]
echo 'all done'
