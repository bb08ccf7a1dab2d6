import { z } from "zod";
import { networkModes, type RuntimeSpec } from "./runtime.ts";
import { Isolation } from "./sandbox.ts";

/** The stored form of `PreparedImage`. */
export const StoredImage = z.object({
  id: z.string(),
  reference: z.string(),
  env: z.record(z.string(), z.string()),
  workdir: z.string().exactOptional(),
  user: z.string().exactOptional(),
  cmd: z.array(z.string()).exactOptional(),
});

export const StoredReach = z.object({ rules: z.array(z.string()), internal: z.array(z.string()) });

/** The stored form of `RuntimeSpec`, of engines and of drivers: what older ones left out is filled in. */
export const StoredSpec: z.ZodType<RuntimeSpec> = z.object({
  id: z.string(),
  image: StoredImage,
  env: z.record(z.string(), z.string()),
  workdir: z.string(),
  cmd: z.array(z.string()).exactOptional(),
  user: z.string().exactOptional(),
  mainAfter: z.string().exactOptional(),
  hostname: z.string(),
  labels: z.record(z.string(), z.string()),
  network: z.enum(networkModes),
  reach: StoredReach.exactOptional(),
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
