"""What make install puts beside the programs: manual pages, completion, pkg-config, systemd. All of it has to say what the
programs say."""

import fcntl
import json
import os
import re
import shutil
import subprocess

import pytest
from conftest import LIMIT_S, ROOT

PROGRAMS = {"tpview": 1, "tpview_perf": 1, "tpview_net_perf": 1, "tpviewd": 8}
COMMANDS = ["ls", "plan", "fetch", "verify", "publish", "retire", "leases", "doctor"]


@pytest.fixture(scope="module")
def stage(build, tmp_path_factory):
    """The root of an installation with PREFIX=/usr."""
    folder = tmp_path_factory.mktemp("stage")
    # One after the other where tests run in several processes: it may make what is not there yet in the build folder.
    with open(tmp_path_factory.getbasetemp().parent / "install.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(["make", "-C", str(ROOT), f"B={build}", f"DESTDIR={folder}", "PREFIX=/usr", "install"],
                              capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def run(build, *command: str, **environ: str) -> str:
    done = subprocess.run([str(build / "bin" / command[0]), *command[1:]], capture_output=True, text=True, timeout=LIMIT_S,
                          env={**os.environ, "LD_LIBRARY_PATH": str(build / "lib"), **environ})
    assert done.returncode == 0, done.stderr
    return done.stdout


def options_of(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


def page_of(stage, program: str) -> str:
    section = PROGRAMS[program]
    text = (stage / f"usr/share/man/man{section}/{program}.{section}").read_text()
    return text.replace(r"\-", "-").replace(r"\e", "\\").replace(r"\&", "")


@pytest.mark.parametrize("program", PROGRAMS)
def test_manual_pages_are_the_help_texts(stage, build, program):
    page = page_of(stage, program)
    for heading in ("NAME", "SYNOPSIS", "DESCRIPTION"):
        assert f".SH {heading}\n" in page
    help_texts = [run(build, program, "--help")]
    if program == "tpview":
        help_texts += [run(build, program, "help", command) for command in COMMANDS]
    flat = " ".join(page.split())
    for text in help_texts:
        assert options_of(text) <= options_of(page)
        for line in text.splitlines():
            words = line.removeprefix("Usage: ").split()
            if len(words) > 4 and not line.startswith(("  ", "Example")):
                assert " ".join(words) in flat, line
    if program in ("tpview", "tpviewd"):
        variables = set(re.findall(r"TPVIEW_\w+", run(build, program, "--help-env")))
        assert len(variables) > 5 and all(f".B {variable}\n" in page for variable in variables)


@pytest.mark.parametrize("program", PROGRAMS)
def test_manual_pages_can_be_set(stage, program):
    if not shutil.which("groff"):
        pytest.skip("groff is not installed")
    section = PROGRAMS[program]
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", str(stage / f"usr/share/man/man{section}/{program}.{section}")],
                          capture_output=True, text=True, timeout=LIMIT_S)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) > 25


@pytest.fixture
def complete(stage, build):
    """complete("tpview", "fetch", "--o"): what bash offers for the last word."""

    def offers(*words: str, folder=None) -> list[str]:
        script = f'. {stage}/usr/share/bash-completion/completions/{words[0]}\nCOMP_WORDS=("$@")\nCOMP_CWORD=$(($# - 1))\n' \
                 '_tpview\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
        done = subprocess.run(["bash", "-c", script, "bash", *words], capture_output=True, text=True, timeout=LIMIT_S, cwd=folder,
                              env={**os.environ, "PATH": f"{build / 'bin'}:{os.environ['PATH']}"})
        assert done.stderr == ""
        return done.stdout.split()

    return offers


def test_completion(complete, build, tmp_path):
    assert set(COMMANDS) <= set(complete("tpview", ""))
    assert complete("tpview", "fe") == ["fetch"]
    assert complete("tpview", "help", "le") == ["leases"]
    assert complete("tpview", "fetch", "--dead") == ["--deadline"]
    assert set(complete("tpview", "fetch", "--no-")) == {"--no-digests", "--no-fallback", "--no-sync"}
    for command in COMMANDS:
        assert set(complete("tpview", command, "--")) == options_of(run(build, "tpview", "help", command))
    for program in ("tpviewd", "tpview_perf", "tpview_net_perf"):
        assert set(complete(program, "--")) == options_of(run(build, program, "--help"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model.json").write_text("")
    assert set(complete("tpview", "plan", "--plan", "mo", folder=tmp_path)) == {"model", "model.json"}
    assert complete("tpview", "plan", "--checkpoint", "mo", folder=tmp_path) == ["model"]
    assert set(complete("tpview", "verify", "mo", folder=tmp_path)) == {"model", "model.json"}


def test_pkg_config(stage, build, tmp_path):
    if not shutil.which("pkg-config"):
        pytest.skip("pkg-config is not installed")
    found = subprocess.run(["pkg-config", "--cflags", "--libs", "tpview"], capture_output=True, text=True, check=True,
                           env={**os.environ, "PKG_CONFIG_PATH": str(stage / "usr/lib/pkgconfig"),
                                "PKG_CONFIG_SYSROOT_DIR": str(stage), "PKG_CONFIG_ALLOW_SYSTEM_CFLAGS": "1",
                                "PKG_CONFIG_ALLOW_SYSTEM_LIBS": "1"}).stdout.split()
    (tmp_path / "a.c").write_text('#include <stdio.h>\n#include <tpview/tpview.h>\n'
                                  'int main(void) { puts(tpv_version()); return 0; }\n')
    subprocess.run([os.environ.get("CC", "cc"), str(tmp_path / "a.c"), *found, "-o", str(tmp_path / "a")], check=True,
                   timeout=LIMIT_S)
    said = subprocess.run([str(tmp_path / "a")], env={**os.environ, "LD_LIBRARY_PATH": str(stage / "usr/lib")},
                          capture_output=True, text=True, check=True).stdout.strip()
    assert said == run(build, "tpview", "--version").split()[1]
    assert f"Version: {said}\n" in (stage / "usr/lib/pkgconfig/tpview.pc").read_text()


def test_systemd(stage, build):
    """The unit starts a program that is there with options that it has, as a user and in folders that come with it."""
    unit = (stage / "usr/lib/systemd/system/tpviewd.service").read_text()
    assert "@" not in re.sub(r"^#.*$", "", unit, flags=re.M)
    program, *arguments = re.search(r"^ExecStart=(.*)$", unit, re.M)[1].split()
    assert (stage / program.lstrip("/")).exists()
    assert {word for word in arguments if word.startswith("--")} <= options_of(run(build, "tpviewd", "--help"))
    user = re.search(r"^User=(\w+)$", unit, re.M)[1]
    assert f"\nu {user} " in (stage / "usr/lib/sysusers.d/tpview.conf").read_text()
    settings = re.search(r"^EnvironmentFile=(/\S+)/", unit, re.M)[1]
    assert f"\nd {settings} " in (stage / "usr/lib/tmpfiles.d/tpview.conf").read_text()
    if shutil.which("systemd-analyze"):
        text = re.sub(r"^(ExecStart=).*$", r"\1/bin/true", unit, flags=re.M).replace("man:tpviewd(8)", "")
        text = re.sub(r"^Documentation=.*\n", "", text, flags=re.M)
        (stage / "tpviewd.service").write_text(text)
        done = subprocess.run(["systemd-analyze", "verify", str(stage / "tpviewd.service")], capture_output=True, text=True,
                              timeout=LIMIT_S)
        assert "tpviewd.service" not in done.stderr, done.stderr


def test_the_library_that_is_installed_serves(stage, tiny, environ, sockets):
    """The installed programs by themselves, with the installed plugin."""
    environ = {**environ, "LD_LIBRARY_PATH": str(stage / "usr/lib")}
    address = sockets / "x.sock"
    service = subprocess.Popen([str(stage / "usr/bin/tpviewd"), f"m@1={tiny('qwen3')}", "--unix", str(address)], env=environ,
                               stdout=subprocess.PIPE, text=True)
    try:
        assert service.stdout.readline().startswith("tpviewd: ready")
        done = subprocess.run([str(stage / "usr/bin/tpview"), "fetch", "--source", f"unix:{address}", "--artifact", "m",
                               "--tp-size", "2", "--tp-rank", "0", "--null", "--json"], env=environ, capture_output=True, text=True,
                              timeout=LIMIT_S)
        assert done.returncode == 0 and json.loads(done.stdout)["artifact"] == "m@1", done.stderr
    finally:
        service.terminate()
        service.wait(LIMIT_S)
        service.stdout.close()
