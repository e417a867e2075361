"""Runs one job on a pod and leaves the truth about it in the job directory.

Copied to the pod as this one folder; needs Linux and Python 3.8, nothing else.

    python3 -I -S agent run JOBDIR OFFSET LOG_LIMIT MAX_BYTES < spec.json
                                                    submit, follow, list: all of a job in one call
    python3 -I -S agent submit JOBDIR < spec.json   start it, once and only once
    python3 -I -S agent status JOBDIR               what is true now
    python3 -I -S agent follow JOBDIR OFFSET [LOG_LIMIT]
                                                    the log's bytes from OFFSET, as they come
    python3 -I -S agent cancel JOBDIR               TERM, then KILL
    python3 -I -S agent manifest JOBDIR [MAX_BYTES] what it left, with checksums
    python3 -I -S agent version

Each prints one line of JSON (`follow`: raw bytes). `run` prints several, as they come true:
`{"status": ...}` after the submission, whenever another job is waited for, and at the end;
`{"log": N}` with N raw bytes of the log right behind it, none from byte LOG_LIMIT of the log on;
`{"manifest": ...}` as the last. A refusal is `{"error": ...}` with exit code 2 (the call or the
spec is wrong) or 3 (the pod's state forbids it); `follow` says so on stderr.

The job directory, in the order in which its files appear:

    job.json       the spec, with the names of the secrets only; there before anything starts
    reserve        disk blocks kept for the result, should the disk fill up; becomes result.json
    out/           what the job leaves for collection
    lock           held (flock) from the start of the supervisor to its end
    agent.log      what went wrong in the supervisor itself; normally empty
    process.json   pids with start times and boot, so that a reused pid is never mistaken for ours;
                   while the job waits for the device, who has it
    started        once this is there the job is never started again
    log            stdout and stderr of the command, secrets masked
    telemetry.csv  what the GPUs were doing meanwhile (`telemetry.py` has the columns); only where
                   nvidia-smi says something
    cancelled      somebody asked to stop; with result.json and no job.json where that was before
                   the job came, which is then never started
    result.json    how it ended; wins over everything else

A spec with a `lock` runs alone on its devices: the supervisor takes `<lock>.<index>` (flock) for
each GPU in CUDA_VISIBLE_DEVICES, for every GPU where that names none by number, and shares it with
the command, so that the device stays taken for as long as either lives. The files are common to all
users of the pod and are never removed. A job that waits is SUBMITTED, its timeout does not run, and
should its supervisor die, nothing was started: submit it again (`run` does).
"""
