# What follows is the same for every job; the values it uses stand above.
set -uo pipefail
umask 077
# Slurm goes to /tmp in silence where the folder is missing, and the job would "complete" there.
cd -- "$folder" || exit 97
me=$SLURM_JOB_ID start=${SLURM_RESTART_COUNT:-0} node=${SLURMD_NODENAME:-}
# The first job that starts owns the folder: a second one of the same key leaves at once.
( set -C; printf '%s\n' "$me" >owner ) 2>/dev/null || [ "$(cat owner)" = "$me" ] ||
  { echo "the folder belongs to job $(cat owner)"; exit 98; }
leave() { # with the engine's exit code as Slurm should see it
  local good
  for good in "${good_codes[@]}"; do [ "$1" -ne "$good" ] || exit 0; done
  [ "$1" -lt 96 ] || [ "$1" -gt 98 ] || exit 1
  exit "$1"
}
# Each start has its own folder: after a node failure the processes of the last one may still write to theirs.
mine=$folder/starts/$me-$start
if ! { mkdir -p -- starts && mkdir -- "$mine"; }; then
  # A controller that has forgotten a start makes it again.
  echo "this start of the job was made before"
  code=$(sed -n 's/.*"exit_code":\([0-9]*\),.*/\1/p' "$mine/result.json" 2>/dev/null)
  [ -n "$code" ] || exit 96
  leave "$code"
fi
log=$mine/engine.log
: >"$log"
here=$mine/work
[ -z "$scratch" ] || here=$scratch/$key.$me-$start
began=$(date +%s) signal= engine=

clear() { cd -- "$folder" && rm -rf -- "$here"; }
finish() { # the job's own account of its end, whole or not there
  local code=$1 number=0 name file entries= entry
  mkdir -p -- "$mine/outputs"
  for name in "${outputs[@]}"; do
    number=$((number + 1))
    file=$here/$name
    if [ -f "$file" ] && [ ! -L "$file" ] && mv -f -- "$file" "$mine/outputs/$number"; then
      sync -d -- "$mine/outputs/$number" 2>/dev/null
      entry=$(sha256sum <"$mine/outputs/$number") &&
        entries+="${entries:+,}{\"number\":$number,\"sha256\":\"${entry%% *}\",\"size\":$(stat -c %s -- "$mine/outputs/$number")}"
    else
      # Half of one, where it came from another file system and did not fit.
      rm -f -- "$mine/outputs/$number"
    fi
  done
  # On a full disk this makes the room for what follows.
  clear
  printf '{"job":"%s","start":%s,"node":"%s","gpus":"%s","exit_code":%s,"signal":"%s","began":%s,"ended":%s,"outputs":[%s]}\n' \
    "$me" "$start" "${node//[^A-Za-z0-9._-]/}" "$(tr -cd '0-9A-Za-z,._-' <<<"${CUDA_VISIBLE_DEVICES:-}")" \
    "$code" "$signal" "$began" "$(date +%s)" "$entries" >"$mine/.result.part" || return
  sync -d -- "$mine/.result.part" 2>/dev/null
  mv -f -- "$mine/.result.part" "$mine/result.json"
}
interrupted() {
  signal=$1
  [ -z "$engine" ] || kill -TERM "$engine" 2>/dev/null
}
trap 'interrupted TERM' TERM
trap 'interrupted INT' INT

prepare() { # the inputs as the engine sees them, with this folder in the place of the mark
  local entry text
  mkdir -p -m 700 -- "${here%/*}" && mkdir -m 700 -- "$here" || return
  for entry in "$folder"/input/*; do
    if [ "${entry##*/}" = "$tps" ]; then
      text=$(cat -- "$entry") || return
      printf '%s\n' "${text//"$mark"/$here}" >"$here/$tps" || return
    elif [ -z "$scratch" ]; then
      ln -s -- "$entry" "$here/${entry##*/}" || return
    else
      cp -R -- "$entry" "$here/${entry##*/}" || return
    fi
  done
  for entry in "${folders[@]}"; do mkdir -p -- "$here/$entry" || return; done
}

prepare || { echo "the folder of the start cannot be made"; clear; exit 97; }
( cd -- "$here" && { setup || { echo "the modules or scripts of the settings could not be loaded"; exit 95; }; } && exec "${argv[@]//"$mark"/$here}" ) >>"$log" 2>&1 </dev/null &
engine=$!
# A signal ends a wait, not the engine.
while :; do
  wait "$engine"
  kill -0 "$engine" 2>/dev/null || break
done
wait "$engine"
code=$?
finish "$code"
leave "$code"
