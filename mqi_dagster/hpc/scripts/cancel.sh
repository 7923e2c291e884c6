# Cancels a job if it is ours: cancel.sh ID NAME KEY. An id alone may belong to somebody else's job by now.
# Exit code 75: the scheduler gave no answer.
set -u
queue=$(squeue -u "$(id -un)" --name="$2" -t all -o '%A|%k') || exit 75
case $queue in JOBID'|'*) ;; *) exit 75 ;; esac
if printf '%s\n' "$queue" | grep -qxF -- "$1|$3"; then
  scancel "$1" || exit 75
fi
