"""The launcher of the sandbox: a script that isolates itself, then runs one program.

Started by `fsgen.tasks.sandbox`, never imported by it. It needs the standard library only, reads its job (one JSON
object) from standard input, and reports on the file descriptor that the job names.

Three processes take part where namespaces are to be had:

    launcher    outside the process namespace; its death kills the next one
    init        process 1 of the namespace; when it ends, the kernel kills everything inside
    program     the judged code, without privileges and under resource limits

With Landlock, or without isolation, the launcher itself becomes the program.
"""

import sys

HERE = sys.path.pop(0)  # the folder of this script; the program shall import the standard library only

import json  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
from types import ModuleType  # noqa: E402

# The parts of the launcher are imported as what they are, but without the packages around them, which need libraries.
for _name in ("fsgen", "fsgen.tasks"):
    sys.modules[_name] = ModuleType(_name)
sys.modules["fsgen.tasks"].__path__ = [os.path.dirname(HERE)]

from fsgen.tasks._sandbox_child.kernel import PR_SET_PDEATHSIG, Unavailable, prctl  # noqa: E402
from fsgen.tasks._sandbox_child.landlock import run_with_landlock  # noqa: E402
from fsgen.tasks._sandbox_child.namespaces import run_in_namespaces  # noqa: E402
from fsgen.tasks._sandbox_child.program import Job, run_program  # noqa: E402

for _name in [name for name in sys.modules if name.startswith("fsgen")]:
    del sys.modules[_name]  # nothing of ours is there for the program to import

UNAVAILABLE = 125  # exit status: the isolation asked for cannot be had here


def main() -> int:
    """Read the job, isolate as it says, run the program."""
    job = Job(sys.stdin.buffer.read())
    try:
        if sys.platform == "linux":
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL, "pdeathsig")
        if os.getppid() != job.parent:
            return 0  # whoever asked is gone already
        if job.mode == "namespaces":
            return run_in_namespaces(job)
        if job.mode == "landlock":
            return run_with_landlock(job)
        os.chdir(job.folder)
        run_program(job, job.folder, processes=None)
    except (Unavailable, OSError) as error:
        os.write(job.report, json.dumps({"unavailable": str(error)}).encode() + b"\n")
        return UNAVAILABLE


if __name__ == "__main__":
    os._exit(main())
