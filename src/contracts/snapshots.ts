import { z } from "zod";
import { CredentialInfo } from "./credentials.ts";
import { NetworkRules } from "./network.ts";
import { portProtocols } from "./ports.ts";
import { CreateSandbox, SandboxName } from "./sandbox.ts";
import { Secret } from "./secrets.ts";
import { SshAgent } from "./ssh-agent.ts";
import { MountInfo } from "./storage.ts";

/** What people call one. Several may have the same. */
const SnapshotName = z
  .string()
  .max(128)
  .regex(/^[^\p{Cc}\p{Cf}\p{Zl}\p{Zp}]*$/u, "a snapshot's name is one line of visible text");

/** A sandbox's files as they were at one instant, with all its settings of then. den's fields first. */
export const SnapshotInfo = z
  .object({
    id: z.string().meta({ description: "`snap-` and 16 characters" }),
    sandbox_id: z.string().meta({ description: "Of the sandbox that it was taken of, which may be gone" }),
    name: z.string().meta({ description: "Empty when it was given none; not unique" }),
    image_id: z.string(),
    created_at: z.string().meta({ description: "RFC 3339" }),
    size: z.number().int().meta({ description: "Bytes on disk beyond what it was made of" }),
    runtime: z.string(),
    image: z.string().meta({ description: "Reference of the image that the sandbox was created of" }),
    network_mode: z.string(),
    network: NetworkRules.optional().meta({ description: "The rules that held then" }),
    mounts: z.array(MountInfo).optional().meta({ description: "A sandbox that is made of it has them, too" }),
    ports: z
      .array(
        z.object({
          sandbox_port: z.number().int(),
          host_port: z.number().int(),
          protocol: z.enum(portProtocols),
          address: z.string(),
        }),
      )
      .optional(),
    secrets: z.array(Secret).optional(),
    credentials: z.array(CredentialInfo).optional(),
    ssh_agent: SshAgent.optional(),
    error: z.string().optional().meta({ description: "Why it can't be restored" }),
  })
  .meta({ id: "Snapshot" });
export type SnapshotInfo = z.infer<typeof SnapshotInfo>;

export const CreateSnapshot = z.object({ name: SnapshotName.optional() }).meta({ id: "CreateSnapshot" });
export type CreateSnapshot = z.infer<typeof CreateSnapshot>;

/** What is to differ from the sandbox that was; all else is as it was when the snapshot was taken. */
export const RestoreSnapshot = z
  .object({
    name: SandboxName.optional().meta({ description: "Default: none. The old name may be another's by now" }),
    labels: CreateSandbox.shape.labels.meta({ description: "Instead of the old ones" }),
    timeout: CreateSandbox.shape.timeout.meta({
      description:
        "Seconds until the new sandbox expires, as at a creation; absent: as it was given at the creation",
    }),
  })
  .meta({ id: "RestoreSnapshot" });
export type RestoreSnapshot = z.infer<typeof RestoreSnapshot>;

export const SnapshotFilter = z.object({
  sandbox_id: z.string().min(1).max(256).optional().meta({
    description: "Only those of this sandbox: its full id, or what else it is known by while it is there",
  }),
});
export type SnapshotFilter = z.infer<typeof SnapshotFilter>;
