"""CSV files, as text: pyarrow cuts them into values, and what it would mend without a word is refused here."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.csv

from airtight.errors import TerminalError
from components.data.sources.source import LEAVE_OUT, ReadReport, Rows, Source
from components.data.sources.watched_file import watched

BLOCK = 4 << 20
"""Bytes that are parsed at a time; a row must fit."""
SAMPLE = 1 << 20
"""Bytes of the beginning from which a file's form is guessed."""
DELIMITERS = ",;\t|"
csv.field_size_limit(BLOCK)  # Python's own limit, 128 KiB, is less than a text may have.
_ROWS = 100


def read(source: Source, report: ReadReport) -> Iterator[Rows]:
    """Yields the rows of CSV files; all values are strings, missing ones null.

    Raises:
      TerminalError: A file is empty, in another encoding, has quotes within quotes or a row of another length.
      TransientError: It changes meanwhile.
    """
    first: list[str] | None = None
    for path in source.files():
        names = list(source.header) or header(path, source)
        if first is not None and names != first:
            raise source.error(
                f"{path.name} has another header than the file before it.",
                expected=", ".join(first),
                received=", ".join(names),
                remedy="Give all files the same header.",
            )
        first = names
        yield from _read_file(path, names, source, report)


def header(path: Path, source: Source) -> list[str]:
    """The names in the first line.

    Raises:
      TerminalError: There is none, or a name is empty or there twice.
    """
    with watched(path) as file:
        line = _Text(file, path, source).sample(SAMPLE)
    names = next(iter(csv.reader(io.StringIO(line), delimiter=source.delimiter)), [])
    names = [name.strip() for name in names]
    if not any(names):
        raise source.error(
            f"{path.name} is empty.",
            expected="a header and rows",
            received=f"{path.stat().st_size} bytes",
            remedy="Name a file with data.",
        )
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled or "" in names:
        raise source.error(
            f"The header of {path.name} is none.",
            expected="a name for each column, each another",
            received=[f"{name} twice" for name in doubled if name] or f"column {names.index('') + 1} without a name",
            remedy="Correct the first line, or name the columns of a file without header: HEADER=a,b,c.",
        )
    return names


def _read_file(path: Path, names: list[str], source: Source, report: ReadReport) -> Iterator[Rows]:
    skipped: list[pa.csv.InvalidRow] = []

    def ragged(row: pa.csv.InvalidRow) -> str:
        skipped.append(row)
        return "skip" if source.lenient else "error"

    place = 1 if source.header else 2
    with watched(path) as file:
        text = _Text(file, path, source)
        try:
            reader = pa.csv.open_csv(
                pa.PythonFile(text, "r"),
                read_options=pa.csv.ReadOptions(
                    use_threads=False,
                    block_size=BLOCK,
                    column_names=names,
                    # Unlike skip_rows it knows of line breaks within quotes.
                    skip_rows_after_names=0 if source.header else 1,
                ),
                parse_options=pa.csv.ParseOptions(
                    delimiter=source.delimiter, newlines_in_values=True, invalid_row_handler=ragged
                ),
                convert_options=pa.csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    null_values=list(source.missing),
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=True,
                ),
            )
            for batch in reader:
                # Blocks are parsed ahead: rows that are skipped may be later ones than these.
                between = [row.number for row in skipped if row.number >= place]
                places = np.setdiff1d(np.arange(place, place + batch.num_rows + len(between)), between)
                if batch.num_rows:
                    yield Rows(batch, place, path.name, places[: batch.num_rows])
                    place = int(places[batch.num_rows - 1]) + 1
        except pa.ArrowInvalid as error:
            # Of a header alone whoever wants rows says so. A row of another length is no error where it is left out.
            if "Empty CSV" not in str(error) and (source.lenient or not skipped):
                raise source.error(
                    f"{path.name} cannot be parsed.",
                    expected=f"rows of {len(names)} values, each row shorter than {BLOCK >> 20} MiB",
                    received=str(error).splitlines()[0],
                    remedy="Look for a quote that is never closed, or a line that is none.",
                ) from error
        for row in skipped:
            report.reject(_ragged(row, names, path, source))


def _ragged(row: pa.csv.InvalidRow, names: list[str], path: Path, source: Source) -> TerminalError:
    number = f"Row {row.number}" if row.number is not None else "A row"
    near = [d for d in DELIMITERS if d != source.delimiter and d in row.text]
    return source.error(
        f"{number} of {path.name} has {row.actual_columns} values, not {row.expected_columns}.",
        expected=", ".join(names),
        received=row.text[:200],
        remedy=""
        if not near
        else f"Correct the row, or name the right delimiter (DELIMITER={near[0]!r}), or {LEAVE_OUT}",
    )


class _Text(io.RawIOBase):
    """A file's text as UTF-8, checked on the way: its encoding, and that quotes within quotes are doubled."""

    def __init__(self, file: IO[bytes], path: Path, source: Source) -> None:
        self._file, self._path, self._source = file, path, source
        self._decoder = codecs.getincrementaldecoder("utf-8-sig" if _is_utf8(source.encoding) else source.encoding)()
        inside = re.escape(source.delimiter)
        self._stray = re.compile(rf'[^{inside}\r\n"](?:"")*"[^{inside}\r\n"]')
        self._lines, self._quotes, self._last = 1, 0, source.delimiter
        self._ready = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._ready:
            raw = self._file.read(BLOCK)
            self._ready = self._decode(raw).encode()
            if not raw:
                break
        size = len(self._ready) if size < 0 else size
        part, self._ready = self._ready[:size], self._ready[size:]
        return part

    def sample(self, size: int) -> str:
        """The text of the first bytes."""
        return self._decode(self._file.read(size), final=False)

    def _decode(self, raw: bytes, final: bool | None = None) -> str:
        try:
            text = self._decoder.decode(raw, final=not raw if final is None else final)
        except UnicodeDecodeError as error:
            line = self._lines + raw[: error.start].count(b"\n")
            raise self._source.error(
                f"Line {line} of {self._path.name} is not in {self._source.encoding}.",
                expected=f"text in {self._source.encoding}",
                received=f"{error.object[max(0, error.start - 20) : error.start + 20]!r}",
                remedy="Name the file's encoding: ENCODING=cp1252, say.",
            ) from error
        if '"' in text or (not raw and self._quotes % 2):
            self._check_quotes(text, at_end=not raw)
        self._lines += text.count("\n")
        self._last = (self._last + text)[-2:]
        return text

    def _check_quotes(self, text: str, *, at_end: bool) -> None:
        self._quotes += text.count('"')
        if stray := self._stray.search(self._last + text):
            line = self._lines + text[: max(0, stray.start())].count("\n")
            raise self._source.error(
                f"Line {line} of {self._path.name} has a quote within a value that is not doubled.",
                expected='"a ""quoted"" word"',
                received=text[max(0, stray.start() - 40) : stray.end() + 40].strip(),
                remedy="Double the quotes within values, as spreadsheets write them.",
            )
        if at_end and self._quotes % 2:
            raise self._source.error(
                f"A quote of {self._path.name} is never closed.",
                expected="an even number of quotes",
                received=f"{self._quotes:,}",
                remedy=f"Find it: grep -n '\"' {self._path.name}; it may be in a value that needs it doubled.",
            )


def guess_form(path: Path, encoding: str = "") -> tuple[str, str]:
    """The encoding and the delimiter of a file, from its beginning.

    Args:
      path: The file.
      encoding: Where it is known.

    Returns:
      Encoding and delimiter.

    Raises:
      TerminalError: The encoding cannot be guessed.
    """
    with watched(path) as file:
        raw = file.read(SAMPLE)
    encoding = encoding or guess_encoding(raw)
    lines = raw.decode(encoding, errors="ignore").splitlines(keepends=True)
    whole = lines[: _ROWS + 1] if len(lines) > 1 else lines
    if len(raw) == SAMPLE:
        whole = whole[: len(lines) - 1]
    widths = {}
    for delimiter in DELIMITERS:
        counted = [len(row) for row in csv.reader(whole, delimiter=delimiter) if row]
        if counted and counted[0] > 1:
            widths[delimiter] = (sum(width == counted[0] for width in counted) / len(counted), counted[0])
    best = max(widths, key=lambda d: widths[d], default=",")
    return encoding, best


def guess_encoding(raw: bytes) -> str:
    """The encoding of a text's beginning.

    Raises:
      TerminalError: It may be several, which do not come to the same text.
    """
    from charset_normalizer import from_bytes

    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    with contextlib.suppress(UnicodeDecodeError):
        codecs.getincrementaldecoder("utf-8")().decode(raw)
        return "utf-8"
    likely = from_bytes(raw)
    if (best := likely.best()) is not None:
        if str(best) == raw.decode("cp1252", errors="replace"):
            return "cp1252"
        if len({str(match) for match in likely}) == 1:
            return best.encoding.replace("_", "-")
    raise TerminalError(
        "The file's encoding cannot be guessed.",
        expected="text in UTF-8, or the name of its encoding",
        received=f"bytes that may be {', '.join(match.encoding for match in likely) or 'nothing known'}",
        remedy="Say it: ENCODING=cp1252, say.",
    )


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
