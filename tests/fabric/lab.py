"""The laboratory of tests/fabric/run: hosts that are a network and a mount namespace each, with FRR and QEMU."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

VNI = 100
# The folders of the programs (binaries), of the small guest with its kernel (guest, kernel), of logs (out) and of what goes (work).
places = SimpleNamespace()


def call(*words, check=True, **more):
    """Runs a program; its stdout as text."""
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=120, **more)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(map(str, words))}: {done.returncode}: {done.stdout}")
    return done.stdout


def wait_for(what, seconds, found):
    """Until it is so; how long that took."""
    start = time.monotonic()
    while True:
        answer = found()
        if answer:
            return time.monotonic() - start
        if time.monotonic() - start > seconds:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(0.05)


class Host:
    """One host: a process that holds its namespaces."""

    def __init__(self, number, hosts):
        self.number, self.hosts, self.name, self.address = number, hosts, f"h{number}", f"10.0.0.{number}"
        self.daemons, self.guests = {}, {}
        self.folder = places.out / self.name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.boot()

    def boot(self):
        self.holder = subprocess.Popen(["unshare", "--net", "--mount", "--uts", "sh", "-c", """
            for folder in /run /var/lib /etc/frr /etc/kvm-bridge; do mount -t tmpfs tmpfs $folder || exit; done
            mount -t sysfs sysfs /sys && mkdir -p /run/frr /run/netns && hostname $1 && ip link set lo up && echo there
            exec sleep infinity""", "holder", self.name], stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self.holder.stdout.readline() == "there\n", f"{self.name} did not start"
        self.cut_off = False
        call("ip", "link", "add", f"p{self.number}", "master", "switch", "type", "veth", "peer", "eth0", "netns",
             self.holder.pid)
        call("ip", "link", "set", f"p{self.number}", "up")
        self.run("ip", "addr", "add", f"{self.address}/16", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "route", "add", "default", "via", "10.0.255.254")

    def inside(self, words):
        return ["nsenter", "--net", "--mount", "--uts", "--wd=/", "-t", str(self.holder.pid), *map(str, words)]

    def run(self, *words, check=True, **more):
        return call(*self.inside(words), check=check, **more)

    def start(self, *words, log="log"):
        out = open(self.folder / log, "ab")
        return subprocess.Popen(self.inside(words), stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT,
                                start_new_session=True)

    def kvm_bridge(self, *words, **more):
        return self.run(places.binaries / "kvm-bridge", *words, **more)

    def frr(self):
        """Starts FRR with what `kvm-bridge fabric init` prints."""
        addresses = ",".join(f"10.0.0.{number}" for number in range(1, self.hosts + 1))
        # With many hosts, the first two are route reflectors.
        who = ["--peers", addresses] if self.hosts < 8 else ["--reflectors", "10.0.0.1,10.0.0.2"]
        done = subprocess.run(self.inside([places.binaries / "kvm-bridge", "fabric", "init", "--as", 65000, *who]), text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert done.returncode == 0, done.stderr
        for name, text in [("zebra", ""), ("bgpd", done.stdout), ("vtysh", "")]:
            self.run("sh", "-c", f"cat >/etc/frr/{name}.conf", input=text)
        self.run("chown", "-R", "frr:frr", "/etc/frr", "/run/frr")
        self.daemon("zebra")
        self.run("sh", "-c", "for i in $(seq 100); do [ ! -S /run/frr/zserv.api ] || exit 0; sleep 0.1; done; exit 1")
        self.daemon("bgpd")

    def daemon(self, name):
        self.daemons[name] = self.start(f"/usr/lib/frr/{name}", "-A", "127.0.0.1", "-f", f"/etc/frr/{name}.conf",
                                        "--log", "stdout", log=name)

    def vtysh(self, command):
        """What FRR says, as JSON; None where it says nothing yet."""
        said = subprocess.run(self.inside(["vtysh", "-c", f"{command} json"]), text=True, timeout=60,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        try:
            return json.loads(said)
        except ValueError:
            return None

    def established(self):
        peers = (self.vtysh("show bgp l2vpn evpn summary") or {}).get("peers", {})
        return sum(peer["state"] == "Established" for peer in peers.values())

    def macs(self):
        return (self.vtysh(f"show evpn mac vni {VNI}") or {}).get("macs") or {}

    def bridge(self, uplink=f"vxlan:{VNI}"):
        return self.kvm_bridge("up", "lab", "--uplink", uplink)

    def guest(self, name, *more, network=("--bridge", "lab,model=virtio-net-pci"), within=()):
        """Starts the small guest, which asks for an address by itself."""
        words = [*within, places.binaries / "qemu-kvm", *network, "-name", name, "-accel", "tcg", "-m", "96",
                 "-nodefaults", "-machine", "pc,graphics=off", "-display", "none", "-monitor",
                 f"unix:/run/{name}.monitor,server,nowait", "-kernel", places.kernel, "-initrd", places.guest / "initramfs", "-append",
                 "console=ttyS0 quiet panic=-1 ip=dhcp guest.then=shell", "-serial", "stdio", "-pidfile", f"/run/{name}.pid", *more]
        self.guests[name] = self.start(*words, log=f"{name}.console")
        return self.guests[name]

    def pid(self, name):
        return int(self.run("cat", f"/run/{name}.pid"))

    def console(self, name):
        return (self.folder / f"{name}.console").read_text(errors="replace")

    def say(self, name, line):
        """Types a line at the guest's console."""
        self.guests[name].stdin.write(line.encode() + b"\n")
        self.guests[name].stdin.flush()

    def cut(self, is_off):
        call("ip", "link", "set", f"p{self.number}", "down" if is_off else "up")

    def end(self):
        """As a host whose power fails: nothing of it is left."""
        pids = [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) != os.getpid()]
        own = os.stat(f"/proc/{self.holder.pid}/ns/net").st_ino
        for pid in pids:
            try:
                if os.stat(f"/proc/{pid}/ns/net").st_ino == own:
                    os.kill(int(pid), 9)
            except OSError:
                pass
        for process in [self.holder, *self.daemons.values(), *self.guests.values()]:
            process.wait()
        call("ip", "link", "del", f"p{self.number}", check=False)


def address_of(host, name, seconds=180):
    """The address that a guest got by DHCP."""
    found = re.compile(r"guest: eth0 \S+ leased ([0-9.]+)/", re.M)
    wait_for(f"the address of {name}", seconds, lambda: found.search(host.console(name)))
    return found.search(host.console(name))[1]


class Results:
    def __init__(self):
        self.file, self.failures = open(places.out / "results.tsv", "w"), 0

    def check(self, sentence, work, is_needed=False):
        """Carries out a row; what it returns is noted with it. Without one that is needed the rest makes no sense."""
        start = time.monotonic()
        try:
            note = work()
            outcome = "ok"
        except (AssertionError, subprocess.TimeoutExpired, OSError, KeyError, TypeError) as error:
            note, outcome = str(error).strip()[-600:], "**failed**"
            self.failures += 1
        note = f", {note}" if note else ""
        line = f"{sentence}\t{outcome}{note}"
        print(f"{line}   [{time.monotonic() - start:.1f} s]", flush=True)
        self.file.write(line + "\n")
        self.file.flush()
        if is_needed and outcome != "ok":
            raise SystemExit(1)


def pings(host, address, count=1, wait=2):
    said = host.run("ping", "-n", "-c", count, "-W", wait, "-i", "0.2", address, check=False)
    return int(re.search(r"(\d+) received", said)[1]) if "received" in said else 0


def gaps(server, own, address, name, host, act):
    """The longest times without an answer to pings each 20 ms, and without a line of a TCP stream from the guest that has one each
    20 ms, while something is done; both heard by a server whose address is `own`."""
    log, stream = server.folder / "gap", server.folder / "stream"
    with open(log, "w") as out, open(stream, "w") as lines:
        ping = subprocess.Popen(server.inside(["ping", "-n", "-D", "-i", "0.02", address]), stdout=out, stderr=subprocess.STDOUT)
        hear = """
import socket, time
s = socket.create_server(("", 9000))
print("ready", flush=True)
c = s.accept()[0]
while c.recv(65536):
    print(time.time(), flush=True)
"""
        heard = subprocess.Popen(server.inside(["python3", "-c", hear]), stdout=lines)
        wait_for("who hears the stream", 10, lambda: "ready" in stream.read_text())
        host.say(name, f"(while usleep 20000; do echo beat; done) | nc {own} 9000 &")
        wait_for("the stream", 30, lambda: stream.read_text().count("\n") > 20)
        time.sleep(1)
        act()
        time.sleep(3)
        ping.send_signal(2)
        heard.kill()
        ping.wait()
        heard.wait()
    answers = [float(line[1:].split("]")[0]) for line in log.read_text().splitlines() if "bytes from" in line]
    beats = [float(line) for line in stream.read_text().splitlines()[1:]]

    def longest(times):
        assert len(times) > 50, f"only {len(times)} came"
        return round(max(later - earlier for earlier, later in zip(times, times[1:])) * 1000)

    return longest(answers), longest(beats)


def monitor(host, name, command):
    script = (f"import socket,time;s=socket.socket(socket.AF_UNIX);s.connect('/run/{name}.monitor');time.sleep(0.1);"
              f"s.send(b'{command}\\n');time.sleep(0.3);print(s.recv(65536).decode())")
    return host.run("python3", "-c", script)


def migrate(source, target, name, port):
    """By QEMU's live migration, to one that waits."""
    monitor(source, name, f"migrate -d tcp:{target.address}:{port}")
    wait_for("the end of the migration", 90, lambda: "completed" in monitor(source, name, "info migrate"))


class Inside:
    """A network namespace on a host."""

    def __init__(self, host, name):
        self.host, self.name, self.folder = host, name, host.folder

    def inside(self, words):
        return self.host.inside(["ip", "netns", "exec", self.name, *words])


class Lacking(Exception):
    """What is not to be had here."""


INSTALLED = Path("/usr/lib/frr/bgpd")


def unpacked():
    return places.out.parent / "frr"


def fetch_frr():
    """Takes FRR out of its package where it is not installed: to install it would start it."""
    folder = unpacked()
    if INSTALLED.exists() or (folder / "usr/lib/frr/bgpd").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)

    def download():
        # With the library that few hosts have.
        names = ["frr", *re.findall(r"^\s*Depends: (libyang\S*)", call("apt-cache", "depends", "frr"), re.M)]
        call("apt-get", "download", "-qq", *names, cwd=folder)

    try:
        try:
            download()
        except AssertionError:
            call("apt-get", "-o", "DPkg::Lock::Timeout=300", "update", "-qq")
            download()
    except (AssertionError, OSError) as error:
        raise Lacking(f"FRR is not installed, and its package cannot be had: {error}") from error
    for package in folder.glob("*.deb"):
        call("dpkg", "-x", package, folder)


def lay_over():
    """Puts what a host with FRR has over this one's folders, for this script alone."""
    if not INSTALLED.exists():
        call("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={unpacked()}/usr:/usr", "/usr")
    # With folders that a host lays its own over, and what PAM lets root in to FRR by.
    (places.work / "etc/frr").mkdir(parents=True)
    (places.work / "etc/kvm-bridge").mkdir()
    if not INSTALLED.exists() or not Path("/etc/pam.d/frr").exists():
        shutil.copytree(unpacked() / "etc/pam.d", places.work / "etc/pam.d")
    call("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={places.work / 'etc'}:/etc", "/etc")
    if "frr:" not in Path("/etc/passwd").read_text():
        for file, lines in [("passwd", "frr:x:990:990::/:/bin/false\n"), ("group", "frr:x:990:\nfrrvty:x:991:frr,root\n")]:
            own = places.work / file
            own.write_text(Path(f"/etc/{file}").read_text() + lines)
            call("mount", "--bind", own, f"/etc/{file}")
