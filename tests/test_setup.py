"""What ``make`` says and does before it has a ``.venv``: ``.ci/setup`` with a Python of straw."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).parent.parent / ".ci/setup"
TOOLS = ["sh", "dirname", "mktemp", "rm", "cp", "mkdir", "touch", "tail", "grep", "find", "cat"]
TOOLS += ["basename", "env"]
PYTHON = (
    f"""#!/bin/sh
real={shlex.quote(sys.executable)}
"""
    + r"""
case "$*" in
  *version_info*) "$real" -c "import sys
sys.version_info = tuple(map(int, '${OLD:-3.11.0}'.split('.')))
$2" ;;
  --version) echo "Python ${OLD:-3.11.0}" ;;
  *ensurepip*) [ -z "${NO_VENV:-}" ] ;;
  "-m venv .venv") mkdir .venv/bin; cp "$0" .venv/bin/python; [ -z "${KILLED:-}" ] || exit 130 ;;
  *"pip install"*) echo "$*" >>installed; printf '%s' "${FAULT:-}"; [ -z "${FAULT:-}" ] ;;
  *remedy*) echo "${REMEDY:-}" ;;
  *mipo_cli*) [ -z "${MOVED:-}" ] ;;
esac
"""
)
APT = """#!/bin/sh
echo "debconf: a page of warnings"
echo "$*" >>apt
"""
FIRST = "Setting up .venv: Python, mipo-mlx and what it needs."
PACKAGES = "Installing packages: some hundred megabytes, a minute or two."


class House:
    """A checkout with a space in its path and a PATH that holds nothing else."""

    def __init__(self, folder: Path) -> None:
        self.tree, self.bin = folder / "my tree", folder / "bin"
        (self.tree / ".ci").mkdir(parents=True)
        self.bin.mkdir()
        shutil.copy(SETUP, self.tree / ".ci")
        (self.tree / "pyproject.toml").touch()
        for tool in TOOLS:
            path = shutil.which(tool)
            assert path
            (self.bin / tool).symlink_to(path)
        self.add("python3", PYTHON)
        self.add("id", "#!/bin/sh\necho ${USER_ID:-1000}\n")

    def add(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text, encoding="utf-8")
        (self.bin / name).chmod(0o755)

    def setup(self, *words: str, **variables: str) -> tuple[int, list[str]]:
        """Exit code and lines printed."""
        done = subprocess.run(
            [self.bin / "sh", self.tree / ".ci/setup", *words],
            env={"PATH": str(self.bin), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout.splitlines()

    def written(self, name: str) -> list[str]:
        path = self.tree / name
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_the_second_time_is_silent_until_pyproject_changes(house: House) -> None:
    assert house.setup() == (0, [FIRST, PACKAGES])
    assert house.setup() == (0, [])
    assert house.setup("dev") == (0, [FIRST, PACKAGES])
    assert [line.split()[-1] for line in house.written("installed")] == [".", ".[dev]"]
    later = (house.tree / ".venv/.dev").stat().st_mtime + 10
    os.utime(house.tree / "pyproject.toml", (later, later))
    assert house.setup("dev")[1] == [FIRST, PACKAGES]


@pytest.mark.parametrize("found", ["3.9.6", "3.10.12"])
def test_an_old_python_is_named(house: House, found: str) -> None:
    code, lines = house.setup(OLD=found)
    assert code == 1 and lines[0] == FIRST
    assert f"Python 3.11 or newer is needed (found: Python {found})." in lines[1]
    assert not (house.tree / ".venv").exists()


def test_a_newer_python_beside_the_old_one_is_taken(house: House) -> None:
    house.add("python3", "#!/bin/sh\nexit 1\n")
    house.add("python3.12", PYTHON)
    assert house.setup() == (0, [FIRST, PACKAGES])


@pytest.mark.parametrize("root", [False, True])
def test_debian_without_venv(house: House, root: bool) -> None:
    house.add("apt-get", APT)
    code, lines = house.setup(NO_VENV="1", **({"USER_ID": "0"} if root else {}))
    if root:
        assert lines == [
            FIRST,
            "Installing python3-venv with apt-get: .venv is made with it.",
            PACKAGES,
        ]
        assert house.written("apt") == ["-y --no-install-recommends install python3-venv"]
    else:
        assert lines[1].endswith("On Debian or Ubuntu: apt install python3-venv")
    assert code == (0 if root else 1)


@pytest.mark.parametrize("rights", ["root", "sudo", "password", "no sudo"])
def test_missing_openblas_is_installed_or_named(house: House, rights: str) -> None:
    house.add("apt-get", APT)
    if rights in ("sudo", "password"):
        house.add("sudo", '#!/bin/sh\nshift\n[ -z "${PASSWORD:-}" ] && "$@"\n')
    variables = {"root": {"USER_ID": "0"}, "password": {"PASSWORD": "1"}}.get(rights, {})
    remedy = "apt install libopenblas0-pthread"
    code, lines = house.setup(REMEDY=remedy, **variables)
    assert code == 0 and lines[:2] == [FIRST, PACKAGES] and len(lines) == 3
    if rights in ("root", "sudo"):
        assert lines[2].startswith("Installing libopenblas0-pthread with apt-get: ")
        assert house.written("apt") == ["-y --no-install-recommends install libopenblas0-pthread"]
    else:
        assert lines[2].startswith("OpenBLAS is missing: ") and lines[2].endswith(remedy)
        assert house.written("apt") == []


def test_lists_are_fetched_only_where_the_package_is_unknown(house: House) -> None:
    house.add("apt-get", APT + 'case "$*" in *update*) : >lists ;; *) [ -e lists ] ;; esac\n')
    assert house.setup(REMEDY="apt install some-blas", USER_ID="0")[0] == 0
    words = [line.split()[2] for line in house.written("apt")]
    assert words == ["install", "update", "install"]


def test_another_system_is_told_its_own_command(house: House) -> None:
    code, lines = house.setup(REMEDY="dnf install openblas-threads", USER_ID="0")
    assert code == 0 and lines[2].endswith("dnf install openblas-threads")


def test_a_failing_apt_is_shown_and_the_work_goes_on(house: House) -> None:
    house.add("apt-get", APT + 'echo "E: dpkg was interrupted" >&2\nexit 100\n')
    code, lines = house.setup(REMEDY="apt install some-blas", USER_ID="0")
    assert code == 0 and "E: dpkg was interrupted" in lines
    assert lines[-1].endswith("apt install some-blas")
    assert house.setup() == (0, [])


def test_without_a_network_a_line_says_so(house: House) -> None:
    fault = "WARNING: Retrying: NewConnectionError: Temporary failure in name resolution\n" * 30
    code, lines = house.setup(FAULT=fault)
    assert code == 1
    assert lines[:3] == [FIRST, PACKAGES, "The network cannot be reached."]
    assert lines[3].startswith("The packages could not be installed.") and len(lines) == 4


def test_another_fault_is_shown(house: House) -> None:
    code, lines = house.setup(FAULT="ERROR: no space left\n")
    assert code == 1 and "ERROR: no space left" in lines


@pytest.mark.parametrize("how", ["KILLED", "FAULT"])
def test_what_was_cut_short_is_made_again(house: House, how: str) -> None:
    assert house.setup(**{how: "killed"})[0] == 1
    (house.tree / ".venv/half").touch()
    code, lines = house.setup()
    again = "The .venv that is here is unfinished or broken: making it again."
    assert (code, lines) == (0, [FIRST, again, PACKAGES])
    assert not (house.tree / ".venv/half").exists()


def test_a_failed_change_leaves_what_worked(house: House) -> None:
    assert house.setup()[0] == 0
    assert house.setup("dev", FAULT="no network")[0] == 1
    assert house.setup() == (0, [])
    assert house.setup("dev") == (0, [FIRST, PACKAGES])


def test_a_moved_checkout_gets_a_new_venv_and_a_users_own_is_kept(house: House) -> None:
    assert house.setup()[0] == 0
    (house.tree / ".venv/theirs").touch()
    assert house.setup("dev")[0] == 0 and (house.tree / ".venv/theirs").exists()
    assert house.setup("dev", MOVED="1")[0] == 0 and not (house.tree / ".venv/theirs").exists()
    (house.tree / ".venv/.installed").unlink()
    (house.tree / ".venv/.dev").unlink()
    (house.tree / ".venv/theirs").touch()
    assert house.setup(MOVED="1")[0] == 0 and (house.tree / ".venv/theirs").exists()
