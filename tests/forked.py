"""Children of a process that has no threads yet, for tests that kill writers at any moment."""

import json
import os
import traceback


def child(body, gate=None):
    """Fork a child that sends what ``body`` returns, and return (pid, where to read).

    With ``gate``, a pipe, children wait until the parent has closed both of its ends, and so start together.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            if gate is not None:
                os.close(gate[1])
                os.read(gate[0], 1)
            os.write(write, json.dumps(body()).encode())
            code = 0
        except BaseException:  # noqa: BLE001  the child must end here, whatever happened
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    return pid, read


def result(pid, read):
    """Wait for a child, and return its status and what it sent; None where it was killed before."""
    data = b""
    while part := os.read(read, 65536):
        data += part
    os.close(read)
    return os.waitpid(pid, 0)[1], json.loads(data) if data else None
