import { z } from "zod";
import { NetworkRules } from "../contracts/network.ts";
import { CreateSandbox } from "../contracts/sandbox.ts";
import { StoredSpec } from "../contracts/stored-spec.ts";
import { sandboxStates } from "./states.ts";

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
