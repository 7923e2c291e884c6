# One look at all jobs of this account: poll.sh "LIVE STATES". Asked after are the lines "ID FOLDER" on standard
# input.
# Sections begin with "@name code"; fields are separated by the unit separator.
set -u
sep=$(printf '\037')
wanted=$(cat)
errors=$(mktemp) || exit 1
trap 'rm -f -- "$errors"' EXIT
# With its head: an answer without one is none, even with exit code 0.
queue=$(squeue -u "$(id -un)" -t all -o "%A$sep%T$sep%r$sep%j$sep%k$sep%V$sep%N" 2>"$errors")
code=$?
echo "@queue $code"
printf '%s\n' "$queue"
echo '@complaint 0'
tr -d '\037@' <"$errors" | tail -c 600
echo
[ "$code" -eq 0 ] || exit 0
# What the queue holds no more, or holds as ended: whose end is looked for elsewhere. A job of another comment has
# been given the same id; the comment is the name of the folder.
gone=$(printf '%s\n@\n%s\n' "$queue" "$wanted" | awk -v FS="$sep" -v live=" $1 " '
  $0 == "@" { past = 1; FS = " "; next }
  !past { if (index(live, " " $2 " ")) on[$1, $5] = 1; next }
  NF { split($0, part, " "); name = part[2]; sub(".*/", "", name); if (!((part[1], name) in on)) print $0 }')
[ -n "$gone" ] || exit 0
ids=$(printf '%s\n' "$gone" | cut -d' ' -f1 | sort -n -u | paste -s -d, -)
history=$(sacct -X -n -P --delimiter="$sep" -j "$ids" -o JobIDRaw,State,ExitCode,JobName,Comment,Submit,NodeList 2>/dev/null)
code=$?
echo "@history $code"
printf '%s\n' "$history"
if [ "$code" -ne 0 ]; then
  # Without accounting only the controller knows an exit code, and not for long.
  echo '@details 0'
  printf '%s\n' "$gone" | while read -r id folder; do
    set -- "$folder/starts/$id-"*/result.json
    [ -f "$1" ] || scontrol -o show job "$id" 2>/dev/null | tr -d '@\037'
  done
fi
echo '@results 0'
# Through a pipe: to collect the names as parameters takes a shell longer the more there are, seconds at 1,000.
# One that has just gone is no reason to say nothing of the others.
printf '%s\n' "$gone" | while read -r id folder; do
  for file in "$folder/starts/$id-"*/result.json "$folder/owner"; do
    [ ! -f "$file" ] || printf '%s\n' "$file"
  done
done | xargs -r -d '\n' sh -c 'head -v -c 65536 -- "$@" 2>/dev/null; echo' mqi-files || :
