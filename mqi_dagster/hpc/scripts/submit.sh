# Submits the job of a folder once, however often it is asked: submit.sh FOLDER NAME KEY RETIRED find|submit ARGS...
# RETIRED: ids, each between commas, that ended without a verdict and count no more. Prints the job's id, or
# nothing in "find" where there is none. Exit code 75: the scheduler gave no answer, so nothing is known.
set -eu
umask 077
cd -- "$1"
name=$2 key=$3 retired=$4 mode=$5
shift 5
[ "$(cat .mqi-job)" = "$key" ]
exec 9>.submit.lock
flock -w 60 9

counts() { # whether an id may still be the job
  case $1 in '' | *[!0-9]*) return 1 ;; esac
  case $retired in *,"$1",*) return 1 ;; *) return 0 ;; esac
}

keep() { # write the id down so that it is whole or not there
  printf '%s\n' "$1" >.job.id.part
  sync -d .job.id.part 2>/dev/null || :
  mv -f -- .job.id.part job.id
  printf '%s\n' "$1"
}

found=
look() { # the id of a job of this name and comment, from whoever knows it; 75 where the queue does not answer
  found=
  queue=$(squeue -h -u "$(id -un)" --name="$name" -t all -o '%A|%k' 2>.queue.err) || return 75
  # Accounting may be off or late: what it does not know proves nothing.
  past=$(sacct -X -n -P --name="$name" -S now-30days -E now -s "$states" -o JobIDRaw,Comment 2>/dev/null) || past=
  for id in $(printf '%s\n%s\n' "$past" "$queue" | awk -F'|' -v k="$key" '$2 == k { print $1 }' | sort -n -u); do
    if counts "$id"; then found=$id; fi
  done
  # The job's own mark counts more than any answer: it has started.
  id=$(cat owner 2>/dev/null) || id=
  if counts "$id"; then found=$id; fi
}
# Without the whole list sacct leaves out jobs that were never eligible to start.
states=BF,CA,CD,DL,F,NF,OOM,PD,PR,R,RQ,RS,RV,S,TO

id=$(cat job.id 2>/dev/null) || id=
if counts "$id"; then
  printf '%s\n' "$id"
  exit 0
fi
if [ -n "$id" ]; then
  # Set aside: what it wrote stays in its own folder below starts.
  mkdir -p retired
  mv -f -- job.id "retired/$id"
  rm -f -- .submitting
  id=$(cat owner 2>/dev/null) || id=
  if [ -n "$id" ] && ! counts "$id"; then mv -f -- owner "retired/$id.owner"; fi
fi
if [ -e .submitting ] || [ "$mode" = find ]; then
  look || { cat .queue.err >&2; exit 75; }
  if [ -n "$found" ]; then
    keep "$found"
    exit 0
  fi
fi
[ "$mode" = submit ] || exit 0
: >.submitting
sync -d .submitting 2>/dev/null || :
id=$(sbatch --parsable --job-name="$name" --comment="$key" --chdir="$PWD" --output="$PWD/slurm-%j.out" "$@" 9>&-)
keep "${id%%;*}"
