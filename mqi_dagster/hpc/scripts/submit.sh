# Submits the job of a folder once, however often it is asked: submit.sh FOLDER NAME KEY RETIRED find|submit ARGS...
# RETIRED: ids, each between commas, that ended without a verdict and count no more. Prints the job's id, or
# nothing in "find" where there is none. Exit code 75: the scheduler gave no answer, so nothing is known; 3: there
# is no such folder.
set -eu
umask 077
[ -d "$1" ] || { echo "the job's folder is not there" >&2; exit 3; }
cd -- "$1"
name=$2 key=$3 retired=$4 mode=$5
shift 5
[ "$(cat .mqi-job)" = "$key" ]
exec 9>.submit.lock
flock -w 60 9 || { echo "an earlier submission is still under way" >&2; exit 75; }

counts() { # whether an id may still be the job
  case $1 in '' | *[!0-9]*) return 1 ;; esac
  case $retired in *,"$1",*) return 1 ;; *) return 0 ;; esac
}

keep() { # write the id down so that it is whole or not there; the job exists, so a failure says nothing of it
  printf '%s\n' "$1" >.job.id.part || exit 75
  sync -d .job.id.part 2>/dev/null || :
  mv -f -- .job.id.part job.id || exit 75
  printf '%s\n' "$1"
}

# Without the whole list sacct leaves out jobs that were never eligible to start.
states=BF,CA,CD,DL,F,NF,OOM,PD,PR,R,RQ,RS,RV,S,TO
ended='BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED LAUNCH_FAILED NODE_FAIL OUT_OF_MEMORY'
ended="$ended PREEMPTED RECONFIG_FAIL REVOKED TIMEOUT"
found=
look() { # the id of a job of this name and comment, from whoever knows it; 75 where the queue does not answer
  found=
  queue=$(squeue -u "$(id -un)" --name="$name" -t all -o '%A|%k|%T' 2>.queue.err) || return 75
  # Only the head of the list tells an answer from an accident that ends with 0.
  case $queue in JOBID'|'*) ;; *) echo 'squeue: no list of jobs' >.queue.err; return 75 ;; esac
  # Accounting may be off or late: what it does not know proves nothing.
  past=$(sacct -X -n -P --name="$name" -S now-30days -E now -s "$states" -o JobIDRaw,Comment 2>/dev/null) || past=
  for id in $(printf '%s\n%s\n' "$past" "$queue" | awk -F'|' -v k="$key" '$2 == k { print $1 }' | sort -n -u); do
    if counts "$id"; then found=$id; fi
  done
  # One that was given up and lives after all, or whose id was given out again, to us: no second one beside it.
  id=$(printf '%s\n' "$queue" | awk -F'|' -v k="$key" -v ended="$ended" '
    BEGIN { split(ended, part, " "); for (i in part) over[part[i]] = 1 }
    $2 == k && !($3 in over) { print $1 }' | tail -n 1)
  if [ -z "$found" ]; then found=$id; fi
  # The job's own mark counts more than any answer: it has started. Marks of those set aside are gone with them.
  id=$(cat owner 2>/dev/null) || id=
  if counts "$id" || { [ -n "$id" ] && [ ! -e job.id ]; }; then found=$id; fi
}
answer() { # the job that somebody knows; goes on where there is none
  look || { cat .queue.err >&2; exit 75; }
  [ -n "$found" ] || return 0
  keep "$found"
  exit 0
}

id=$(cat job.id 2>/dev/null) || id=
if counts "$id"; then
  printf '%s\n' "$id"
  exit 0
fi
if [ -n "$id" ]; then
  old=$id
  answer
  # Set aside with all it wrote: the next job may be given the same id.
  mkdir -p retired
  for one in "starts/$old-"*; do
    [ ! -e "$one" ] || mv -f -- "$one" "retired/${one#starts/}.$(date +%s).$$"
  done
  # Also a mark that a full disk has left empty: with it no job could ever own the folder.
  id=$(cat owner 2>/dev/null) || id=
  if [ -e owner ] && ! counts "$id"; then mv -f -- owner "retired/$old.owner"; fi
  rm -f -- .submitting
  mv -f -- job.id "retired/$old"
fi
if [ -e .submitting ] || [ "$mode" = find ]; then answer; fi
[ "$mode" = submit ] || exit 0
: >.submitting
sync -d .submitting 2>/dev/null || :
id=$(sbatch --parsable --job-name="$name" --comment="$key" --chdir="$PWD" --output="$PWD/slurm-%j.out" "$@" 9>&-) || {
  code=$?
  # One that was killed may have got through.
  [ "$code" -lt 128 ] || code=75
  exit "$code"
}
keep "${id%%;*}"
