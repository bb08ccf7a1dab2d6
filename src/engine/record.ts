import { z } from "zod";
import { CredentialInfo } from "../contracts/credentials.ts";
import { NetworkRule, NetworkRules } from "../contracts/network.ts";
import { portProtocols } from "../contracts/ports.ts";
import { CreateSandbox } from "../contracts/sandbox.ts";
import { Secret } from "../contracts/secrets.ts";
import { StoredSpec } from "../contracts/stored-spec.ts";
import { sandboxStates } from "./states.ts";

const millis = z.number().int();

/** A published port. Host port 0: not chosen yet. */
export const StoredPort = z.object({
  sandbox_port: z.number().int().min(1).max(65_535),
  host_port: z.number().int().min(0).max(65_535),
  protocol: z.enum(portProtocols),
  address: z.string(),
  /** Why nobody listens, though the sandbox runs. */
  error: z.string().optional(),
});
export type StoredPort = z.infer<typeof StoredPort>;

/** One sandbox as the engine knows it. Times are milliseconds since 1970. */
export const SandboxRecord = z.object({
  // It becomes part of file names: what was tampered with must not get that far.
  id: z.string().regex(/^[a-z][a-z2-7]{15}$/, "not an id of a sandbox"),
  name: z.string().optional(),
  runtime: z.string(),
  state: z.enum(sandboxStates),
  /** What was asked for. */
  request: CreateSandbox.omit({ secrets: true, credentials: true }),
  /** What is run; absent until the image is ready. */
  spec: StoredSpec.optional(),
  createdAt: millis,
  /** Absent: never. */
  expiresAt: millis.optional(),
  startedAt: millis.optional(),
  stoppedAt: millis.optional(),
  /** Host pid of the guest, while it runs. */
  pid: z.number().int().optional(),
  exitCode: z.number().int().optional(),
  oomKilled: z.boolean().optional(),
  /** Of filtered and open network, as they are now. */
  network: NetworkRules.optional(),
  ports: z.array(StoredPort).optional(),
  /** What was reached in learn mode, as rules that allow it. */
  learnt: z.array(NetworkRule).optional(),
  /** Without their values, which are never in a record. */
  secrets: z.array(Secret).optional(),
  /** Without their values, likewise. */
  credentials: z.array(CredentialInfo).optional(),
  /** That it was restored from. */
  snapshot: z.string().optional(),
  error: z.string().optional(),
});
export type SandboxRecord = z.infer<typeof SandboxRecord>;

/** Runs as far as anybody knows: in error only for its silence. */
export function isAlive(record: SandboxRecord | undefined): record is SandboxRecord {
  return (
    record?.state === "running" ||
    record?.state === "paused" ||
    (record?.state === "error" && record.pid !== undefined)
  );
}
