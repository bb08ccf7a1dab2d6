import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { rename, rm } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import type { Duplex } from "node:stream";
import { WarrenError } from "../../contracts/errors.ts";
import type { RuntimeSpec } from "../../contracts/runtime.ts";
import { nativeProgram } from "../../lib/native.ts";
import { type ProcessIdentity, readProcess, signalProcess } from "../../lib/processes.ts";
import { mainAfterArgs, proxyArgs, startCapabilities } from "../common/guest-program.ts";
import { type Layout, type Run, writeJson } from "./layout.ts";
import { hostMounts, onHost } from "./rootfs.ts";

/** Descriptors that bwrap inherits, by number. */
const fd = { listener: 3, args: 4, info: 5, ready: 6 } as const;

/** What a container engine gives its root by default, as far as commands inside need it. */
const capabilities = [
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_FOWNER",
  "CAP_FSETID",
  "CAP_KILL",
  "CAP_NET_BIND_SERVICE",
  "CAP_SETGID",
  "CAP_SETPCAP",
  "CAP_SETUID",
];

/** Ids above root map to a range of the host that nobody has; root maps to ourselves, who own the files. */
const FIRST_MAPPED_ID = 100_001;
const MAPPED_IDS = 65_535;

/** How long bwrap may take to make its first process. */
const START_TIMEOUT_MS = 15_000;

/**
 * Starts the guest under bwrap, detached from us. Who runs is written down before the guest's program begins, and
 * bwrap's own command line begins with `marker`: a crash at any moment leaves nothing that can't be found. Sources of the
 * spec's mounts are paths of the host.
 */
export async function launch(layout: Layout, spec: RuntimeSpec, marker: string): Promise<Run> {
  const options = await bwrapOptions(layout, spec);
  using listener = await listen(layout.socket);
  // The main command inherits the guest's stdout and stderr: a file for it could grow without bound.
  const log = openSync(spec.cmd ? "/dev/null" : layout.startLog, "w", 0o600);
  let child: ChildProcess;
  try {
    child = spawn(
      "bwrap",
      [
        "--args",
        String(fd.args),
        "--",
        "/.warren/guest",
        "--fd",
        String(fd.listener),
        ...proxyArgs(spec),
        ...mainCommand(spec),
      ],
      {
        argv0: marker,
        detached: true,
        env: {},
        stdio: ["ignore", log, log, listener.fd, "pipe", "pipe", "pipe"],
      },
    );
  } finally {
    closeSync(log);
  }
  child.unref();
  const [args, info, ready] = child.stdio.slice(fd.args) as unknown as [Duplex, Duplex, Duplex];
  for (const pipe of [args, info, ready]) pipe.on("error", () => {}); // its exit says what happened
  let guest: ProcessIdentity | undefined;
  try {
    args.end(options.map((option) => `${option}\0`).join(""));
    guest = identify(await firstProcess(child, info));
    const run = { guest, monitor: identify(child.pid ?? 0) };
    await writeJson(layout.run, run);
    mapIds(guest.pid);
    await new Promise<void>((resolve) => ready.end("1", () => resolve()));
    return run;
  } catch (cause) {
    if (guest) signalProcess(guest, "SIGKILL");
    child.kill("SIGKILL");
    throw startFailure(layout, cause);
  } finally {
    for (const pipe of [args, info, ready]) pipe.destroy();
  }
}

/** Why bwrap or the guest did not start, with bwrap's own words where there are any. */
export function startFailure(layout: Layout, cause: unknown): WarrenError {
  if (cause instanceof WarrenError && cause.code !== "guest_failed") return cause;
  let said = "";
  try {
    said = readFileSync(layout.startLog, "utf8").slice(0, 500).trim();
  } catch {
    // Nothing was said.
  }
  return new WarrenError("runtime_failed", `the sandbox could not be started${said && `: ${said}`}`, {
    cause,
  });
}

function mainCommand(spec: RuntimeSpec): string[] {
  if (!spec.cmd) return [];
  const user = spec.user === undefined ? [] : ["--main-user", spec.user];
  return ["--main-cwd", spec.workdir, ...mainAfterArgs(spec), ...user, "--", ...spec.cmd];
}

/** Given by a descriptor, not on the command line: the environment holds secrets. */
async function bwrapOptions(layout: Layout, spec: RuntimeSpec): Promise<string[]> {
  const options = [
    ...["--unshare-user", "--userns-block-fd", String(fd.ready), "--info-fd", String(fd.info)],
    ...["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"],
    ...["--as-pid-1", "--hostname", spec.hostname, "--cap-drop", "ALL"],
    ...startCapabilities(spec, capabilities).flatMap((capability) => ["--cap-add", capability]),
    ...["--bind", layout.root, "/"],
    ...(onHost(spec.image.id) ? await hostMounts() : []),
    ...["--proc", "/proc", "--dev", "/dev"],
    ...["--ro-bind", nativeProgram("warren-guest"), "/.warren/guest"],
  ];
  // Parents before children, of whichever kind. bwrap's are all nosuid and nodev.
  const byPath: [string, string[]][] = [
    ...spec.tmpfs.map(({ path, mode, sizeBytes }): [string, string[]] => [
      path,
      ["--perms", mode.toString(8).padStart(4, "0"), "--size", String(sizeBytes), "--tmpfs", path],
    ]),
    ...spec.mounts.map(({ source, target, readonly }): [string, string[]] => [
      target,
      [readonly ? "--ro-bind" : "--bind", source, target],
    ]),
  ];
  options.push(...byPath.sort(([a], [b]) => (a < b ? -1 : 1)).flatMap(([, mount]) => mount));
  options.push("--dir", spec.workdir);
  for (const mount of spec.tmpfs) if (mount.readonly) options.push("--remount-ro", mount.path);
  if (spec.readonlyRoot) options.push("--remount-ro", "/");
  options.push("--chdir", "/", "--clearenv");
  for (const [name, value] of Object.entries(spec.env)) options.push("--setenv", name, value);
  return options;
}

/**
 * A listening socket for the guest to inherit: it has no path inside. It is bound beside its place and moved there, since
 * closing our end of it removes the name that it was bound to.
 */
async function listen(path: string): Promise<Disposable & { fd: number }> {
  const server: Server = createServer((socket) => socket.destroy());
  await rm(`${path}.new`, { force: true });
  server.listen(`${path}.new`);
  await once(server, "listening");
  await rename(`${path}.new`, path);
  return {
    // Node shows the number nowhere else; spawn() takes a handle only of a stream.
    fd: (server as unknown as { _handle: { fd: number } })._handle.fd,
    [Symbol.dispose]: () => void server.close(),
  };
}

/** The host's pid of the sandbox's first process, as bwrap tells it. */
async function firstProcess(child: ChildProcess, info: Duplex): Promise<number> {
  const told = new Promise<number>((resolve, reject) => {
    let text = "";
    info.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
      // Read to its end: bwrap would die of a closed pipe while it still tells of its namespaces.
      const pid = /"child-pid":\s*(\d+)[^}]*\}/.exec(text)?.[1];
      if (pid !== undefined) resolve(Number(pid));
    });
    child.once("error", (cause) =>
      reject(
        new WarrenError("runtime_unavailable", "bwrap could not be started", {
          hint: "apt-get install bubblewrap",
          cause,
        }),
      ),
    );
    child.once("exit", (code, signal) => reject(new Error(`bwrap ended (${signal ?? code})`)));
  });
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("bwrap is stuck")), START_TIMEOUT_MS);
  });
  try {
    return await Promise.race([told, late]);
  } finally {
    clearTimeout(timer);
  }
}

function identify(pid: number): ProcessIdentity {
  const found = readProcess(pid);
  if (!found) throw new Error(`process ${pid} has ended`);
  return { pid, startTime: found.startTime };
}

/** Root inside is whoever we are; as root, all other ids are nobody's on the host, else there are none. */
function mapIds(pid: number): void {
  const maps = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
  const isRoot = maps.uid === 0;
  // Who may not set groups may not drop them either: the kernel wants that promise of anybody but root.
  if (!isRoot) writeFileSync(`/proc/${pid}/setgroups`, "deny");
  for (const kind of ["uid", "gid"] as const) {
    const others = isRoot ? `1 ${FIRST_MAPPED_ID} ${MAPPED_IDS}\n` : "";
    writeFileSync(`/proc/${pid}/${kind}_map`, `0 ${maps[kind]} 1\n${others}`);
  }
}
