import type { RuntimeSpec } from "../../contracts/runtime.ts";
import { CPU_PERIOD_US, cpuQuotaUs } from "../common/cpu-limit.ts";
import { GUEST_DIR, startCapabilities } from "../common/guest-program.ts";
import { maskedPaths } from "../common/protected-paths.ts";
import type { ApiRequest } from "../containers/api-client.ts";
import {
  engineNetwork,
  GUARD_FILE,
  GUEST_SOCKET_DIR,
  guestCommand,
  SHM_BYTES,
  socketTmpfs,
  tmpfsOptions,
} from "../containers/container-config.ts";
import type { ContainerOptions } from "../containers/flavor.ts";
import { MAX_PROCESSES } from "../containers/limits.ts";
import type { IdMapping } from "./id-mapping.ts";

/** Masked too: Podman can't mount these read-only, as the other runtimes do. */
const alsoMasked = ["/proc/pressure"];

/**
 * In Podman's own API. The compatible one has no options for binds, mistakes a comma in a path for an option, and gives a
 * container the host's /etc/hosts.
 */
export function createRequest(name: string, options: ContainerOptions, mapping?: IdMapping): ApiRequest {
  const { spec, flavor } = options;
  const able = flavor.capabilities.limits;
  return {
    method: "POST",
    path: "/libpod/containers/create",
    body: {
      name,
      image: spec.image.id,
      entrypoint: guestCommand(options),
      command: [],
      env: spec.env,
      unsetenvall: true,
      httpproxy: false,
      labels: options.labels,
      hostname: spec.hostname,
      // The guest is root; commands become whoever they shall be.
      user: "0:0",
      // Not the sandbox's own: Podman would follow the image's links on the host (CVE-2026-55686). The guest makes that one.
      work_dir: "/",
      terminal: false,
      stdin: false,
      systemd: "false",
      restart_policy: "no",
      // The image's own would run beside the guest.
      healthconfig: { Test: ["NONE"] },
      // What an image declares is part of its root filesystem: it lives as long as the sandbox.
      image_volume_mode: "ignore",
      // The guest keeps the main command's output, and the engine above stores it.
      log_configuration: { driver: "none" },
      netns: { nsmode: engineNetwork(options) },
      ...(options.nameServers.length > 0 ? { dns_server: options.nameServers } : {}),
      ipcns: { nsmode: "private" },
      pidns: { nsmode: "private" },
      utsns: { nsmode: "private" },
      cgroupns: { nsmode: "private" },
      ...(mapping === undefined ? {} : { userns: { nsmode: "private" }, idmappings: mapping }),
      // Without a network Podman makes none.
      use_image_resolve_conf: spec.network !== "open" && spec.network !== "host",
      use_image_hosts: true,
      read_only_filesystem: spec.readonlyRoot,
      cap_drop: ["ALL"],
      cap_add: startCapabilities(spec).map((capability) => capability.replace(/^CAP_/, "")),
      no_new_privileges: true,
      seccomp_profile_path: flavor.seccomp,
      mask: [...maskedPaths, ...alsoMasked],
      shm_size: SHM_BYTES,
      r_limits: Object.entries(flavor.rlimits).map(([type, most]) => ({ type, soft: most, hard: most })),
      resource_limits: resources(spec.limits, able),
      ...mounts(options),
    },
  };
}

function resources(
  { memoryBytes, cpuNano, pids }: RuntimeSpec["limits"],
  able: ContainerOptions["flavor"]["capabilities"]["limits"],
): object {
  return {
    // Memory and swap together, so equal to the limit: no swap.
    ...(memoryBytes > 0 ? { memory: { limit: memoryBytes, swap: memoryBytes } } : {}),
    ...(cpuNano > 0 ? { cpu: { period: CPU_PERIOD_US, quota: cpuQuotaUs(cpuNano) } } : {}),
    // Without a number Podman has one of its own, and crun on cgroup v1 takes no -1.
    ...(able.includes("pids") ? { pids: { limit: pids > 0 ? pids : MAX_PROCESSES } } : {}),
  };
}

function mounts({ spec, guest, volumeName }: ContainerOptions): object {
  const bind = (source: string, destination: string, ...options: string[]) => ({
    type: "bind",
    source,
    destination,
    options: ["rbind", "rprivate", "nosuid", "nodev", ...options],
  });
  const tmpfs = (destination: string, options: string[]) => ({
    type: "tmpfs",
    source: "tmpfs",
    destination,
    options,
  });
  const access = (readonly: boolean) => (readonly ? "ro" : "rw");
  const binds = spec.mounts.filter((mount) => mount.type === "bind");
  const volumes = spec.mounts.filter((mount) => mount.type === "volume");
  const targets = [...spec.mounts.map((mount) => mount.target), ...spec.tmpfs.map((mount) => mount.path)];
  return {
    mounts: [
      ...(guest.type === "volume"
        ? [tmpfs(GUEST_SOCKET_DIR, socketTmpfs)]
        : [
            bind(guest.dir, GUEST_DIR, "ro"),
            bind(guest.socketDir, GUEST_SOCKET_DIR, "rw", "noexec"),
            ...Object.entries(guest.ownFiles)
              .filter(([place]) => !targets.includes(place))
              .map(([place, file]) => bind(file, place, "rw", "noexec")),
            ...(guest.guardFile === undefined ? [] : [bind(guest.guardFile, GUARD_FILE, "ro", "noexec")]),
          ]),
      ...spec.tmpfs.map((mount) => tmpfs(mount.path, tmpfsOptions(mount))),
      ...binds.map((mount) => bind(mount.source, mount.target, access(mount.readonly))),
    ],
    volumes: [
      ...(guest.type === "volume"
        ? [{ Name: guest.name, Dest: GUEST_DIR, Options: ["nosuid", "nodev", "ro"] }]
        : []),
      ...volumes.map((mount) => ({
        Name: volumeName(mount.source),
        Dest: mount.target,
        // Else the first container fills a new volume with what its image has there.
        Options: ["nosuid", "nodev", "nocopy", access(mount.readonly)],
      })),
    ],
  };
}
