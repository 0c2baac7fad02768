#!/usr/bin/env python3
"""Times the unpacking of an image that is here already and prints a Markdown table, medians of the rounds.

    cargo build --release -p rbuild -p rbuild-layers --bins --examples
    benches/unpack.py NAME --target target/release --rounds 5 --work DIR

The same blob, read before each run so that it is in the page cache, goes into a directory on one file system through
examples/unpack.rs, `pigz -d | tar x`, `umoci raw unpack` and containerd (`ctr snapshots unpack`, a daemon of its own). What is not
installed is left out with a note. Nothing is removed before the end: ext4 creates files slowly after many were removed. The order of
tools changes from round to round. `cpu` is user and system time of the tool's processes, the daemon's included. Needs root.
"""
import argparse, json, os, resource, shutil, statistics, subprocess, sys, time

TICK = os.sysconf("SC_CLK_TCK")
DEVNULL = subprocess.DEVNULL


def run(*argv, **kw):
    return subprocess.run(argv, check=True, stdin=DEVNULL, stdout=subprocess.PIPE, text=True, **kw).stdout


def missing(*programs):
    return [program for program in programs if not shutil.which(program)]


class Image:
    def __init__(self, name, rbuild, work):
        self.name, self.store, self.layout = name, work + "/store", work + "/layout"
        self.archive = work + "/image.tar"
        env = {**os.environ, "RBUILD_ROOT": self.store}
        run(rbuild, "pull", name, env=env)
        run(rbuild, "copy", name, f"oci:{self.layout}:image", env=env)
        run(rbuild, "copy", name, f"oci-archive:{self.archive}:{name}", env=env)
        with open(self.layout + "/index.json") as f:
            self.digest = json.load(f)["manifests"][0]["digest"]
        with open(self.blob(self.digest)) as f:
            self.layers = [self.blob(layer["digest"]) for layer in json.load(f)["layers"]]

    def blob(self, digest):
        return f"{self.layout}/blobs/{digest.replace(':', '/')}"


class Rbuild:
    name, needs = "rbuild", ()

    def __init__(self, image, target):
        self.image, self.example = image, target + "/examples/unpack"

    def prepare(self, place):
        shutil.copytree(self.image.store, place, copy_function=os.link)

    def argv(self, place):
        return [self.example, place, self.image.name]

    def daemon(self):
        return 0.0


class Tar(Rbuild):
    name, needs = "pigz -d \\| tar x", ("pigz", "tar")

    def prepare(self, place):
        os.mkdir(place)

    def argv(self, place):
        one = 'pigz -d < "$0" | tar --numeric-owner -xpf - -C "$1"'
        return ["sh", "-c", 'for layer in $2; do sh -c \'' + one + '\' "$layer" "$1"; done', "sh", place, " ".join(self.image.layers)]


class Umoci(Rbuild):
    name, needs = "umoci raw unpack", ("umoci",)

    def prepare(self, place):
        pass

    def argv(self, place):
        return ["umoci", "raw", "unpack", "--image", self.image.layout + ":image", place]


class Containerd(Rbuild):
    name, needs = "ctr snapshots unpack", ("containerd", "ctr")
    process = None

    def start(self, work):
        self.socket = work + "/containerd.sock"
        config = work + "/containerd.toml"
        with open(config, "w") as f:
            f.write('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
        with open(work + "/containerd.log", "w") as log:
            self.process = subprocess.Popen(
                ["containerd", "--config", config, "--root", work + "/containerd", "--state", work + "/containerd.state", "--address", self.socket],
                stdin=DEVNULL, stdout=log, stderr=log)
        for _ in range(100):
            if os.path.exists(self.socket) and subprocess.run(["ctr", "-a", self.socket, "version"], stdout=DEVNULL, stderr=DEVNULL).returncode == 0:
                return
            time.sleep(0.1)
        sys.exit(f"containerd does not answer, see {work}/containerd.log")

    def ctr(self, place):
        return ["ctr", "-a", self.socket, "-n", os.path.basename(place)]

    def prepare(self, place):
        run(*self.ctr(place), "images", "import", "--no-unpack", self.image.archive)

    def argv(self, place):
        return [*self.ctr(place), "snapshots", "unpack", self.image.digest]

    def daemon(self):
        with open(f"/proc/{self.process.pid}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK


def measure(tool, place):
    for layer in tool.image.layers:
        with open(layer, "rb") as f:
            while f.read(1 << 20):
                pass
    os.sync()
    before, daemon, start = resource.getrusage(resource.RUSAGE_CHILDREN), tool.daemon(), time.monotonic()
    run(*tool.argv(place), stderr=DEVNULL)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime + tool.daemon() - daemon
    return wall, cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="the image, in a registry")
    parser.add_argument("--target", default="target/release", help="where cargo put what it built")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", required=True, help="a directory that does not exist yet; removed at the end")
    args = parser.parse_args()
    work = os.path.abspath(args.work)
    os.makedirs(work)
    tools = []
    try:
        image = Image(args.name, args.target + "/rbuild", work)
        for tool in (Rbuild, Tar, Umoci, Containerd):
            if absent := missing(*tool.needs):
                print(f"left out: {tool.name}, there is no {', '.join(absent)}", file=sys.stderr)
                continue
            tools.append(tool(image, args.target))
            if tool is Containerd:
                tools[-1].start(work)
        taken = {tool.name: [] for tool in tools}
        load = os.getloadavg()[0]
        for number in range(args.rounds + 1):
            for index in range(len(tools)):
                tool = tools[(index + number) % len(tools)]
                place = f"{work}/{type(tool).__name__.lower()}{number}"
                tool.prepare(place)
                taken[tool.name].append(measure(tool, place))
        table(taken, f"load {load:.1f} before, {os.getloadavg()[0]:.1f} after, {os.cpu_count()} processors")
    finally:
        for tool in tools:
            if isinstance(tool, Containerd) and tool.process:
                tool.process.terminate()
                tool.process.wait()
        shutil.rmtree(work, ignore_errors=True)


def table(taken, conditions):
    """Prints the medians without the first round, which warms up what was never run."""
    median = {name: [statistics.median(values) for values in zip(*runs[1:])] for name, runs in taken.items()}
    wall, cpu = median[Rbuild.name]
    print(f"{len(taken[Rbuild.name]) - 1} rounds, {conditions}\n")
    print("| tool | wall, s | least | most | cpu, s | rbuild's wall to it | rbuild's cpu to it |\n| --- | --- | --- | --- | --- | --- | --- |")
    for name, runs in taken.items():
        walls = [run[0] for run in runs[1:]]
        print(f"| {name} | {median[name][0]:.2f} | {min(walls):.2f} | {max(walls):.2f} | {median[name][1]:.2f} "
              f"| {wall / median[name][0]:.2f} | {cpu / median[name][1]:.2f} |")


if __name__ == "__main__":
    main()
