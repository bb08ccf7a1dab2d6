import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { chmod, mkdir, mkdtemp, open, readFile, rm, rmdir, writeFile } from "node:fs/promises";
import { get } from "node:http";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";

const execute = promisify(execFile);

const DOCKERD = "/usr/sbin/dockerd";
const START_MS = 60_000;
/** A daemon gives each container ten seconds when it ends. */
const END_MS = 30_000;

export interface DockerdOptions {
  /** Where socket, data and log go; made when it is missing. Default: a directory of its own that `end` removes. */
  home?: string;
  /** Beside those of this file, as in daemon.json. */
  config?: Readonly<Record<string, unknown>>;
  /** Files of the host that this daemon shall see others in place of: path → text. */
  files?: Readonly<Record<string, string>>;
  /** Put before its command line, to be in a network namespace that there is already. Default: it gets one of its own. */
  where?: readonly string[];
  /** Further places to listen, such as tcp://127.0.0.1:2376 in its network namespace. */
  hosts?: readonly string[];
}

/** A Docker daemon that nobody else uses. */
export interface Dockerd {
  readonly home: string;
  readonly socket: string;
  /** Such as unix:///tmp/x/docker.sock. */
  readonly url: string;
  readonly pid: number;
  /** Below each hierarchy of /sys/fs/cgroup. */
  readonly cgroup: string;
  /** The docker CLI with this daemon; its output. Rejects with what it said. */
  cli(...args: string[]): Promise<string>;
  /** As a crash ends it: containers stay for the next start to deal with. */
  kill(): Promise<void>;
  /** After `kill` or `stop`. */
  start(): Promise<void>;
  /** Gently; what it started ends too. */
  stop(): Promise<void>;
  /** Ends and removes all that it has made. */
  end(): Promise<void>;
}

/**
 * A Docker daemon of this run's own. Its socket, data and log lie in `home`, its cgroups below one of its own. It has a network and a
 * mount namespace of its own, so that it can't change this machine's firewall, bridges and mounts; and its first process
 * is asked to end when ours has ended.
 */
export async function startDockerd(options: DockerdOptions = {}): Promise<Dockerd> {
  if (!existsSync(DOCKERD)) throw new Error(`${DOCKERD} is not installed: scripts/test.sh does that`);
  const home = options.home ?? (await mkdtemp(join(tmpdir(), "wdockerd-")));
  await mkdir(home, { recursive: true });
  // A daemon that remaps ids must be able to pass as any of them.
  await chmod(home, 0o711);
  const socket = join(home, "docker.sock");
  const url = `unix://${socket}`;
  const cgroup = `warren-${basename(home)}`;
  const config = {
    "data-root": join(home, "data"),
    "exec-root": join(home, "exec"),
    pidfile: join(home, "docker.pid"),
    // Else it writes /etc/docker/key.json. Daemons of 25 and later have no such key.
    ...((await majorVersion()) < 25 ? { "deprecated-key-path": join(home, "key.json") } : {}),
    hosts: [url, ...(options.hosts ?? [])],
    iptables: false,
    "ip-forward": false,
    bridge: "none",
    "storage-driver": "overlay2",
    "cgroup-parent": `/${cgroup}`,
    // Hosts without CAP_SYS_RESOURCE refuse its own defaults.
    "default-ulimits": { nofile: { Name: "nofile", Soft: 1024, Hard: 4096 } },
    "shutdown-timeout": 5,
    ...options.config,
  };
  await writeFile(join(home, "daemon.json"), JSON.stringify(config));
  const mounts: string[] = [];
  for (const [path, text] of Object.entries(options.files ?? {})) {
    const file = join(home, `host${path.replaceAll("/", "_")}`);
    await writeFile(file, text);
    mounts.push(file, path);
  }

  let child: ChildProcess | undefined;
  const start = async () => {
    child = await spawnDaemon(home, mounts, options.where);
    try {
      await answering(child, socket);
    } catch (error) {
      await ended(child, "SIGKILL");
      const log = await readFile(join(home, "dockerd.log"), "utf8").catch(() => "");
      throw new Error(`${error instanceof Error ? error.message : error}: ${log.slice(-2000)}`);
    }
  };
  const end = async () => {
    if (child) await ended(child, "SIGTERM");
    await endStrays(home, cgroup);
    await removeCgroups(cgroup);
    await rm(home, { recursive: true, force: true });
  };
  try {
    await start();
  } catch (error) {
    await end();
    throw error;
  }
  return {
    home,
    socket,
    url,
    cgroup,
    get pid() {
      return child?.pid ?? 0;
    },
    async cli(...args) {
      const { stdout } = await execute("docker", ["--host", url, ...args], {
        maxBuffer: 2 ** 24,
        // Its own settings are in HOME.
        env: { PATH: process.env.PATH, HOME: home },
      });
      return stdout.trim();
    },
    async kill() {
      if (child) await ended(child, "SIGKILL");
      // Its containerd ends with it; the next daemon takes one that nobody has waited for yet for a live one.
      const containerd = Number(readOrNothing(join(home, "exec/containerd/containerd.pid")));
      await eventuallyGone(() => (existsSync(`/proc/${containerd}`) ? [containerd] : []));
    },
    start,
    async stop() {
      if (child) await ended(child, "SIGTERM");
    },
    end,
  };
}

async function majorVersion(): Promise<number> {
  const { stdout } = await execute(DOCKERD, ["--version"]);
  return Number(/version (\d+)\./.exec(stdout)?.[1] ?? 0);
}

/** `mounts`: pairs of a file and what it takes the place of. */
async function spawnDaemon(
  home: string,
  mounts: readonly string[],
  where?: readonly string[],
): Promise<ChildProcess> {
  const script = `/bin/busybox ip link set lo up || exit 1
    while [ $# -gt 1 ]; do mount --bind "$1" "$2" || exit 1; shift 2; done
    exec ${DOCKERD} --config-file "$1"`;
  await using log = await open(join(home, "dockerd.log"), "a");
  // Each replaces itself by the next, so the pid is the daemon's.
  return spawn(
    "setpriv",
    [
      ...["--pdeathsig", "TERM", ...(where ?? [])],
      ...["unshare", ...(where ? [] : ["--net"]), "--mount", "--propagation", "private"],
      ...["sh", "-c", script, "sh", ...mounts, join(home, "daemon.json")],
    ],
    { stdio: ["ignore", log.fd, log.fd] },
  );
}

async function answering(child: ChildProcess, socket: string): Promise<void> {
  const deadline = performance.now() + START_MS;
  for (;;) {
    if (hasEnded(child)) throw new Error(`dockerd ended (${child.exitCode ?? child.signalCode})`);
    if (performance.now() > deadline) throw new Error(`dockerd did not listen within ${START_MS} ms`);
    const status = await new Promise<number | undefined>((resolve) => {
      const asked = get({ socketPath: socket, path: "/_ping" }, (answer) =>
        resolve(answer.resume().statusCode),
      );
      asked.once("error", () => resolve(undefined));
    });
    if (status === 200) return;
    await sleep(20);
  }
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

async function ended(child: ChildProcess, signal: "SIGTERM" | "SIGKILL"): Promise<void> {
  if (hasEnded(child)) return;
  const exit = once(child, "exit");
  child.kill(signal);
  const timer = setTimeout(() => child.kill("SIGKILL"), END_MS);
  await exit;
  clearTimeout(timer);
}

/** What a daemon that was killed has left running: shims, and containers. */
async function endStrays(home: string, cgroup: string): Promise<void> {
  await eventuallyGone(() => {
    const found = new Set([...processes((line) => line.includes(`${home}/`)), ...membersOf(cgroup)]);
    for (const pid of found) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // It ended in this moment.
      }
    }
    return [...found];
  });
}

async function eventuallyGone(look: () => number[]): Promise<void> {
  for (const deadline = performance.now() + END_MS; performance.now() < deadline; await sleep(10)) {
    if (look().length === 0) return;
  }
  throw new Error(`processes of dockerd don't end: ${look().join(", ")}`);
}

/** Pids by command line, whose arguments each end with NUL. */
function processes(wanted: (commandLine: string) => boolean): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((pid) => wanted(readOrNothing(`/proc/${pid}/cmdline`)))
    .map(Number);
}

function membersOf(cgroup: string): number[] {
  return cgroupDirs(cgroup)
    .flatMap((dir) => readOrNothing(join(dir, "cgroup.procs")).split("\n"))
    .filter((pid) => pid !== "" && pid !== "0")
    .map(Number);
}

async function removeCgroups(cgroup: string): Promise<void> {
  for (const dir of cgroupDirs(cgroup).reverse()) await rmdir(dir);
}

/** Of all hierarchies, each directory before those in it. */
export function cgroupDirs(cgroup: string): string[] {
  const below = (dir: string): string[] => [
    dir,
    ...readdirSync(dir, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .flatMap((entry) => below(join(dir, entry.name))),
  ];
  const top = "/sys/fs/cgroup";
  return [
    top,
    ...readdirSync(top, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => join(top, entry.name)),
  ]
    .map((dir) => join(dir, cgroup))
    .filter((dir) => existsSync(dir))
    .flatMap(below);
}

function readOrNothing(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return ""; // it has ended
  }
}
