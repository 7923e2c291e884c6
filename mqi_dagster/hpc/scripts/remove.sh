# Removes the folder of a job: remove.sh ROOT PLACE KEY. Nothing but a folder with our own marker, at exactly
# this place below the root, with no link on the way, is ever touched.
set -eu
case $1 in / | "${HOME:-/}") exit 3 ;; esac
root=$(realpath -e -- "$1") || exit 0
case $root in / | "$(realpath -m -- "${HOME:-/}")") exit 3 ;; esac
folder=$root/$2/$3
[ "$(realpath -m -- "$folder")" = "$folder" ] && [ ! -L "$root/.trash" ] || exit 4
if [ -e "$folder" ]; then
  [ "$(cat -- "$folder/.mqi-job")" = "$3" ] || exit 5
  mkdir -p -- "$root/.trash"
  mv -T -- "$folder" "$root/.trash/$3.$(date +%s).$$"
fi
rm -rf -- "$root/$2/.$3.part" "$root/$2/.$3.lock"
# What an earlier removal was interrupted in goes with it; other names than ours stay.
[ ! -d "$root/.trash" ] || find "$root/.trash" -mindepth 1 -maxdepth 1 -type d -name "$3.*" -exec rm -rf -- {} +
cd -- "$root"
rmdir -p --ignore-fail-on-non-empty -- "$2" 2>/dev/null || :
