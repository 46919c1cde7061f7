"""Damage to the bytes of files: what copying, editing and bad disks do, and worse."""

from pathlib import Path

import numpy as np

__all__ = [
    "CHECKPOINT_FILES",
    "damaged_bytes",
    "damaged_checkpoint",
    "damaged_mrc",
    "damaged_star",
]

CHECKPOINT_FILES = (
    "state.npz", "reference1.mrc", "reference2.mrc", "half1.mrc", "half2.mrc", "mask.mrc",
    "sums.npz",
)  # fmt: skip

_WORDS = [
    b"loop_", b"data_", b"data_particles", b"data_optics", b"_rlnImageName", b"_", b"#", b"'",
    b'"', b"\x00", b"\xff\xfe", b"\r", b"\n", b"\t", b"nan", b"1e999", b"-1", b"", b"@", b"[",
    "\N{NO-BREAK SPACE}".encode(), b"1" * 400, b"A" * 12_000, b"\x1b[2J", b"../../..", b"/",
]  # fmt: skip
_NUMBERS = [0, 1, -1, 2, 3, 255, 65535, 2**31 - 1, -(2**31), 1 << 30, 24, 101, 1024, 7, 12]
_FLOATS = [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e38, 1e-38, 1e-45, 3e38]


def damaged_star(text: bytes, random: np.random.Generator) -> bytes:
    """Return a STAR file with one to four of its parts replaced, moved, repeated or cut out."""
    for _ in range(int(random.integers(1, 5))):
        a, b = sorted(random.integers(0, len(text) + 1, 2).tolist())
        match int(random.integers(7)):
            case 0:  # some bytes
                at = min(a, len(text) - 1) if text else 0
                text = text[:at] + random.bytes(int(random.integers(1, 9))) + text[at + 1 :]
            case 1:  # a word that means something
                word = _WORDS[int(random.integers(len(_WORDS)))]
                text = text[:a] + word + text[a + int(random.integers(3)) :]
            case 2:  # a line is gone, or comes twice, or elsewhere
                lines = text.split(b"\n")
                i, j = random.integers(0, len(lines), 2).tolist()
                line = lines.pop(i)
                lines[j:j] = [line] * int(random.integers(3))
                text = b"\n".join(lines)
            case 3:  # cut short
                text = text[:a]
            case 4:  # a value is another
                words = text.split(b" ")
                i = int(random.integers(len(words)))
                words[i] = _WORDS[int(random.integers(len(_WORDS)))]
                text = b" ".join(words)
            case 5:  # a piece is gone, or comes twice
                b = min(b, a + 200)
                text = text[:a] + text[a:b] * int(random.integers(3)) + text[b:]
            case 6:  # other line ends
                text = text.replace(b"\n", [b"\r\n", b"\r", b"\n\n"][int(random.integers(3))], 50)
    return text


def damaged_mrc(content: bytes, random: np.random.Generator) -> bytes:
    """Return an MRC file with one to four words of its header replaced, or of another length."""
    changed = bytearray(content)
    for _ in range(int(random.integers(1, 5))):
        word = 4 * int(random.integers(0, 56))
        match int(random.integers(6)):
            case 0:
                value = _NUMBERS[int(random.integers(len(_NUMBERS)))]
                changed[word : word + 4] = np.array(value, "<i8").astype("<i4").tobytes()
            case 1:
                value = _FLOATS[int(random.integers(len(_FLOATS)))]
                changed[word : word + 4] = np.array(value, "<f4").tobytes()
            case 2:
                changed[word : word + 4] = random.bytes(4)
            case 3:  # in the pixels
                at = int(random.integers(1024, max(1025, len(changed))))
                value = _FLOATS[int(random.integers(len(_FLOATS)))]
                changed[at : at + 4] = np.array(value, "<f4").tobytes()
            case 4:
                del changed[int(random.integers(len(changed) + 1)) :]
            case 5:
                changed += random.bytes(int(random.integers(1, 5000)))
        if not changed:
            break
    return bytes(changed)


def damaged_checkpoint(folder: Path, other: Path, random: np.random.Generator) -> str:
    """Damage one file of a checkpoint, as disks, copying and mistakes do; returns how.

    Parameters
    ----------
    folder, other
        Of the checkpoint, and of that of another iteration.
    """
    names = [name for name in CHECKPOINT_FILES if (folder / name).exists()]
    name = names[int(random.integers(len(names)))]
    path = folder / name
    content = bytearray(path.read_bytes())
    how = str(
        random.choice(["bits", "block", "cut", "grown", "emptied", "gone", "swapped", "older"])
    )
    match how:
        case "bits":
            for at in random.integers(0, len(content), int(random.integers(1, 9))).tolist():
                content[at] ^= 1 << int(random.integers(8))
        case "block":  # of a disk, which reads as nothing
            at = int(random.integers(len(content)))
            content[at : at + 512] = bytes(len(content[at : at + 512]))
        case "cut":
            del content[int(random.integers(len(content))) :]
        case "grown":
            content += random.bytes(int(random.integers(1, 5000)))
        case "emptied":
            content.clear()
        case "gone":
            path.unlink()
            return f"{name} {how}"
        case "swapped":
            second = folder / names[int(random.integers(len(names)))]
            path.write_bytes(second.read_bytes())
            second.write_bytes(content)
            return f"{name} {how} with {second.name}"
        case "older" if (other / name).exists():
            content[:] = (other / name).read_bytes()
    path.write_bytes(content)
    return f"{name} {how}"


def damaged_bytes(content: bytes, random: np.random.Generator) -> bytes:
    """Return binary content with one to four bytes, words or pieces changed, or another length."""
    changed = bytearray(content)
    for _ in range(int(random.integers(1, 5))):
        at = int(random.integers(0, max(1, len(changed))))
        match int(random.integers(6)):
            case 0 if changed:
                changed[at] = int(random.integers(256))
            case 1:
                changed[at : at + 4] = random.bytes(4)
            case 2:
                changed[at : at + 4] = np.array(2**31 - 1, "<u4").tobytes()
            case 3:
                del changed[at:]
            case 4:
                changed[at:at] = changed[at : at + int(random.integers(1, 60))]
            case 5:  # a digit or a letter of a header
                head = at % min(len(changed) or 1, 600)
                changed[head : head + 1] = b"0123456789,()'|<>fuSO"[int(random.integers(21)) :][:1]
    return bytes(changed)
