# Runs one job and keeps its end: sh job.sh ID RECORD OOM_SCORE DIRECTORY COMMAND...
# It is the job's session leader, and outlives the signals that end the job, so that the exit code is written
# whatever has become of arf. It sets no variables: all of them would be visible to the job.
trap : HUP INT QUIT TERM USR1 USR2
echo "pid $$" >> "$2"
if [ -n "$3" ]; then { echo "$3" > /proc/self/oom_score_adj; } 2>/dev/null; fi
(cd -- "$4" || exit 126; shift 4; exec "$@")
set -- "$?" "$2"
echo "exit $1" >> "$2"
exit "$1"
