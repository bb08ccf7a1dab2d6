import type { Capabilities, ProbeReport, RuntimeLimits, RuntimeSpec } from "../../contracts/runtime.ts";
import type { ApiClient, ApiRequest } from "./api-client.ts";
import type { BuildService } from "./images/build.ts";
import type { ReachKind } from "./reach.ts";

/** Where engines differ. */
export interface Flavor {
  readonly name: string;
  readonly client: ApiClient;
  readonly capabilities: Capabilities;
  probe(): Promise<ProbeReport>;
  /** What comes after `seccomp=`. */
  readonly seccomp: string;
  /** Beside seccomp and no_new_privs, as `HostConfig.SecurityOpt` has them. */
  readonly securityOptions?: readonly string[];
  /** More of `HostConfig`. */
  readonly hostConfig?: object;
  /** SELinux lets containers use a file only when it has their label: what is ours gets it. Paths must have no colon. */
  readonly relabels?: boolean;
  /** By setrlimit(2)'s names in lower case. */
  readonly rlimits: Readonly<Record<string, number>>;
  /** Makes a container of this name. Default: as Docker does. */
  createRequest?(name: string, options: ContainerOptions): ApiRequest | Promise<ApiRequest>;
  /** New limits of a container that runs on another machine. Default: as Docker does. */
  updateLimits?(container: string, limits: RuntimeLimits): Promise<void>;
  /** Removes a tree in which some files may be of users that only the engine can be. Default: as we can. */
  removeTree?(path: string): Promise<void>;
  /** Where closing a build's connection does not end what the build runs: a service for one build. */
  openBuildService?(): Promise<BuildService>;
  /** What a program is run with that shall see all files of volumes. Default: it sees what we see. */
  readonly asOwner?: { argv: readonly string[]; env: Record<string, string> };
  /**
   * Whether our files and sockets are the engine's too. Default: `exec`, unless it is at a Unix socket. Where a socket never
   * answers, the driver takes `exec` from then on.
   */
  readonly reach?: ReachKind;
  /**
   * How a container with open network gets out. Absent: there is no such way, as `capabilities` tell. Nothing of another machine's
   * networks is known here, so those have none.
   */
  readonly uplink?: Uplink;
  /** It takes only images whose layers it knows by what they are packed as. */
  readonly hasContainerdImages?: boolean;
  /** The guest for the engine's machine, where that is not ours. */
  readonly guestProgram?: Buffer;
  /** Lets go of helpers. */
  close(): Promise<void>;
}

export interface Uplink {
  /** The engine's own name of the mode. */
  mode: "bridge" | "slirp4netns";
  /** Whom names are asked of; none: whom the engine chooses, which works when these are no internal addresses. */
  nameServers(): Promise<readonly string[]>;
}

export interface ContainerOptions {
  spec: RuntimeSpec;
  /** Of a container with open network. */
  nameServers: readonly string[];
  labels: Record<string, string>;
  guest: GuestMount;
  /** The engine's own name of each volume. */
  volumeName(name: string): string;
  flavor: Flavor;
}

/** What holds the guest program, and a directory `run` to mount on. */
export type GuestMount =
  | {
      /** All three are paths of the engine's machine. */
      type: "bind";
      dir: string;
      /** Where the guest makes its socket. */
      socketDir: string;
      /** Files of this sandbox for places where the engine makes none, and there only: their paths by where they show. */
      ownFiles: Readonly<Record<string, string>>;
      /** What the guest of one with open network lets out; it is looked at when that starts. */
      guardFile?: string;
    }
  /** Of the engine's. The socket is in the sandbox only. */
  | { type: "volume"; name: string };
