"""Read the size of the frames that an AVIF file codes, without decoding them.

The size that a file states in its container (`ispe`) may differ from that of its AV1 frames. libavif decodes
the frames whatever their size, up to 268 million pixels, and scales the result.

Container: ISO/IEC 14496-12 and 23008-12. Frames: AV1 bitstream specification, 5.3 to 5.5.
"""

import struct
from collections.abc import Iterator

_Boxes = Iterator[tuple[bytes, memoryview]]

_CONTAINERS = {b"trak", b"mdia", b"minf"}
_SEQUENCE_HEADER = 1  # type of an OBU
_MAX_BOXES = 10_000


def coded_pixels(content: bytes) -> int:
    """Return the most pixels that a frame of an AVIF file can have.

    Raises `ValueError` if the file has no frame, or cannot be read.
    """
    try:
        sizes = [size for data in _frames(memoryview(content)) for size in _frame_sizes(data)]
    except (struct.error, IndexError, KeyError) as error:
        raise ValueError("the boxes are damaged") from error
    if not sizes:
        raise ValueError("there is no AV1 sequence header")
    return max(width * height for width, height in sizes)


def _frames(file: memoryview) -> Iterator[memoryview]:
    """Yield the data of each AV1 item, and of the first frame of each track."""
    for name, box in _boxes(file):
        if name == b"meta":
            yield from _items(file, dict(_boxes(box[4:])))
        elif name == b"moov":
            yield from (file[offset : offset + size] for offset, size in _first_samples(box))


def _boxes(data: memoryview) -> _Boxes:
    """Yield name and content of each box."""
    at = 0
    for _ in range(_MAX_BOXES):
        if at + 8 > len(data):
            return
        size, name = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        end = len(data) if size == 0 else at + size
        if end < at + head:
            raise ValueError("a box is shorter than its header")
        yield name, data[at + head : end]
        at = end
    raise ValueError("there are too many boxes")


def _first_samples(box: memoryview, depth: int = 0) -> Iterator[tuple[int, int]]:
    """Yield offset and size of the first sample of each track."""
    for name, content in _boxes(box):
        if name == b"stbl":
            tables = dict(_boxes(content))
            sizes = struct.unpack_from(">4xIII" if len(tables[b"stsz"]) > 12 else ">4xII", tables[b"stsz"])
            if b"stco" in tables:
                (offset,) = struct.unpack_from(">8xI", tables[b"stco"])
            else:
                (offset,) = struct.unpack_from(">8xQ", tables[b"co64"])
            yield offset, sizes[0] or sizes[2]
        elif name in _CONTAINERS and depth < len(_CONTAINERS):
            yield from _first_samples(content, depth + 1)


def _items(file: memoryview, meta: dict[bytes, memoryview]) -> Iterator[memoryview]:
    """Yield the data of each item of the type `av01`."""
    coded = set(_av1_items(meta.get(b"iinf", memoryview(b""))))
    for item, places in _locations(meta.get(b"iloc", memoryview(b""))):
        if item in coded:
            sources = {0: file, 1: meta.get(b"idat", memoryview(b""))}
            parts = []
            for method, offset, length in places:
                if method not in sources:
                    raise ValueError("an item is constructed from other items")
                source = sources[method]
                parts.append(source[offset : offset + length if length else len(source)])
            yield parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


def _av1_items(iinf: memoryview) -> Iterator[int]:
    if not iinf:
        return
    for name, entry in _boxes(iinf[6 if iinf[0] == 0 else 8 :]):
        if name == b"infe" and entry[0] >= 2:
            item, _, kind = struct.unpack_from(">HH4s" if entry[0] == 2 else ">IH4s", entry, 4)
            if kind == b"av01":
                yield item


def _locations(iloc: memoryview) -> Iterator[tuple[int, list[tuple[int, int, int]]]]:
    """Yield each item, and the construction method, offset and length of its extents."""
    if not iloc:
        return
    version = iloc[0]
    offset_size, length_size, base_size = iloc[4] >> 4, iloc[4] & 15, iloc[5] >> 4
    index_size = iloc[5] & 15 if version in (1, 2) else 0
    at = 6

    def number(size: int) -> int:
        nonlocal at
        if at + size > len(iloc):
            raise ValueError("iloc is cut short")
        at += size
        return int.from_bytes(iloc[at - size : at])

    for _ in range(number(4 if version == 2 else 2)):
        item = number(4 if version == 2 else 2)
        method = number(2) & 15 if version in (1, 2) else 0
        number(2)  # data reference
        base = number(base_size)
        places = []
        for _ in range(number(2)):
            number(index_size)
            offset = number(offset_size)
            places.append((method, base + offset, number(length_size)))
        yield item, places


def _frame_sizes(data: memoryview) -> Iterator[tuple[int, int]]:
    """Yield the largest frame size of each sequence header in a series of OBUs."""
    at = 0
    while at < len(data):
        head = data[at]
        at += 2 if head & 4 else 1
        if head & 2:
            size, at = _leb128(data, at)
        else:
            size = len(data) - at
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            yield _max_frame_size(_Bits(data[at : at + size]))
        at += size


def _leb128(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place in range(8):
        value |= (data[at + place] & 127) << (7 * place)
        if not data[at + place] & 128:
            return value, at + place + 1
    raise ValueError("the size of an OBU does not end")


class _Bits:
    """Read numbers of so many bits, most significant first."""

    def __init__(self, data: memoryview) -> None:
        self._left = 8 * min(len(data), 1024)
        self._value = int.from_bytes(data[:1024])

    def read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("a sequence header is cut short")
        return self._value >> self._left & ((1 << count) - 1)


def _max_frame_size(bits: _Bits) -> tuple[int, int]:
    bits.read(3 + 1)  # profile, whether it has one frame
    if bits.read(1):  # reduced header
        bits.read(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    return bits.read(width_bits) + 1, bits.read(height_bits) + 1


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = 0
    if bits.read(1):  # timing
        bits.read(32 + 32)
        if bits.read(1):  # equal intervals
            zeros = 0
            while not bits.read(1):
                zeros += 1
            bits.read(zeros if zeros < 32 else 0)
        if bits.read(1):  # decoder model
            delay_bits = bits.read(5) + 1
            bits.read(32 + 5 + 5)
    has_display_delay = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:  # level
            bits.read(1)
        if delay_bits and bits.read(1):
            bits.read(2 * delay_bits + 1)
        if has_display_delay and bits.read(1):
            bits.read(4)
