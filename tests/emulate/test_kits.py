from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from edgecompile.emulate import downloads, kits, llama, tools
from edgecompile.emulate.downloads import Download, fetch, unpack
from edgecompile.emulate.kits import KITS, kit_of
from edgecompile.emulate.levels import LEVELS
from edgecompile.emulate.sysroot import Processor, write_sysroot
from edgecompile.errors import BadInputError, MissingLibraryError, UnsupportedError
from edgecompile.runtime.engine import open_engine

# What qemu 7.2's cortex-a76 says: AT_HWCAP, AT_HWCAP2, MIDR_EL1.
A76 = "119ffb 0 414fd0b1"


def test_a_level_without_sme_is_called_by_its_processor() -> None:
    assert LEVELS["arm64-max"].cpu == "max,sme=off"
    assert LEVELS["arm64-max"].model == "max"
    assert LEVELS["arm64-a53"].model == "cortex-a53"


def test_features_are_named_as_linux_names_them() -> None:
    features = Processor.parse(A76).features
    assert {"asimddp", "asimdhp", "atomics"} <= set(features)
    assert not {"i8mm", "bf16", "sve"} & set(features)


def test_cpuinfo_has_the_part_by_which_engines_know_a_processor() -> None:
    text = Processor.parse(A76).cpuinfo(2)
    assert text.count("processor\t:") == 2
    assert "CPU implementer\t: 0x41\n" in text
    assert "CPU part\t: 0xd0b\n" in text
    assert "CPU variant\t: 0x4\n" in text


def test_a_sysroot_is_a_link_to_the_c_library_and_a_cpuinfo(tmp_path: Path) -> None:
    (tmp_path / "libc").mkdir()
    (tmp_path / "root").mkdir()
    write_sysroot(tmp_path / "root", tmp_path / "libc", Processor.parse(A76))
    assert (tmp_path / "root" / "lib").resolve() == tmp_path / "libc"
    assert "asimddp" in (tmp_path / "root" / "proc" / "cpuinfo").read_text()


@pytest.mark.parametrize("engine", KITS)
def test_every_download_of_a_kit_is_pinned(engine: str) -> None:
    for download in KITS[engine].downloads:
        assert len(bytes.fromhex(download.sha256)) == 32
        assert download.version in download.file
        assert download.command(Path("to"))[-1].endswith(download.version) or (
            f"{download.name}@{download.version}" in download.command(Path("to"))
        )


def test_a_wheel_is_asked_for_by_its_platform_and_never_compiled() -> None:
    command = KITS["onnxruntime"].downloads[0].command(Path("to"))
    assert "--only-binary=:all:" in command
    assert "manylinux_2_28_aarch64" in command
    assert "--no-deps" in command


def test_an_engine_without_a_kit_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(UnsupportedError, match=r"'null'.*onnxruntime"):
        kit_of("null")


def test_missing_tools_are_named_with_the_line_that_brings_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingLibraryError) as error:
        tools.find_tools()
    assert error.value.exit_code == 4
    assert "apt-get install qemu-user" in str(error.value)
    assert "apt-get install g++-aarch64-linux-gnu" in str(error.value)


def test_a_tool_that_fails_is_told_with_its_last_words() -> None:
    with pytest.raises(tools.EdgecompileError, match=r"status 3: out of luck"):
        tools.run(["sh", "-c", "echo out of luck >&2; exit 3"], "a tool")


def wheel(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("thing/lib.so", b"machine code")
    return file


def pinned(file: Path) -> Download:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Download("pip", "edgecompile-no-such-thing", "1.0", file.name, digest)


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("EDGECOMPILE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_file_that_was_brought_by_hand_is_taken(empty_cache: Path) -> None:
    file = wheel(downloads.folder())
    assert fetch(pinned(file), empty_cache) == file
    unpack(file, empty_cache / "out")
    assert (empty_cache / "out" / "thing" / "lib.so").read_bytes() == b"machine code"


def test_a_file_with_other_bytes_is_refused(empty_cache: Path) -> None:
    file = wheel(downloads.folder())
    wanted = pinned(file)
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(BadInputError, match=r"SHA-256 .*remove it"):
        fetch(wanted, empty_cache)


def test_without_a_network_the_message_says_where_a_file_can_be_put(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = pinned(wheel(empty_cache))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (empty_cache / "into").mkdir()
    with pytest.raises(MissingLibraryError) as error:
        fetch(wanted, empty_cache / "into")
    assert wanted.file in str(error.value)
    assert str(downloads.folder()) in str(error.value)


def test_a_kit_is_made_once(empty_cache: Path) -> None:
    file = wheel(downloads.folder())
    made: list[tuple[Path, ...]] = []

    def make(unpacked: tuple[Path, ...], out: Path) -> None:
        made.append(unpacked)
        (out / "lib").mkdir()

    kit = kits.Kit("thing", "1.0", (pinned(file),), make, ())
    assert kit.folder() == kit.folder()
    assert len(made) == 1
    assert not list(kit.folder().parent.glob("tmp*"))


def test_only_the_levels_variants_of_llama_cpp_are_compiled(tmp_path: Path) -> None:
    lists = tmp_path / "CMakeLists.txt"
    names = [*llama.VARIANTS, "armv9.2_1"]
    lines = [f"    ggml_add_cpu_backend_variant({name} DOTPROD)\n" for name in names]
    lists.write_text("".join(["if(x)\n", *lines, "endif()\n"]))
    llama.keep_variants(lists)
    assert lists.read_text() == "".join(["if(x)\n", *lines[:-1], "endif()\n"])


def test_a_llama_cpp_without_those_variants_is_refused(tmp_path: Path) -> None:
    lists = tmp_path / "CMakeLists.txt"
    lists.write_text("    ggml_add_cpu_backend_variant(armv9.2_1 SME)\n")
    with pytest.raises(BadInputError, match=r"no variants armv8\.0_1"):
        llama.keep_variants(lists)


def test_every_kit_is_of_an_engine_of_the_runtime() -> None:
    source = Path(open_engine.__code__.co_filename).read_text()
    assert all(f'"{engine}"' in source for engine in KITS)
