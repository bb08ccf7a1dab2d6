import { chmod, mkdir, realpath, stat } from "node:fs/promises";
import { join } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";
import { isSandboxId } from "../common/sandbox-id.ts";

/** Where the runtime keeps its files, all below `<stateDir>/oci`, which nobody else on the host can enter. */
export interface Layout {
  root: string;
  sandboxes: string;
  images: string;
  trash: string;
  volumes: string;
  snapshots: string;
  /** Empty file and directory that masks are made of, and the guest program. */
  shared: string;
  launcherLock: string;
  /** `--root` of one container runtime: their formats differ. */
  runtimeRoot(program: string): string;
  sandbox(id: string): SandboxPaths;
}

export interface SandboxPaths {
  dir: string;
  spec: string;
  /** Mapped as one, since overlayfs needs upper and work on the same mount. */
  fs: string;
  upper: string;
  work: string;
  /** Topmost lower layer: mount points, /etc/hosts and /etc/hostname, so that the upper holds only what was written inside. */
  top: string;
  config: string;
  socket: string;
  /** Pid and start time of the guest, written by the launcher. */
  guestPid: string;
  /** The same of what looks after its open network. */
  uplinkPid: string;
  /** Pid alone, written by the container runtime. */
  runtimePid: string;
  /** The container runtime's own error log. */
  log: string;
}

function layoutOf(root: string): Layout {
  return {
    root,
    sandboxes: join(root, "sandboxes"),
    images: join(root, "images"),
    trash: join(root, "trash"),
    volumes: join(root, "volumes"),
    snapshots: join(root, "snapshots"),
    shared: join(root, "shared"),
    launcherLock: join(root, "launcher.lock"),
    runtimeRoot: (program) => join(root, "run", program),
    sandbox(id) {
      if (!isSandboxId(id)) {
        throw new WarrenError("invalid_request", `${JSON.stringify(id)} can't be a sandbox id`);
      }
      const dir = join(root, "sandboxes", id);
      return sandboxPaths(dir);
    },
  };
}

export function sandboxPaths(dir: string): SandboxPaths {
  return {
    dir,
    spec: join(dir, "spec.json"),
    fs: join(dir, "fs"),
    upper: join(dir, "fs", "upper"),
    work: join(dir, "fs", "work"),
    top: join(dir, "top"),
    config: join(dir, "config.json"),
    socket: join(dir, "guest.sock"),
    guestPid: join(dir, "guest.pid"),
    uplinkPid: join(dir, "uplink.pid"),
    runtimePid: join(dir, "runtime.pid"),
    log: join(dir, "runtime.log"),
  };
}

/**
 * Makes the directories that are missing, closed to everybody else.
 * @throws WarrenError `permission_denied` when it belongs to somebody else.
 */
export async function openLayout(stateDir: string): Promise<Layout> {
  await mkdir(stateDir, { recursive: true, mode: 0o700 });
  // runc refuses paths with symbolic links.
  const resolved = await realpath(stateDir);
  const root = join(resolved, "oci");
  const layout = layoutOf(root);
  await mkdir(root, { recursive: true, mode: 0o700 });
  const owner = (await stat(root)).uid;
  if (process.getuid && owner !== process.getuid()) {
    throw new WarrenError("permission_denied", `${root} belongs to user ${owner}`);
  }
  await chmod(root, 0o700);
  for (const dir of [
    layout.sandboxes,
    layout.images,
    layout.trash,
    layout.volumes,
    layout.snapshots,
    layout.shared,
    join(root, "run"),
  ]) {
    await mkdir(dir, { recursive: true, mode: 0o700 });
  }
  return layout;
}
