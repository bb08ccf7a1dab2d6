import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, open, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { run } from "./process.ts";

const START_MS = 30_000;

export interface Dockerd {
  /** For `docker --host`. */
  url: string;
  end(): Promise<void>;
}

/**
 * A Docker daemon of this run's own: its socket, data and log lie in `home`, and it lives in a network namespace of its
 * own, so that it can't change this machine's firewall rules or bridges.
 */
export async function startDockerd(home: string): Promise<Dockerd> {
  await mkdir(home, { recursive: true });
  const socket = join(home, "docker.sock");
  const config = {
    "data-root": join(home, "data"),
    "exec-root": join(home, "exec"),
    pidfile: join(home, "docker.pid"),
    hosts: [`unix://${socket}`],
    iptables: false,
    bridge: "none",
    "storage-driver": "overlay2",
    "default-ulimits": { nofile: { Name: "nofile", Soft: 1024, Hard: 4096 } },
  };
  await writeFile(join(home, "daemon.json"), JSON.stringify(config));
  await using log = await open(join(home, "dockerd.log"), "w");
  // unshare replaces itself by the daemon, so the pid is the daemon's.
  const child = spawn("unshare", ["--net", "--", "dockerd", "--config-file", join(home, "daemon.json")], {
    stdio: ["ignore", log.fd, log.fd],
  });
  try {
    await answering(child, socket);
  } catch (error) {
    await ended(child);
    throw error;
  }
  return {
    url: `unix://${socket}`,
    async end() {
      await ended(child);
      // Network namespaces that it kept as mounts.
      for (const name of ["netns/default", "netns"]) {
        const path = join(home, "exec", name);
        if (existsSync(path)) await run(["umount", path]).catch(() => {}); // mostly it is no mount
      }
    },
  };
}

async function answering(child: ChildProcess, socket: string): Promise<void> {
  const deadline = performance.now() + START_MS;
  for (;;) {
    if (child.exitCode !== null) throw new Error(`dockerd ended with code ${child.exitCode}`);
    if (performance.now() > deadline) throw new Error(`dockerd did not listen within ${START_MS} ms`);
    const probe = connect(socket);
    // `once` rejects on "error".
    const listens = await once(probe, "connect").then(
      () => true,
      () => false,
    );
    probe.destroy();
    if (listens) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, "exit");
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), START_MS);
  await exit;
  clearTimeout(timer);
}
