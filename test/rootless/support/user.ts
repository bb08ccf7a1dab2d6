import { type ChildProcess, spawn } from "node:child_process";
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { readCgroupHost } from "../../../src/runtimes/common/cgroup.ts";
import { prepareUserCgroups } from "../../../src/runtimes/oci/user-cgroups.ts";

/** An ordinary user of this machine with subordinate ids, who exists in a mount namespace of the test's own only. */
export interface TestUser {
  name: string;
  uid: number;
  /** First subordinate id: root of every sandbox of this user. */
  firstSubordinate: number;
  home: string;
  /** The checkout, read-only, where the user can read it. */
  checkout: string;
  /** Runs a program as this user, in the checkout. */
  run(argv: readonly string[], options?: RunOptions): Promise<RunResult>;
  /** Ends what still runs as this user, too. */
  [Symbol.dispose](): void;
}

export interface RunOptions {
  env?: Record<string, string>;
  timeoutMs?: number;
  /** Put before the command that makes the user's mounts: to be in other namespaces. */
  where?: readonly string[];
  /** The `cgroup.procs` of the group to be in; default: that which root has prepared, where there is one. */
  group?: string;
}

export interface RunResult {
  code: number;
  stdout: string;
  stderr: string;
}

/**
 * Makes mounts in a mount namespace of its own, and goes on as the user. Arguments: directory of the copies of files of
 * /etc, checkout, where it shows, uid, home, a cgroup.procs, then the command.
 */
const enter = `
set -e
for file in passwd group subuid subgid; do
  mount --bind "$1/$file" "/etc/$file"
done
mount --bind "$2" "$3"
mount -o remount,bind,ro "$3"
cd "$3"
uid=$4
# Only from inside of it can the user put processes there (cgroup v2).
[ ! -e "$6" ] || echo $$ >"$6"
shift 6
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups -- "$@"
`;

const accountFiles = ["passwd", "group", "subuid", "subgid"] as const;

/** Subordinate ids per user. Test files run side by side, so each takes ids of its own by its process's id. */
const IDS = 65_536;

export function makeUser(options: { subordinates?: number } = {}): TestUser {
  const top = mkdtempSync(join(tmpdir(), "wroot-"));
  const slot = process.pid % 16_384;
  const uid = 500_000_000 + slot;
  const firstSubordinate = 600_000_000 + slot * IDS;
  const name = "wuser";
  const [etc, home, checkout] = [join(top, "etc"), join(top, "home"), join(top, "checkout")];
  chmodSync(top, 0o755);
  mkdirSync(etc);
  mkdirSync(checkout);
  mkdirSync(join(home, "tmp"), { recursive: true });
  for (const path of [home, join(home, "tmp")]) {
    chmodSync(path, 0o700);
    chownSync(path, uid, uid);
  }
  for (const file of accountFiles) {
    if (existsSync(`/etc/${file}`)) copyFileSync(`/etc/${file}`, join(etc, file));
    else writeFileSync(`/etc/${file}`, "", { flag: "wx", mode: 0o644 }); // a mount needs a place
  }
  const count = options.subordinates ?? IDS;
  const lines = {
    passwd: `${name}:x:${uid}:${uid}::${home}:/bin/sh`,
    group: `${name}:x:${uid}:`,
    subuid: count > 0 ? `${name}:${firstSubordinate}:${count}` : "",
    subgid: count > 0 ? `${name}:${firstSubordinate}:${count}` : "",
  };
  for (const file of accountFiles) {
    const path = join(etc, file);
    const before = existsSync(path) ? readFileSync(path, "utf8") : "";
    writeFileSync(path, `${before}${before === "" || before.endsWith("\n") ? "" : "\n"}${lines[file]}\n`);
    chmodSync(path, 0o644);
  }
  return {
    name,
    uid,
    firstSubordinate,
    home,
    checkout,
    run(argv, options = {}) {
      const { env = {}, timeoutMs = 120_000 } = options;
      const { group = `/sys/fs/cgroup/warren-${uid}/engine/cgroup.procs` } = options;
      const args = ["--mount", "--propagation", "private", "sh", "-c", enter, "sh"];
      const [program = "unshare", ...before] = [...(options.where ?? []), "unshare"];
      const child = spawn(
        program,
        [...before, ...args, etc, process.cwd(), checkout, String(uid), home, group, ...argv],
        {
          detached: true,
          stdio: ["ignore", "pipe", "pipe"],
          env: {
            HOME: home,
            USER: name,
            TMPDIR: join(home, "tmp"),
            PATH: process.env.PATH ?? "/usr/bin:/bin",
            NO_COLOR: "1",
            ...env,
          },
        },
      );
      return finished(child, timeoutMs);
    },
    [Symbol.dispose]() {
      for (const pid of processesOf(uid)) process.kill(pid, "SIGKILL");
      rmSync(top, { recursive: true, force: true });
    },
  };
}

/** Pids of all processes that run as one of these host ids. */
export function processesOf(first: number, count = 1): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      const status = statusOf(pid);
      const uid = Number(/^Uid:\s+(\d+)/m.exec(status)?.[1] ?? -1);
      // What has ended waits for the host's init, once the launcher that would have reaped it is gone.
      return !/^State:\s+[ZX]/m.test(status) && uid >= first && uid < first + count;
    });
}

export function statusOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/status`, "utf8");
  } catch {
    return "";
  }
}

function finished(child: ChildProcess, timeoutMs: number): Promise<RunResult> {
  const text = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name]?.setEncoding("utf8").on("data", (chunk: string) => {
      text[name] += chunk;
    });
  }
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => process.kill(-(child.pid as number), "SIGKILL"), timeoutMs);
    child.once("error", reject);
    // Not "close": an engine on demand outlives the command, and its log is a file, but a program of its may hold the pipe.
    child.once("close", (code) => {
      clearTimeout(timer);
      resolve({ code: code ?? 137, ...text });
    });
  });
}

/** Gives the user a cgroup of their own in each hierarchy, as `warren doctor --prepare-cgroups` does. */
export async function prepareCgroups(user: Pick<TestUser, "uid">): Promise<Disposable> {
  const dirs = await prepareUserCgroups(await readCgroupHost(), user);
  return {
    [Symbol.dispose]() {
      for (const dir of dirs) {
        if (existsSync(join(dir, "engine"))) rmdirSync(join(dir, "engine"));
        rmdirSync(dir);
      }
    },
  };
}
