# Makes the folder of a job, all or nothing: stage.sh ROOT PLACE KEY MANIFEST_SHA256 look|unpack|publish|all
# "look" says whether there is anything to do; "unpack" takes a tar stream; "publish" verifies and renames.
# Exit code 6: what came is not what was sent; 75: an earlier call still works there.
set -eu
umask 077
place=$1/$2 key=$3 want=$4 mode=$5
folder=$place/$key part=$place/.$key.part trash=$1/.trash
mkdir -p -- "$place" "$trash"
exec 9>"$place/.$key.lock"
flock -w 60 9 || exit 75

present() { # whether the folder is the wanted one, or its job was submitted already
  [ -d "$folder" ] || return 1
  [ -e "$folder/job.id" ] || [ -e "$folder/.submitting" ] && return 0
  [ "$(sha256sum <"$folder/MANIFEST.sha256" 2>/dev/null)" = "$want  -" ]
}

damaged() { # what came is not what was sent: it goes, so that the next try begins anew
  rm -rf -- "$part"
  exit 6
}

unpack() { tar -x -f - --no-same-owner --no-same-permissions -C "$part"; }

publish() {
  cd -- "$part"
  [ "$(sha256sum <MANIFEST.sha256)" = "$want  -" ] || damaged
  sha256sum --quiet --strict -c MANIFEST.sha256 >/dev/null 2>&1 || damaged
  # The manifest does not list itself, the marker and the note of what was wanted.
  [ "$(find . -type f -printf x | wc -c)" -eq "$(($(wc -l <MANIFEST.sha256) + 3))" ] || damaged
  rm -f -- .want
  find . -type f -exec sync -d -- {} + 2>/dev/null || sync
  mv -T -- "$part" "$folder"
  sync -- "$place" 2>/dev/null || :
  echo published
}

if present; then
  [ "$mode" = look ] || cat >/dev/null
  rm -rf -- "$part"
  echo present
  exit 0
fi
case $mode in
look)
  # A folder of other content whose job was never submitted is nobody's.
  if [ -e "$folder" ]; then mv -T -- "$folder" "$trash/$key.$(date +%s).$$"; fi
  if [ "$(cat -- "$part/.want" 2>/dev/null)" != "$want" ]; then
    rm -rf -- "$part"
    mkdir -- "$part"
    printf '%s\n' "$want" >"$part/.want"
    printf '%s\n' "$key" >"$part/.mqi-job"
  fi
  echo absent
  ;;
unpack) unpack ;;
publish) publish ;;
all)
  unpack
  publish
  ;;
esac
