"""Fetch what is published: files with pooch (retried, checked, whole or not at all), PyPI packages with pip."""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pooch
from requests.exceptions import RequestException

from bench.errors import UserError

RETRIES = 3
SECONDS_TO_ANSWER = 30


@dataclass(frozen=True)
class Download:
    """One thing to fetch: the file at `url`, or a PyPI `package`.

    `checksum` is the published one, `md5:…` or `sha256:…`; a package has that of its wheel. Without it the content is
    checked only.
    """

    url: str | None = None
    package: str | None = None
    file: str | None = None
    checksum: str | None = None


def fetch(downloads: list[Download], folder: Path, *, content_is_checked: bool = False) -> None:
    """Fetch what is not there yet. Raises UserError, and leaves no partial file.

    What anybody on the way could alter (plain http) is fetched only if it has a checksum, or `content_is_checked`.
    """
    for download in downloads:
        if download.package is not None:
            _fetch_package(download, folder)
        elif download.url is not None:
            if not (download.url.startswith("https://") or download.checksum or content_is_checked):
                raise UserError(f"{download.url} is plain http and has no checksum: it is not fetched")
            _fetch_file(download.url, download.file or download.url.rsplit("/", 1)[-1], download.checksum, folder)


def _fetch_file(url: str, name: str, checksum: str | None, folder: Path) -> None:
    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=SECONDS_TO_ANSWER, chunk_size=1 << 20)
    fetcher = pooch.create(
        path=folder, base_url="", registry={name: checksum}, urls={name: url}, retry_if_failed=RETRIES
    )
    try:
        fetcher.fetch(name, downloader=downloader)
    except (RequestException, ValueError, OSError) as error:
        raise UserError(f"cannot fetch {url} ({_reason(error)})") from None


def _fetch_package(download: Download, folder: Path) -> None:
    """Fetch a wheel of this hash: the running interpreter's pip knows where from, and runs no code of it."""
    package = download.package
    if download.checksum is None:
        raise UserError(f"package {package} has no checksum: it is not fetched")
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "--require-hashes", "--dest", str(folder)]
    with tempfile.TemporaryDirectory() as made:
        wanted = Path(made) / "requirements.txt"
        wanted.write_text(f"{package} --hash={download.checksum}\n", encoding="utf-8")
        done = subprocess.run(
            [*command, "--requirement", str(wanted)],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"cannot fetch the package {package} ({reason})")


def _reason(error: Exception) -> str:
    """The innermost reason, in a few words: messages of the network are long."""
    inner: BaseException = error
    while (deeper := inner.__cause__ or inner.__context__) is not None:
        inner = deeper
    return f"{type(error).__name__}: {str(inner)[:200]}"
