from __future__ import annotations

import ast
import importlib
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from hf_frameseg.video import worker as worker_module
from hf_frameseg.video.file import VideoReadError
from hf_frameseg.video.read import read_variants
from hf_frameseg.video.readers import load_reader
from hf_frameseg.video.worker import Worker, WorkerError, thread_worker

LONG_SECONDS = 60.0  # enough on any machine; a test that waits that long has failed
SHORT_SECONDS = 0.5
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a process with its parent")


@pytest.fixture(autouse=True)
def hostile(monkeypatch):
    """Return the module `hostile_readers`; processes started now can import it too."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("hostile_readers")


@pytest.fixture
def worker():
    made = Worker(os.getpid)
    yield made
    made.close()


def wait_for_end(pid: int) -> bool:
    """Wait until a process, of whatever parent, is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], LONG_SECONDS)[0])
    finally:
        os.close(descriptor)


def count_descriptors(pid: int | str = "self") -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_call_runs_elsewhere_and_the_process_is_used_again(worker):
    pid = worker.call(os.getpid, timeout_seconds=LONG_SECONDS)
    assert pid != os.getpid()
    assert worker.call(os.getpid, timeout_seconds=LONG_SECONDS) == pid == worker.pid


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5, 7), (2_000_000,)])
def test_arrays_travel_both_ways_and_can_be_written_to(worker, shape):
    sent = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    result = worker.call(np.flip, sent, 0, timeout_seconds=LONG_SECONDS)
    np.testing.assert_array_equal(result, np.flip(sent, 0))
    doubled = worker.call(np.add, sent.astype(np.float64), sent, timeout_seconds=LONG_SECONDS)
    np.testing.assert_array_equal(doubled, 2.0 * sent)
    doubled += 1


@pytest.mark.parametrize("name", ["hang", "hang_in_c", "hang_deaf"])
def test_what_hangs_is_killed(worker, hostile, name):
    pid = worker.call(os.getpid, timeout_seconds=LONG_SECONDS)
    with pytest.raises(WorkerError, match=r"^gave no answer within 0\.5 s$"):
        worker.call(list, hostile.Lazy(getattr(hostile, name)), timeout_seconds=SHORT_SECONDS)
    assert not is_there(pid)  # killed and reaped
    assert worker.call(os.getpid, timeout_seconds=LONG_SECONDS) != pid


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("segfault", r"crashed \(SIGSEGV\)"),
        ("abort", r"crashed \(SIGABRT\)"),
        ("be_killed", r"crashed \(SIGKILL, perhaps out of memory\)"),
        ("leave", r"ended with exit code 3"),
    ],
)
def test_a_crash_is_named_and_the_next_call_gets_a_new_process(worker, hostile, name, message):
    pid = worker.call(os.getpid, timeout_seconds=LONG_SECONDS)
    with pytest.raises(WorkerError, match=f"^{message}$"):
        worker.call(list, hostile.Lazy(getattr(hostile, name)), timeout_seconds=LONG_SECONDS)
    assert not is_there(pid)
    assert worker.call(abs, -1, timeout_seconds=LONG_SECONDS) == 1


def test_a_process_that_died_while_idle_is_nobodys_fault(worker):
    pid = worker.call(os.getpid, timeout_seconds=LONG_SECONDS)
    os.kill(pid, signal.SIGKILL)
    assert wait_for_end(pid)
    assert worker.call(abs, -1, timeout_seconds=LONG_SECONDS) == 1


def test_memory_is_limited(worker, monkeypatch, hostile):
    limited = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (2**29, 2**29)); "
    monkeypatch.setattr(worker_module, "_BOOT", limited + worker_module._BOOT)
    with pytest.raises(MemoryError):
        worker.call(list, hostile.Lazy(hostile.fill_memory), timeout_seconds=LONG_SECONDS)
    assert worker.call(abs, -1, timeout_seconds=LONG_SECONDS) == 1


def test_the_limit_is_set_and_never_above_the_machines(worker):
    import resource

    limit, hard = worker.call(resource.getrlimit, resource.RLIMIT_DATA, timeout_seconds=LONG_SECONDS)
    assert limit == (worker_module.MAX_WORKER_BYTES if hard == resource.RLIM_INFINITY else min(hard, limit))


def test_errors_keep_their_type_text_and_attributes(worker, hostile):
    with pytest.raises(VideoReadError, match=r"^a\.mp4: no$") as caught:
        worker.call(hostile.raise_read_error, timeout_seconds=LONG_SECONDS)
    assert caught.value.attempts == (("decord", "a.mp4: no"),)
    with pytest.raises(FileNotFoundError, match="nothing"):
        worker.call(os.stat, "/nothing", timeout_seconds=LONG_SECONDS)
    with pytest.raises(EOFError, match="the end"):
        worker.call(hostile.raise_end_of_file, timeout_seconds=LONG_SECONDS)
    with pytest.raises(RuntimeError, match="^UnpicklableError: this and that$"):
        worker.call(hostile.raise_unpicklable, timeout_seconds=LONG_SECONDS)
    assert worker.call(abs, -1, timeout_seconds=LONG_SECONDS) == 1


def test_what_cannot_be_sent_is_refused(worker):
    with pytest.raises(TypeError, match="cannot be sent to another process .* define it at the top of a module"):
        worker.call(lambda: 1, timeout_seconds=LONG_SECONDS)
    with pytest.raises(TypeError, match="pickle"):
        worker.call(threading.Lock, timeout_seconds=LONG_SECONDS)  # nor can what comes back
    assert worker.call(abs, -1, timeout_seconds=LONG_SECONDS) == 1


def test_a_failed_import_is_not_tried_again(tmp_path, hostile):
    log = tmp_path / "log"
    worker = Worker(hostile.setup_without_library, str(log))
    for _ in range(2):
        with pytest.raises(ImportError, match="no such library"):
            worker.call(abs, -1, timeout_seconds=LONG_SECONDS)
    assert log.read_text() == "called\n"
    assert worker.pid is None


def test_a_library_that_crashes_on_import_is_a_crash(hostile):
    worker = Worker(hostile.setup_that_crashes)
    with pytest.raises(WorkerError, match=r"^crashed \(SIGILL\) while it was loaded$"):
        worker.call(abs, -1, timeout_seconds=LONG_SECONDS)


@pytest.mark.parametrize(("name", "value"), [("executable", "/no/python"), ("path", [])])
def test_a_process_that_cannot_start_is_not_a_videos_fault(worker, monkeypatch, name, value):
    monkeypatch.setattr(sys, name, value)
    with pytest.raises(RuntimeError, match="cannot start a process for reading videos") as caught:
        worker.call(abs, -1, timeout_seconds=LONG_SECONDS)
    assert not isinstance(caught.value, (WorkerError, VideoReadError, OSError))


@pytest.fixture
def control_c():
    """Let Ctrl-C interrupt, also where this process was started to ignore it (`nohup make test &`)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_control_c_ends_the_call_and_its_process(worker, hostile, control_c):
    pid = worker.call(os.getpid, timeout_seconds=LONG_SECONDS)
    with pytest.raises(KeyboardInterrupt):
        worker.call(hostile.interrupt_parent_and_hang, timeout_seconds=LONG_SECONDS)
    assert not is_there(pid)
    assert worker.call(abs, -1, timeout_seconds=LONG_SECONDS) == 1


def test_control_c_in_the_terminal_does_not_reach_the_process(worker):
    pid = worker.call(os.getpid, timeout_seconds=LONG_SECONDS)
    os.kill(pid, signal.SIGINT)
    assert worker.call(os.getpid, timeout_seconds=LONG_SECONDS) == pid


def test_closing_ends_the_process_and_frees_its_descriptors(worker):
    before = count_descriptors()
    pid = worker.call(os.getpid, timeout_seconds=LONG_SECONDS)
    worker.close()
    worker.close()
    assert not is_there(pid)
    assert count_descriptors() == before


def test_a_thousand_calls_leave_nothing_behind(worker):
    frames = np.zeros((5, 3, 16, 16, 3), np.uint8)
    pid = worker.call(os.getpid, timeout_seconds=LONG_SECONDS)

    before = count_descriptors(), count_descriptors(pid)
    for _ in range(1000):
        worker.call(np.copy, frames, timeout_seconds=LONG_SECONDS)
    assert (count_descriptors(), count_descriptors(pid)) == before
    assert worker.pid == pid


def test_each_thread_has_its_own_process_which_ends_with_it():
    pids = []

    def use() -> None:
        pids.extend(thread_worker(os.getpid).call(os.getpid, timeout_seconds=LONG_SECONDS) for _ in range(2))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    own = thread_worker(os.getpid).call(os.getpid, timeout_seconds=LONG_SECONDS)
    assert len({*pids, own}) == 2
    assert wait_for_end(pids[0])
    assert thread_worker(os.getpid).call(os.getpid, timeout_seconds=LONG_SECONDS) == own


def _pid_in_forked_process(connection) -> None:
    connection.send(thread_worker(os.getpid).call(os.getpid, timeout_seconds=LONG_SECONDS))


def test_a_forked_process_starts_its_own_and_leaves_the_parents_alone():
    own = thread_worker(os.getpid).call(os.getpid, timeout_seconds=LONG_SECONDS)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_pid_in_forked_process, args=(theirs,))
    process.start()
    forked = ours.recv()
    process.join()
    assert forked != own
    assert wait_for_end(forked)
    assert thread_worker(os.getpid).call(os.getpid, timeout_seconds=LONG_SECONDS) == own


def _call_in_forked_process(connection, worker: Worker) -> None:
    connection.send((worker.call(os.getpid, timeout_seconds=LONG_SECONDS), worker.pid))


def test_a_forked_copy_of_a_worker_never_talks_to_the_parents_process(worker):
    own = worker.call(os.getpid, timeout_seconds=LONG_SECONDS)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_call_in_forked_process, args=(theirs, worker))
    # As when another thread asks for the state of the process at the moment of the fork.
    with worker._process._waitpid_lock:
        process.start()
    forked, pid = ours.recv()
    process.join()
    assert forked == pid != own
    assert wait_for_end(forked)
    assert worker.call(os.getpid, timeout_seconds=LONG_SECONDS) == own


def _read_sum(path: Path) -> tuple[bool, int]:
    return multiprocessing.current_process().daemon, int(read_variants(path, num_frames=3).frames.sum(dtype=np.int64))


def test_videos_are_read_in_the_daemons_of_a_pool(tmp_path, write_video, hostile):
    # datasets prepares in such processes; they must not have children made by multiprocessing.
    path = write_video(tmp_path / "a.mp4", np.arange(20) * 40)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = pool.map(_read_sum, [path] * 4)
    assert set(results) == {(True, _read_sum(path)[1])}


_PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
import hostile_readers
from hf_frameseg.video.worker import thread_worker
import os
worker = thread_worker(os.getpid)
worker.call(abs, -1, timeout_seconds=60)
if sys.argv[2] == "end":
    print(worker.pid)
else:
    worker.call(hostile_readers.announce_and_hang, sys.argv[2], timeout_seconds=600)
"""


@linux_only
def test_a_killed_parent_leaves_no_process_in_the_middle_of_a_call(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    command = [sys.executable, "-c", _PARENT, str(Path(__file__).parent), str(fifo)]
    with subprocess.Popen(command) as parent:
        assert select.select([reading], [], [], LONG_SECONDS)[0]  # the call runs
        pid = int(os.read(reading, 100))
        os.close(reading)
        assert is_there(pid)
        parent.kill()
    assert wait_for_end(pid)


def test_a_parent_that_ends_leaves_no_process():
    command = [sys.executable, "-c", _PARENT, str(Path(__file__).parent), "end"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert wait_for_end(int(done.stdout))


def test_the_working_folder_cannot_replace_modules(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit(5)")
    monkeypatch.chdir(tmp_path)
    worker = Worker(os.getpid)
    assert worker.call(abs, -1, timeout_seconds=LONG_SECONDS) == 1
    worker.close()


def test_starting_costs_no_torch(hostile):
    worker = Worker(load_reader, "pyav")
    assert worker.call(hostile.imported, ("torch", "decord", "datasets"), timeout_seconds=LONG_SECONDS) == []
    assert worker.call(hostile.imported, ("av",), timeout_seconds=LONG_SECONDS) == ["av"]
    worker.close()


ROOT = Path(__file__).resolve().parents[2]
POOLS = {"ProcessPoolExecutor", "Pool"}


def test_every_pool_of_processes_ends_with_its_parent():
    found = []
    for path in [*ROOT.glob("src/**/*.py"), *ROOT.glob("examples/*.py"), *ROOT.glob("benchmarks/*.py")]:
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", None)) in POOLS:
                found.append((path.name, "start_pool_process" in text and "initializer" in text))
    assert {name for name, _ in found} == {"synthetic.py", "compare_losses.py", "data.py"}
    assert all(ending for _, ending in found)


def test_a_number_of_processes():
    assert [worker_module.check_num_processes("n", number) for number in (None, 1, 64)] == [1, 1, 64]
    for number in (0, -3, 10**9, 1.5, True):
        with pytest.raises(ValueError, match="^expected n to be a whole number from 1 to"):
            worker_module.check_num_processes("n", number)
