"""The sandbox: what honest programs get, and what a list of attacks does not get."""

# ruff: noqa: E501  (one program, one line)

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doran.base.errors import ConfigError
from doran.sandbox.launch import SandboxError, start
from doran.sandbox.pool import Limits, Sandbox

BACKENDS = ["unshare", "bwrap"]
LIMITS = Limits(wall_s=5.0, memory_mb=256, output_kb=32, tmp_mb=4)


@pytest.fixture(scope="module", params=BACKENDS)
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    if request.param == "bwrap" and not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    with Sandbox(LIMITS, workers=1, backend=request.param) as made:
        try:
            made.run("")
        except SandboxError as error:
            pytest.skip(str(error))
        yield made


def test_a_program_runs_with_its_input_and_output(box: Sandbox) -> None:
    run = box.run("import math\nprint(math.factorial(int(input())), end='')", "20\n")
    assert (run.status, run.exit_code, run.output, run.errors) == ("ok", 0, "2432902008176640000", "")


def test_how_a_program_ended_is_told(box: Sandbox) -> None:
    assert box.run("import sys; sys.exit(3)").exit_code == 3
    failed = box.run("def f():\n  1/0\nf()")
    assert failed.status == "error" and failed.errors.rstrip().endswith("ZeroDivisionError: division by zero")
    assert box.run("print('half' ").errors.rstrip().endswith("SyntaxError: '(' was never closed")
    assert box.run("print(chr(0xd55c), '\\ud800')").output.startswith("한")


def test_runs_leave_nothing_for_the_next(box: Sandbox) -> None:
    assert box.run("open('/tmp/a', 'w').write('x'); import os; os.makedirs('/tmp/b/c'); import math; math.pi = 3").status == "ok"
    assert box.run("import os, math; print(os.listdir('/tmp'), math.pi > 3)").output == "[] True\n"


def test_the_same_program_gives_the_same_output(box: Sandbox) -> None:
    program = "import random; print(random.random(), list({'a', 'b', 'c', 'd'}))"
    assert len({box.run(program).output for _ in range(3)}) == 1


ATTACKS = {
    "read a password file": "print(open('/etc/passwd').read())",
    "read the home": "import os; print(os.listdir(os.path.expanduser('~')))",
    "read the process table": "import os; print(os.listdir('/proc'))",
    "read a device": "print(open('/dev/zero', 'rb').read(3))",
    "read installed packages": "import numpy; print(numpy.__version__)",
    "climb out of the root": "import os; os.chroot('/tmp'); print(os.listdir('../../../..'))",
    "write beside the library": "import os; open(os.__file__ + 'x', 'w'); print('written')",
    "write into the root": "open('/x', 'w'); print('written')",
    "make the root writable": "import ctypes; c = ctypes.CDLL(None); print('ok') if c.mount(b'none', b'/', None, 32, None) == 0 else exit(1)",
    "open a socket": "import socket; socket.socket(); print('opened')",
    "open a local socket": "import socket; socket.socket(socket.AF_UNIX); print('opened')",
    "look up a name": "import socket; print(socket.gethostbyname('localhost'))",
    "fork": "import os; print(os.fork())",
    "start a program": "import subprocess; print(subprocess.run(['/bin/sh', '-c', 'echo hi'], capture_output=True))",
    "replace itself": "import os, sys; os.execv('/usr/bin/env', ['env'])",
    "another namespace": "import ctypes; c = ctypes.CDLL(None); print('entered') if c.unshare(0x10000000) == 0 else exit(1)",
    "trace process 1": "import ctypes; c = ctypes.CDLL(None); print('traced') if c.ptrace(16, 1, 0, 0) == 0 else exit(1)",
    "kill process 1": "import os; os.kill(1, 9); print('killed')",
    "kill everything": "import os; os.kill(-1, 9); print('killed')",
    "become root": "import os; os.setuid(0); print('root')",
    "raise its limits": "import resource as r; r.setrlimit(r.RLIMIT_AS, (1 << 40, 1 << 40)); print('raised')",
    "lower those of process 1": "import resource as r; r.prlimit(1, r.RLIMIT_NOFILE, (0, 0)); print('lowered')",
    "an anonymous file": "import os; print(os.memfd_create('x'))",
    "a 32-bit system call": "import ctypes; c = ctypes.CDLL(None); print('x32') if c.syscall(0x40000000 + 39) > 0 else exit(1)",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_fails_and_the_next_run_works(box: Sandbox, name: str) -> None:
    run = box.run(ATTACKS[name])
    assert run.status in ("error", "killed") and run.output == "", run
    assert box.run("print(1)").output == "1\n"


def test_no_secret_goes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    with Sandbox(LIMITS, workers=1) as box:
        run = box.run("import os, sys; print(dict(os.environ), sys.argv, os.getcwd())")
        assert run.output == "{} ['program'] /tmp\n"
        # the memory that the process was started with: arguments and environment lie at the top of the stack
        peek = (
            "import ctypes, ctypes.util\n"
            "environ = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), 'environ')\n"
            "i = 0\nwhile environ and environ[i]: print(environ[i]); i += 1"
        )
        assert "hunter2" not in box.run(peek).output


def test_no_descriptor_of_the_parent_goes_in(box: Sandbox) -> None:
    program = "import os\nfor n in range(1024):\n  try: os.fstat(n); print(n)\n  except OSError: pass"
    assert box.run(program).output.split() == ["0", "1", "2"]


def test_an_endless_loop_ends_at_the_limit() -> None:
    with Sandbox(Limits(wall_s=0.5), workers=1) as box:
        for program in ("while True: pass", "import time; time.sleep(99)",
                        "import signal\nfor n in range(1, 65):\n  try: signal.signal(n, signal.SIG_IGN)\n"
                        "  except (OSError, ValueError): pass\nwhile True: pass"):
            run = box.run(program)
            assert run.status == "timeout" and run.seconds < 5
        assert box.run("print(1)").output == "1\n" and box.replaced == 0


@pytest.mark.parametrize("program", [
    "x = []\nwhile True: x.append(bytearray(1 << 24))",
    "x = 'a' * (1 << 34)",
    "import mmap; m = mmap.mmap(-1, 1 << 33); print('mapped')",
    "9 ** 9 ** 9",
])
def test_a_memory_bomb_fails_alone(program: str) -> None:
    with Sandbox(Limits(wall_s=3, memory_mb=256), workers=1) as box:
        run = box.run(program)
        assert run.status in ("error", "killed", "timeout") and run.output == ""
        assert box.run("print(1)").output == "1\n"


def test_a_file_bomb_fills_only_its_own_tmp(box: Sandbox) -> None:
    many = "n = 0\nwhile True: open(f'/tmp/{n}', 'wb').write(b'x' * 100_000); n += 1"
    assert "No space left" in box.run(many).errors
    deep = "import os\nfor _ in range(900): os.mkdir('d'); os.chdir('d')\nprint('deep')"
    assert box.run(deep).output == "deep\n"
    locked = "import os; os.mkdir('/tmp/l'); open('/tmp/l/f', 'w'); os.umask(0o777); os.mkdir('/tmp/m')"
    assert box.run(locked).status == "ok"
    assert box.run("import os; print(os.listdir('/tmp'))").output == "[]\n"


def test_a_thread_bomb_stops_at_the_limit(box: Sandbox) -> None:
    program = ("import threading, time\nn = 0\ntry:\n  while n < 500:\n"
               "    threading.Thread(target=time.sleep, args=(99,), daemon=True).start(); n += 1\n"
               "except RuntimeError: pass\nprint(n)")
    run = box.run(program)
    assert run.status == "ok" and 1 <= int(run.output) < 64


def test_huge_output_is_cut_and_the_program_stopped(box: Sandbox) -> None:
    run = box.run("while True: print('x' * 1000)")
    assert run.status == "output" and len(run.output) == LIMITS.output_kb << 10
    assert box.run("import sys\nwhile True: sys.stderr.write('x' * 1000)").status == "output"


def test_a_program_that_never_reads_its_input_does_not_hold_us(box: Sandbox) -> None:
    assert box.run("print(1)", "x" * 5_000_000).output == "1\n"


def test_a_closed_output_is_no_end(box: Sandbox) -> None:
    run = box.run("import os\nfor n in (0, 1, 2): os.close(n)\nx = sum(range(10))")
    assert run.output == ""


def test_a_zygote_that_was_killed_is_replaced() -> None:
    with Sandbox(LIMITS, workers=1) as box:
        assert box.run("print(1)").output == "1\n"
        process = box._all[0]._end.peek()[2][0]  # type: ignore[union-attr]
        process.kill()
        process.wait()
        assert box.run("print(2)").output == "2\n"


def test_closing_ends_every_process() -> None:
    box = Sandbox(LIMITS, workers=2)
    threads = [threading.Thread(target=box.run, args=("import time; time.sleep(0.2)",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pids = [zygote._end.peek()[2][0].pid for zygote in box._all]  # type: ignore[union-attr]
    below = [child for pid in pids for child in children(pid)]
    assert below
    box.close()
    assert gone([*pids, *below])


def test_nothing_stays_when_the_parent_is_killed() -> None:
    program = (
        "import os, sys, threading\nfrom doran.sandbox.pool import Limits, Sandbox\n"
        "box = Sandbox(Limits(wall_s=60), workers=1); box.run('')\n"
        "threading.Thread(target=box.run, args=('while True: pass',)).start()\n"
        "import time; time.sleep(0.3); print(box._all[0]._end.peek()[2][0].pid, flush=True); time.sleep(60)"
    )
    source = str(Path(__file__).resolve().parents[2] / "src")
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True,
                              env={**os.environ, "PYTHONPATH": source})
    assert parent.stdout
    pid = int(parent.stdout.readline())
    below = [pid, *children(pid)]
    below += [child for one in below[1:] for child in children(one)]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(below)


def children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pids: list[int]) -> bool:
    for _ in range(100):
        alive = [pid for pid in pids if Path(f"/proc/{pid}").exists()
                 and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()]
        if not alive:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(("instead", "says"), [
    ("raise OSError(1, 'unshare: Operation not permitted')", "unshare: Operation not permitted.*none is run"),
    ("pass", "isolation incomplete"),
])
def test_where_isolation_is_impossible_nothing_runs(monkeypatch: pytest.MonkeyPatch, instead: str, says: str) -> None:
    main = ("import sys; sys.path.append(sys.argv[1]); from doran.sandbox import isolate, zygote\n"
            f"def enter(*a): {instead}\nisolate.enter = enter; zygote.main(int(sys.argv[2]))")
    monkeypatch.setattr("doran.sandbox.launch._FLAGS", ["-s", "-S", "-P", "-B", "-c", main])
    with pytest.raises(SandboxError, match=says):
        Sandbox(LIMITS, workers=1, backend="unshare").run("print(1)")


def test_no_linux_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="Linux"):
        start("auto", 1)


def test_impossible_limits_are_refused() -> None:
    with pytest.raises(ConfigError, match="memory_mb"):
        Sandbox(Limits(memory_mb=1))


def test_sockets_of_the_abstract_kind_do_not_cross() -> None:
    """Those live in the network namespace, not in the file system."""
    with Sandbox(LIMITS, workers=1) as box, socket.socket(socket.AF_UNIX) as server:
        server.bind("\0doran-test")
        server.listen()
        run = box.run("import socket; s = socket.socket(socket.AF_UNIX); s.connect('\\0doran-test'); print('in')")
        assert run.output == ""
