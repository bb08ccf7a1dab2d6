import { z } from "zod";
import { NetworkDecision } from "./network.ts";
import { SandboxInfo } from "./sandbox.ts";
import { SshSignature } from "./ssh-agent.ts";

export const sandboxEventTypes = [
  "created",
  "started",
  "paused",
  "resumed",
  "updated",
  "snapshotted",
  "stopped",
  "extended",
  "failed",
  "removed",
  "network",
  "signature",
] as const;

/** Something that has happened to a sandbox. */
export const SandboxEvent = z
  .object({
    type: z.enum(sandboxEventTypes),
    at: z.string().meta({ description: "RFC 3339" }),
    sandbox: SandboxInfo.meta({ description: "As it was then" }),
    decision: NetworkDecision.optional().meta({
      description: "Of `network`: what was decided, once, or `count` more times since it was last told",
    }),
    signature: SshSignature.optional().meta({
      description: "Of `signature`: what the SSH agent was asked for",
    }),
  })
  .meta({ id: "SandboxEvent" });
export type SandboxEvent = z.infer<typeof SandboxEvent>;

export const EventFilter = z
  .object({
    sandbox: z.string().optional().meta({ description: "Only those of this sandbox: id, prefix or name" }),
    types: z.array(z.enum(sandboxEventTypes)).optional().meta({ description: "Only these" }),
  })
  .meta({ id: "EventFilter" });

export interface EventOptions extends z.infer<typeof EventFilter> {
  signal?: AbortSignal;
}
