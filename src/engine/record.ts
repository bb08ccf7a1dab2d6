import { z } from "zod";
import { NetworkRules } from "../contracts/network.ts";
import type { RuntimeSpec } from "../contracts/runtime.ts";
import { CreateSandbox, Isolation } from "../contracts/sandbox.ts";
import { sandboxStates } from "./states.ts";

const PreparedImage = z.object({
  id: z.string(),
  reference: z.string(),
  env: z.record(z.string(), z.string()),
  workdir: z.string().exactOptional(),
  user: z.string().exactOptional(),
  cmd: z.array(z.string()).exactOptional(),
});

/** The stored form of `RuntimeSpec`. */
const StoredSpec: z.ZodType<RuntimeSpec> = z.object({
  id: z.string(),
  image: PreparedImage,
  env: z.record(z.string(), z.string()),
  workdir: z.string(),
  cmd: z.array(z.string()).exactOptional(),
  user: z.string().exactOptional(),
  hostname: z.string(),
  labels: z.record(z.string(), z.string()),
  network: z.enum(["none", "filtered", "open", "host"]),
  // Sandboxes of before there was a choice have none.
  isolation: Isolation.default("container"),
  readonlyRoot: z.boolean(),
  tmpfs: z.array(
    z.object({
      path: z.string(),
      sizeBytes: z.number().int(),
      readonly: z.boolean(),
      exec: z.boolean(),
      mode: z.number().int(),
    }),
  ),
  // Those of before there were mounts have none.
  mounts: z
    .array(
      z.object({
        type: z.enum(["volume", "bind"]),
        source: z.string(),
        target: z.string(),
        readonly: z.boolean(),
      }),
    )
    .default([]),
  limits: z.object({
    memoryBytes: z.number(),
    memoryHighBytes: z.number().exactOptional(),
    cpuNano: z.number(),
    pids: z.number(),
  }),
});

const millis = z.number().int();

/** One sandbox as the engine knows it. Times are milliseconds since 1970. */
export const SandboxRecord = z.object({
  // It becomes part of file names: what was tampered with must not get that far.
  id: z.string().regex(/^[a-z][a-z2-7]{15}$/, "not an id of a sandbox"),
  name: z.string().optional(),
  runtime: z.string(),
  state: z.enum(sandboxStates),
  /** What was asked for. */
  request: CreateSandbox,
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
  /** Of filtered network, as they are now. */
  network: NetworkRules.optional(),
  error: z.string().optional(),
});
export type SandboxRecord = z.infer<typeof SandboxRecord>;
