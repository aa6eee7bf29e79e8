# Runs one job and keeps its end: sh job.sh ID, told on descriptor 3 what to run (processes.py):
#   told MARK RECORD OOM_SCORE DIRECTORY COMMAND...
# It is the job's session leader, and outlives the signals that end the job, so that the exit code is written
# whatever has become of arf. It sets no variables: all of them would be visible to the job.
trap : HUP INT QUIT TERM USR1 USR2
. /dev/fd/3
exec 3<&-
[ "$1" = told ] || exit 0
echo "pid $$" >> "$3"
if [ -n "$4" ]; then { echo "$4" > /proc/self/oom_score_adj; } 2>/dev/null; fi
(cd -- "$5" || exit 126; shift 5; exec "$@")
set -- "$?" "$3"
echo "exit $1" >> "$2"
exit "$1"
