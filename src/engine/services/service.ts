import type { Duplex } from "node:stream";
import type { ServiceNumber, ServicePlace } from "../../guest/types.ts";
import type { SandboxRecord } from "../record.ts";

/** Ours inside. Below /run, which can be written with a read-only root too. */
export const SERVICE_DIR = "/run/warren";

/** What decides whether and how a sandbox has a service. */
export type Served = Pick<SandboxRecord, "id" | "request" | "credentials">;

/** Something of the host that programs inside reach at a place of their own, in whatever network. */
export interface Service {
  /** For sentences. */
  readonly name: string;
  /** By which its guest knows it. */
  readonly number: ServiceNumber;
  readonly at: ServicePlace;
  isWanted(record: Served): boolean;
  /** Tells commands where it is. */
  environment(record: Served): Record<string, string>;
  /** Begins with a sandbox that runs. */
  open(record: Served): OpenService;
}

/** A service of one run of a sandbox. */
export interface OpenService {
  /** Serves a program inside; when it settles, however it does, the connection is over. */
  serve(program: Duplex): Promise<void>;
  /** Nobody is served any more. */
  close?(): void;
}
