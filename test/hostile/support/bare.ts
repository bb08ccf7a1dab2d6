import { randomBytes } from "node:crypto";
import { chmod, copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type RunResult, run } from "../../../src/lib/run.ts";

/** linux/capability.h, in order of their numbers. */
const capabilityNames =
  `CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
  NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT
  SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP
  MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`.split(
    /\s+/,
  );

/**
 * Runs an attack program as the first process of a crun container that has namespaces but none of our guards: no user
 * namespace, no seccomp, no masks, every capability that we have ourselves. Everything that it makes is gone afterwards.
 */
export async function runBare(
  dir: string,
  program: string,
  args: readonly string[] = [],
  options: { user?: number; mode?: number } = {},
): Promise<RunResult> {
  const bundle = await mkdtemp(join(dir, "bare-"));
  const id = `hostile-bare-${randomBytes(4).toString("hex")}`;
  const crun = ["--cgroup-manager=disabled", "--root", join(bundle, "crun")];
  try {
    await mkdir(join(bundle, "rootfs/tmp"), { recursive: true, mode: 0o755 });
    await copyFile(program, join(bundle, "rootfs/program"));
    await chmod(join(bundle, "rootfs/program"), options.mode ?? 0o755);
    const uid = options.user ?? 0;
    const capabilities = uid === 0 ? await ownCapabilities() : [];
    await writeFile(
      join(bundle, "config.json"),
      JSON.stringify({
        ociVersion: "1.0.0",
        root: { path: "rootfs" },
        process: {
          user: { uid, gid: uid },
          cwd: "/",
          args: ["/program", ...args],
          env: ["PATH=/"],
          noNewPrivileges: false,
          capabilities: {
            bounding: await ownCapabilities(),
            effective: capabilities,
            permitted: capabilities,
            inheritable: capabilities,
            ambient: [],
          },
        },
        mounts: [
          { destination: "/proc", type: "proc", source: "proc" },
          { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["mode=755"] },
          {
            destination: "/dev/pts",
            type: "devpts",
            source: "devpts",
            options: ["newinstance", "ptmxmode=0666"],
          },
          { destination: "/sys", type: "sysfs", source: "sysfs" },
        ],
        linux: { namespaces: ["pid", "mount", "network", "ipc", "uts"].map((type) => ({ type })) },
      }),
    );
    return await run("crun", [...crun, "run", "--bundle", bundle, id], {
      timeoutMs: 30_000,
      maxOutputBytes: 1 << 20,
    });
  } finally {
    await run("crun", [...crun, "delete", "--force", id]);
    await rm(bundle, { recursive: true, force: true });
  }
}

async function ownCapabilities(): Promise<string[]> {
  const status = await readFile("/proc/self/status", "utf8");
  const mask = BigInt(`0x${/^CapEff:\s*(\w+)/m.exec(status)?.[1] ?? "0"}`);
  return capabilityNames.filter((_, bit) => (mask >> BigInt(bit)) & 1n).map((name) => `CAP_${name}`);
}
