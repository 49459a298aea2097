"""What a run's files are told by."""

from __future__ import annotations

from pathlib import Path

from sdic_train.trainers.loops.sources import digest_of


def test_a_digest_follows_the_contents_of_files_lists_and_folders(tmp_path: Path) -> None:
    first, second = tmp_path / "first.pth", tmp_path / "second.pth"
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    both = Path(f"{first}, {second}".replace(", ", ","))
    before = digest_of(first), digest_of(both)
    assert None not in before and before[0] != before[1] and digest_of(Path(f"{second},{first}")) != before[1]
    second.write_bytes(b"three")
    assert digest_of(first) == before[0] and digest_of(both) != before[1]
    second.unlink()
    assert digest_of(both) is None and digest_of(second) is None


def test_a_folder_is_told_by_its_state_or_by_its_weights_and_directions(tmp_path: Path) -> None:
    (tmp_path / "smile.safetensors").write_bytes(b"smile")
    alone = digest_of(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing that is read")
    assert digest_of(tmp_path) == alone
    (tmp_path / "age.pt").write_bytes(b"age")
    assert digest_of(tmp_path) not in (alone, None)
    (tmp_path / "state.pt").write_bytes(b"state")
    run = digest_of(tmp_path)
    (tmp_path / "age.pt").write_bytes(b"another age")
    assert digest_of(tmp_path) == run != alone
