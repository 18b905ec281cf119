"""Machines on one Linux box, for root: each has its namespaces, its own sshd, home, /tmp and addresses.

What an image of a cloud would have is there already: this Python environment, as ~/venv, in a copy that the machine may
change. Nothing of a machine outlives `down`.
"""
from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

VENV = pathlib.Path(sys.prefix)
PROGRAMS = ("sshd", "ssh", "rsync", "ip", "unshare", "ssh-keygen")

INIT = r"""
set -e
mount --make-rprivate /
mount -t overlay overlay -o lowerdir=/,upperdir={home}/up,workdir={home}/work {home}/root
cd {home}/root
hostname {name}
mount -t proc proc proc; mount -t sysfs sysfs sys; mount --rbind /dev dev
mount -t tmpfs -o size=8g tmpfs dev/shm
mount -t tmpfs -o size=8g,mode=1777 tmpfs tmp
mkdir -p .{venv} {home}/venv-up {home}/venv-work
mount -t overlay overlay -o lowerdir={venv},upperdir={home}/venv-up,workdir={home}/venv-work .{venv}
mount -t tmpfs tmpfs run; mkdir -p run/sshd
printf '127.0.0.1 localhost\n{named} {name}\n' > etc/hosts
printf '[install]\nno-build-isolation = false\nno-index = true\n' > etc/pip.conf
chroot . id {user} > /dev/null 2>&1 || chroot . useradd -m -s /bin/bash {user}
chroot . usermod -p '*' {user}
mkdir -p home/{user}/.ssh
ln -sfn {venv} home/{user}/venv
cp {home}/authorized home/{user}/.ssh/authorized_keys
cp {home}/bashrc home/{user}/.bashrc
echo '. ~/.bashrc' > home/{user}/.profile
chmod o+rx root
chroot . chown -hR {user}: home/{user}
site=$(echo .{venv}/lib/python3*/site-packages)
chown --reference=home/{user} .{venv}/bin $site $site/__pycache__
find $site -maxdepth 1 -iname '*raycal*' -exec chown -R --reference=home/{user} '{{}}' +
chmod 700 home/{user}/.ssh
ssh-keygen -q -t ed25519 -N '' -f {home}/host_key
cp {home}/host_key etc/ssh/machine_key; chmod 600 etc/ssh/machine_key
exec chroot . {sshd} -D -e -f /dev/null -h /etc/ssh/machine_key -o UsePAM=no -o StrictModes=no -o PidFile=none \
  -o AuthorizedKeysFile=.ssh/authorized_keys
"""


TRIED = """
set -e
ip link add rctry type bridge
trap 'ip link del rctry' EXIT
mkdir {home}/up {home}/work {home}/root
unshare -m -p -u -i -n --fork mount -t overlay overlay -o lowerdir=/,upperdir={home}/up,workdir={home}/work {home}/root
"""


def lacking() -> str:
    """Return why no machine can be made here, "" where one can."""
    if os.geteuid():
        return "machines take root"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    with tempfile.TemporaryDirectory() as home:
        tried = subprocess.run(["sh", "-c", TRIED.format(home=home)], capture_output=True, text=True)
    return f"this machine lets none be made: {tried.stderr.strip()}" if tried.returncode else ""


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


class Machines:
    """Machines on one bridge; environment is what a shell of theirs has.

    named: the address that a machine's own name stands for, by default its private one, as in a cloud; the installers
    of Debian and Ubuntu write 127.0.1.1.
    """

    def __init__(self, folder: pathlib.Path, gateway: str, bridge: str, key: Callable[[], str], user: str = "ubuntu",
                 environment: dict[str, str] | None = None, named: str = ""):
        self._named = named
        self._folder, self._bridge, self._key, self._user = folder, bridge, key, user
        self._gateway, self._prefix = gateway.split("/")
        self._environment = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", **(environment or {})}
        self.up: dict[str, subprocess.Popen] = {}
        self._links: dict[str, str] = {}
        run("ip", "link", "add", bridge, "type", "bridge")
        run("ip", "addr", "add", gateway, "dev", bridge)
        run("ip", "link", "set", bridge, "up")

    def start(self, name: str, private: str, public: str = "") -> None:
        """Boot a machine and wait until one can log in."""
        home = self._folder / name
        for part in ("up", "work", "root"):
            (home / part).mkdir(parents=True)
        exports = "".join(f"export {key}={value}\n" for key, value in self._environment.items())
        (home / "bashrc").write_text(f"export PATH={VENV}/bin:$PATH\n{exports}")
        (home / "authorized").write_text(self._key())
        (home / "init.sh").write_text(INIT.format(home=home, name=name, venv=VENV, named=self._named or private,
                                                  user=self._user, sshd=shutil.which("sshd")))
        link = "v" + "".join(f"{int(part):02x}" for part in private.split("."))
        run("ip", "netns", "add", name)
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        self._links[name] = link
        run("ip", "link", "set", link, "master", self._bridge, "up")
        inside = ("ip", "-n", name)
        run(*inside, "addr", "add", f"{private}/{self._prefix}", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "route", "add", "default", "via", self._gateway)
        if public:
            run(*inside, "addr", "add", f"{public}/32", "dev", "eth0")
            run("ip", "route", "replace", f"{public}/32", "dev", self._bridge)
        with open(home / "log", "w") as log:
            self.up[name] = subprocess.Popen(
                ["ip", "netns", "exec", name, "unshare", "-m", "-p", "-u", "-i", "--fork", "--kill-child", "bash",
                 str(home / "init.sh")], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def stop(self, name: str) -> None:
        """End a machine as a cut cable and power would."""
        process = self.up.pop(name)
        process.kill()  # and with it the first process of its PID namespace, and all others
        process.wait()
        run("ip", "link", "del", self._links.pop(name))  # a namespace takes its end of it along, but later
        run("ip", "netns", "del", name)
        for _ in range(50):  # its mounts go with its last process
            shutil.rmtree(self._folder / name, ignore_errors=True)
            if not (self._folder / name).exists():
                break
            time.sleep(0.2)

    def end(self) -> None:
        for name in list(self.up):
            self.stop(name)
        run("ip", "link", "del", self._bridge)


class Cloud:
    """Boots a machine for every instance that an EC2 is asked for, and ends it with the instance."""

    def __init__(self, ec2, machines: Machines, say: Callable[[str], None]):
        self._ec2, self._machines, self._say = ec2, machines, say
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="cloud")
        self._thread.start()

    def live(self) -> dict[str, str]:
        """Return {instance: the node type Ray gave it} of those that run."""
        return {i.id: {t["Key"]: t["Value"] for t in i.tags or []}.get("ray-user-node-type", "")
                for i in self._instances()}

    def _instances(self) -> list:
        states = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
        return list(self._ec2.instances.filter(Filters=states))

    def _follow(self) -> None:
        while not self._ending.wait(1.0):
            live = {i.id[-8:]: i for i in self._instances()}
            for name, i in live.items():
                if name not in self._machines.up:
                    kind = {t["Key"]: t["Value"] for t in i.tags or []}.get("ray-user-node-type")
                    self._say(f"boots {name}, {i.instance_type} {i.instance_lifecycle or 'on demand'} ({kind})")
                    self._machines.start(name, i.private_ip_address, i.public_ip_address or "")
            for name in set(self._machines.up) - set(live):
                self._say(f"ends {name}")
                self._machines.stop(name)

    def end(self) -> None:
        self._ending.set()
        self._thread.join()
        self._machines.end()
