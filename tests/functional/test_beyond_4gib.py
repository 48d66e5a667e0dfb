"""Views longer than 4 GiB, for real: a mark behind the 4 GiB is where it belongs, sent from the file as it is and gathered
alike. The checkpoint is a hole but for the mark."""

import json
import os
import struct

import pytest
from outcomes import NEVER_S

ROWS, COLUMNS = 1088, 4 << 20  # 4.25 GiB of bytes
MARK_ROW, MARK_COLUMN, MARK = 1080, (4 << 20) - 5, b"mark"
CHUNK = 64 << 20


@pytest.fixture(scope="module")
def huge(tmp_path_factory):
    file = tmp_path_factory.mktemp("huge") / "huge.safetensors"
    entries = {"matrix": {"dtype": "U8", "shape": [ROWS, COLUMNS], "data_offsets": [0, ROWS * COLUMNS]}}
    header = json.dumps(entries).encode()
    with open(file, "wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + ROWS * COLUMNS)
        os.pwrite(stream.fileno(), MARK, 8 + len(header) + MARK_ROW * COLUMNS + MARK_COLUMN)
    yield file
    file.unlink()


def test_marks_are_where_they_belong(huge, start_toy_service, start_rank, control):
    """First the matrix as it is, sent from the file; then its last rows without their first columns, which have to be
    gathered, as no run of them is as long as a chunk."""
    last, skipped = 64, (1 << 20) + 1000
    view = {"format": "tpview-view-1", "outputs": [
        {"name": "whole", "dtype": "U8", "shape": [ROWS, COLUMNS],
         "pieces": [{"tensor": "matrix", "sizes": [ROWS, COLUMNS]}]},
        {"name": "corner", "dtype": "U8", "shape": [last, COLUMNS - skipped],
         "pieces": [{"tensor": "matrix", "sizes": [last, COLUMNS - skipped], "strides": [COLUMNS, 1],
                     "offset": (ROWS - last) * COLUMNS + skipped}]}]}
    whole = MARK_ROW * COLUMNS + MARK_COLUMN
    corner = ROWS * COLUMNS + (MARK_ROW - ROWS + last) * (COLUMNS - skipped) + MARK_COLUMN - skipped
    assert 1 << 32 < whole < corner

    service = start_toy_service(f"huge@1={huge}", "--budget", "512M")
    rank = start_rank(service, "huge", view=view, chunk=CHUNK, deadline_s=NEVER_S)
    zeros = bytes(CHUNK)
    found, begin = [], 0
    for chunk in rank.chunks():
        if chunk != zeros[:len(chunk)]:
            found.append((begin + chunk.index(MARK), len(chunk) - chunk.count(0)))
        begin += len(chunk)
    assert found == [(whole, len(MARK)), (corner, len(MARK))]
    status, answer = rank.outcome()
    assert (status, answer["bytes"]) == (200, ROWS * COLUMNS + last * (COLUMNS - skipped)), answer
    assert 0 < control(service).metric("bytes_gathered_total") < control(service).metric("bytes_direct_total")
