import type { RuntimeSpec } from "../../contracts/runtime.ts";
import { GUEST_DIR, guestArgs, startCapabilities } from "../common/guest-program.ts";
import { CAPTURED_RESOLVER } from "../common/network-capture.ts";
import { guardArgs } from "../common/open-network.ts";
import type { ApiRequest } from "./api-client.ts";
import type { ContainerOptions, GuestMount } from "./flavor.ts";
import { limitConfig } from "./limits.ts";

/** Where the guest listens, inside. */
export const GUEST_SOCKET_DIR = `${GUEST_DIR}/run`;
export const GUEST_SOCKET = "guest.sock";
/** Inside; the guest reads there what it lets out, and nobody inside can write to it. */
export const GUARD_FILE = `${GUEST_DIR}/guard`;
/** Inside. */
export const GUEST_SOCKET_PATH = `${GUEST_SOCKET_DIR}/${GUEST_SOCKET}`;
/** Of a directory that only root can enter: nobody but an engine's exec connects there. */
export const socketTmpfs = ["rw", "noexec", "nosuid", "nodev", "mode=0700", "size=65536"];
/** /dev/shm: Docker's default. */
export const SHM_BYTES = 64 * 1024 * 1024;

/** What a container runs. */
export function guestCommand({ spec, nameServers, guest }: ContainerOptions): string[] {
  const hasFile = guest.type === "bind" && guest.guardFile !== undefined;
  const guard = hasFile ? ["--guard", GUARD_FILE] : guardArgs(spec, nameServers);
  return guestArgs(spec, ["--listen", GUEST_SOCKET_PATH, ...guard]);
}

/** What the engine calls the network that a container gets. */
export function engineNetwork({ spec, flavor }: ContainerOptions): string {
  if (spec.network === "host") return "host";
  return spec.network === "open" ? (flavor.uplink?.mode ?? "none") : "none";
}

/** As Docker takes it. */
export function createRequest(name: string, options: ContainerOptions): ApiRequest {
  return { method: "POST", path: "/containers/create", query: { name }, body: containerConfig(options) };
}

function containerConfig(options: ContainerOptions): object {
  const { spec, flavor } = options;
  return {
    Image: spec.image.id,
    Hostname: spec.hostname,
    Labels: options.labels,
    Env: Object.entries(spec.env).map(([name, value]) => `${name}=${value}`),
    // The guest is root; commands become whoever they shall be.
    User: "0:0",
    WorkingDir: spec.workdir,
    Entrypoint: guestCommand(options),
    Cmd: [],
    Tty: false,
    OpenStdin: false,
    // The image's own would run beside the guest.
    Healthcheck: { Test: ["NONE"] },
    HostConfig: {
      NetworkMode: engineNetwork(options),
      ...resolver(options),
      IpcMode: "private",
      CgroupnsMode: "private",
      ReadonlyRootfs: spec.readonlyRoot,
      CapDrop: ["ALL"],
      CapAdd: startCapabilities(spec).map((name) => name.replace(/^CAP_/, "")),
      SecurityOpt: ["no-new-privileges", `seccomp=${flavor.seccomp}`, ...(flavor.securityOptions ?? [])],
      Privileged: false,
      ShmSize: SHM_BYTES,
      Tmpfs: Object.fromEntries([
        ...(options.guest.type === "volume" ? [[GUEST_SOCKET_DIR, socketTmpfs.join(",")]] : []),
        ...spec.tmpfs.map((mount) => [mount.path, tmpfsOptions(mount).join(",")]),
      ]),
      ...(flavor.relabels ? { Binds: relabelledBinds(options.guest) } : {}),
      Mounts: [
        ...ownMounts(options.guest, flavor.relabels === true),
        ...spec.mounts.map((mount) => ({
          Type: mount.type,
          Source: mount.type === "volume" ? options.volumeName(mount.source) : mount.source,
          Target: mount.target,
          ReadOnly: mount.readonly,
          // Else the first container fills a new volume with what its image has there.
          ...(mount.type === "volume" ? { VolumeOptions: { NoCopy: true } } : {}),
        })),
      ],
      Ulimits: Object.entries(flavor.rlimits).map(([Name, most]) => ({ Name, Soft: most, Hard: most })),
      // The guest keeps the main command's output, and the engine above stores it.
      LogConfig: { Type: "none" },
      RestartPolicy: { Name: "no" },
      ...limitConfig(spec.limits, flavor.capabilities.limits),
      ...flavor.hostConfig,
    },
  };
}

/** Without it a container's resolv.conf is made of the engine's machine's, search list included, whatever its network is. */
function resolver({ spec, nameServers }: ContainerOptions): object {
  if (spec.network === "open") return nameServers.length > 0 ? { Dns: nameServers } : {};
  if (spec.network === "host") return {};
  // `.`: no search list.
  return { Dns: [CAPTURED_RESOLVER.nameServer], DnsSearch: ["."], DnsOptions: [CAPTURED_RESOLVER.option] };
}

function ownMounts(guest: GuestMount, relabels: boolean): object[] {
  if (guest.type === "volume") {
    return [{ Type: "volume", Source: guest.name, Target: GUEST_DIR, ReadOnly: true }];
  }
  if (relabels) return [];
  return [
    { Type: "bind", Source: guest.dir, Target: GUEST_DIR, ReadOnly: true },
    { Type: "bind", Source: guest.socketDir, Target: GUEST_SOCKET_DIR },
    ...(guest.guardFile === undefined
      ? []
      : [{ Type: "bind", Source: guest.guardFile, Target: GUARD_FILE, ReadOnly: true }]),
  ];
}

/** `Mounts` knows no labels. Volumes have that of containers. */
function relabelledBinds(guest: GuestMount): string[] {
  if (guest.type === "volume") return [];
  return [
    `${guest.dir}:${GUEST_DIR}:ro,z`,
    `${guest.socketDir}:${GUEST_SOCKET_DIR}:z`,
    ...(guest.guardFile === undefined ? [] : [`${guest.guardFile}:${GUARD_FILE}:ro,z`]),
  ];
}

export function tmpfsOptions(mount: RuntimeSpec["tmpfs"][number]): string[] {
  return [
    mount.readonly ? "ro" : "rw",
    mount.exec ? "exec" : "noexec",
    "nosuid",
    "nodev",
    `mode=${mount.mode.toString(8).padStart(4, "0")}`,
    `size=${mount.sizeBytes}`,
  ];
}
