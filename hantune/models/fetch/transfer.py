"""Bytes of files from a server or a folder: resumed after any kill, proved by their hashes, renamed when whole.

What has come of ``NAME`` stands in ``NAME.part``, and whose bytes they are in ``NAME.part.json``. A file with a known
hash may be continued from any server: the hash at the end proves it. One without is continued only where ``If-Range``
holds (RFC 9110, 13.1.5). The CDN behind Hugging Face sends no ETag, others send one for each of their machines.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2

from hantune import __version__
from hantune.errors import HantuneError, MachineError, NetworkError, RefusedError
from hantune.log import console
from hantune.models.fetch.part import Part, Proof, RemoteFile
from hantune.models.fetch.retry import AGAIN, Again, Wrong, backoff, retry_after
from hantune.models.room import require_room
from hantune.paths import TEMPORARY, disk_errors, sync_folder

WORKERS = 4
"""Files that are fetched at once."""
TRIES = 6
"""Failures in a row without ``PROGRESS`` more bytes until we give up."""
PROGRESS = 1 << 20
LONGEST_WAIT = 120.0
"""Seconds: a server that asks for a longer pause is told to the user instead of waited for."""
REDIRECTS = 8
TIMEOUT = httpx2.Timeout(30.0, connect=10.0)
MEGA = 1_000_000
SPEED_SECONDS = 5.0


@dataclass(frozen=True)
class Token:
    """A secret and the only origin (``https://host``) that may see it."""

    origin: str
    value: str


class Stopped(Exception):
    """Another file failed, or the user wants no more."""


class RefusedByServer(Exception):
    """The server that was asked answered 401, 403, 404 or the like: ``status``, for ``file``."""

    def __init__(self, status: int, file: RemoteFile) -> None:
        super().__init__(f"{status} {file.path}")
        self.status = status
        self.file = file


def origin_of(url: httpx2.URL | str) -> str:
    """``https://host`` or ``http://host:port``."""
    url = httpx2.URL(url)
    return f"{url.scheme}://{url.netloc.decode()}"


def new_client(timeout: httpx2.Timeout = TIMEOUT) -> httpx2.Client:
    """A client that follows nothing by itself and asks for bytes as they lie on the server's disk."""
    headers = {"User-Agent": f"hantune/{__version__}", "Accept-Encoding": "identity"}
    return httpx2.Client(timeout=timeout, headers=headers, follow_redirects=False)


def transfer(
    files: Sequence[RemoteFile], folder: Path, *, token: Token | None = None, workers: int = WORKERS
) -> tuple[dict[str, Proof], int]:
    """(what each file is now, by path; bytes that were fetched). Files that are there already and right are kept.

    Raises: MachineError ``machine.no-room`` before the first byte, ``machine.disk-full``; NetworkError
        ``hub.broken-off``, ``hub.busy``, ``hub.wrong-bytes``; RefusedError ``hub.unsafe-name``; RefusedByServer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        _require_inside(folder, file.path)
    for place in sorted({(folder / file.path).parent for file in files}):
        for torn in place.glob(f"{TEMPORARY}*"):  # a note that was being written when the process was killed
            torn.unlink()
    proofs = _kept(files, folder)
    missing = sorted((file for file in files if file.path not in proofs), key=lambda file: -(file.size or 0))
    require_room(sum(max(0, (file.size or 0) - Part.waiting(file, folder)) for file in missing), folder)
    fetched = _run(missing, folder, token, workers, proofs) if missing else 0
    for place in sorted({(folder / file.path).parent for file in files}):
        sync_folder(place)
    return proofs, fetched


def _require_inside(folder: Path, name: str) -> None:
    """No link below ``folder`` may lead a file out of it."""
    if not (folder / name).parent.resolve().is_relative_to(folder.resolve()):
        raise RefusedError(
            "hub.unsafe-name",
            f"{name} 会写到文件夹外面: 中间有一个链接指向别处",
            place=str(folder),
            hint="换一个空的 --out 文件夹",
        )


def _kept(files: Sequence[RemoteFile], folder: Path) -> dict[str, Proof]:
    """Files that lie in ``folder`` already, as they should be."""
    there = [file for file in files if _fits(file, folder / file.path)]
    proofs: dict[str, Proof] = {}
    with _bar("核对", sum(file.size or 0 for file in there)) as bar:
        for file in there:
            proof = Proof.of(folder / file.path, git=bool(file.git_sha1), advance=bar.advance)
            if not proof.fault(file):
                proofs[file.path] = proof
    return proofs


def _fits(file: RemoteFile, target: Path) -> bool:
    return target.is_file() and file.size in (None, target.stat().st_size)


def _run(files: Sequence[RemoteFile], folder: Path, token: Token | None, workers: int, proofs: dict[str, Proof]) -> int:
    """Fetch ``files`` in threads, show how it goes, fill ``proofs``; the bytes that came."""
    news: queue.SimpleQueue[int | str | tuple[str, Proof] | BaseException] = queue.SimpleQueue()
    waiting = queue.SimpleQueue[RemoteFile]()
    for file in files:
        waiting.put(file)
    stop = threading.Event()
    total, done = sum(file.size or 0 for file in files), sum(Part.waiting(file, folder) for file in files)
    fetched, left = 0, len(files)
    with new_client() as client, _bar("下载", total, done) as bar:
        worker = _Worker(client, token, folder, news.put, stop)
        # Daemons: Ctrl-C must not wait for a silent server. Every byte that came is on disk already.
        count = min(workers, len(files))
        threads = [threading.Thread(target=worker.work, args=(waiting,), daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            while left:
                try:
                    item = news.get(timeout=1.0)  # without a timeout Windows holds Ctrl-C back
                except queue.Empty:
                    continue
                if isinstance(item, int):
                    bar.advance(item)
                    fetched += max(0, item)
                elif isinstance(item, str):
                    console.say(item)
                elif isinstance(item, tuple):
                    proofs[item[0]] = item[1]
                    left -= 1
                else:
                    raise item
        finally:
            stop.set()
            for thread in threads:
                thread.join(timeout=0.5)
    return fetched


class _Worker:
    """Fetches files one after another and tells what happens through ``tell``."""

    def __init__(
        self, client: httpx2.Client, token: Token | None, folder: Path, tell: Callable[..., None], stop: threading.Event
    ) -> None:
        self.client = client
        self.token = token
        self.folder = folder
        self.tell = tell
        self.stop = stop

    def work(self, waiting: queue.SimpleQueue[RemoteFile]) -> None:
        """All files that wait, until there are none or somebody says stop."""
        try:
            while not self.stop.is_set():
                file = waiting.get_nowait()
                with disk_errors(self.folder):
                    self.tell((file.path, self.fetch(file)))
        except (queue.Empty, Stopped):
            pass
        except MachineError as error:
            self.tell(_disk_full(error, self.folder) if error.code == "machine.disk-full" else error)
        except BaseException as error:
            self.tell(error)

    def fetch(self, file: RemoteFile) -> Proof:
        """One file, whole and proved, under its own name.

        Raises: NetworkError ``hub.broken-off``, ``hub.busy``, ``hub.wrong-bytes``; RefusedByServer.
        """
        failures, wrong, reached = 0, 0, 0
        with Part(file, self.folder, self.tell) as part:
            while True:
                try:
                    self._receive(part)
                    return part.move_in()
                except Wrong as error:
                    wrong += 1
                    part.restart()
                    if wrong == 2:
                        raise _wrong_bytes(file, str(error)) from error
                    self.tell(f"{file.path}: {error}, 从头再下一次")
                except Again as error:
                    failures = 1 if part.done >= reached + PROGRESS else failures + 1
                    reached = part.done
                    self._pause(error, failures, part)

    def _pause(self, error: Again, failures: int, part: Part) -> None:
        """Wait as long as the server asks or the number of failures tells.

        Raises: NetworkError ``hub.broken-off``, ``hub.busy``.
        """
        seconds = backoff(failures) if error.wait is None else error.wait
        if seconds > LONGEST_WAIT:
            raise NetworkError(
                "hub.busy",
                f"服务器限制了次数, 要等 {seconds:.0f} 秒",
                place=part.file.path,
                hint="过一会儿再运行同一条命令: 已经下载的都留着; 登录以后限制会松一些: hf auth login",
            )
        if failures > TRIES:
            raise NetworkError(
                "hub.broken-off",
                f"下载 {part.file.path} 断了 {failures} 次: {error}",
                place=origin_of(part.file.url),
                hint="检查网络后再运行同一条命令, 会从断的地方接着下",
            )
        if error.wait != 0:
            self.tell(f"{part.file.path}: {error}, {seconds:.0f} 秒后从 {_amount(part.done)} 处接着下")
            self.stop.wait(seconds)

    def _receive(self, part: Part) -> None:
        """Read until the file is whole.

        Raises: Again, Wrong, Stopped; RefusedByServer.
        """
        if self.stop.is_set():
            raise Stopped
        if part.is_whole:
            return
        if part.file.is_local:
            part.copy()
            return
        try:
            with self._answer(part) as response:
                skip = self._judge(response, part)
                for piece in response.iter_raw():
                    if self.stop.is_set():
                        raise Stopped
                    part.write(piece[skip:])
                    skip = max(0, skip - len(piece))
        except httpx2.TransportError as error:
            raise Again(_why(error)) from error
        if not part.is_whole:
            raise Again("连接断了")

    @contextlib.contextmanager
    def _answer(self, part: Part) -> Iterator[httpx2.Response]:
        """The answer at the end of all redirects; each host gets only what it may see."""
        url = httpx2.URL(part.file.url)
        for _ in range(REDIRECTS):
            origin = origin_of(url)
            headers = part.headers_for(origin)
            if self.token and self.token.origin == origin:
                headers["Authorization"] = f"Bearer {self.token.value}"
            with self.client.stream("GET", url, headers=headers) as response:
                part.learn(response.headers)
                if not response.has_redirect_location:
                    yield response
                    return
                url = response.url.join(response.headers["location"])
        raise Again("转来转去, 到不了文件那里")

    def _judge(self, response: httpx2.Response, part: Part) -> int:
        """How many bytes of the answer to skip: 0, or those that were there already.

        Raises: Again, Wrong; RefusedByServer.
        """
        status, headers = response.status_code, response.headers
        if status in (200, 206):
            if headers.get("content-encoding", "identity") != "identity":
                raise Wrong("服务器把文件又压缩了一遍")
            return part.accept(status, headers, origin_of(response.url))
        if status == 416:
            raise Wrong("服务器上的文件比已经下载的短")
        # A signed address of a CDN runs out: asking the first host again gives a new one.
        is_elsewhere = origin_of(response.url) != origin_of(part.file.url)
        if status in AGAIN or is_elsewhere:
            raise Again(f"服务器答 {status}", wait=retry_after(headers))
        raise RefusedByServer(status, part.file)


def _why(error: httpx2.TransportError) -> str:
    """A fault of the connection in words."""
    if isinstance(error, httpx2.TimeoutException):
        return "服务器不出声了"
    return "连不上服务器" if isinstance(error, httpx2.ConnectError) else "连接断了"


def _wrong_bytes(file: RemoteFile, why: str) -> HantuneError:
    return NetworkError(
        "hub.wrong-bytes",
        f"下载的 {file.path} 不对, 重下一次还是不对: {why}",
        place=origin_of(file.url) if not file.is_local else file.url,
        hint="换一个来源: --from modelscope, 或去掉镜像 (unset HF_ENDPOINT) 再试",
    )


def _disk_full(error: MachineError, folder: Path) -> MachineError:
    free = shutil.disk_usage(folder).free
    return MachineError(
        "machine.disk-full",
        f"下到一半磁盘满了, 只剩 {_amount(free)}; 已经下载的都留着",
        place=error.place,
        hint="腾出空间后再运行同一条命令, 会接着下",
    )


def _amount(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"


class _Meter:
    """Bytes on a progress bar that counts megabytes and shows the speed of the last seconds."""

    def __init__(self, bar: object, done: int) -> None:
        self._bar = bar
        self._done = self._since_bytes = done
        self._since = time.monotonic()
        self._speed = ""

    def advance(self, count: int) -> None:
        """``count`` more bytes (fewer than 0 when some must come again)."""
        before, self._done = self._done, self._done + count
        seconds = time.monotonic() - self._since
        if seconds >= SPEED_SECONDS or not self._speed:
            if seconds > 0.5:
                self._speed = f"{max(0, self._done - self._since_bytes) / seconds / MEGA:.1f} MB/s"
            if seconds >= SPEED_SECONDS:
                self._since, self._since_bytes = time.monotonic(), self._done
        self._bar.advance(self._done // MEGA - before // MEGA, self._speed)  # type: ignore[attr-defined]


@contextlib.contextmanager
def _bar(title: str, total: int, done: int = 0) -> Iterator[_Meter]:
    with console.progress(f"{title} (MB)", max(1, total // MEGA), done=done // MEGA) as bar:
        yield _Meter(bar, done)
