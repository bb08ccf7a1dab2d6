import { z } from "zod";

/** Bytes of a Unix socket's path, without the NUL at its end (unix(7)). */
const MAX_SOCKET_PATH = 107;
/** `ssh-add -l` and `ssh-keygen -l` print it so. */
const Fingerprint = z
  .string()
  .regex(
    /^SHA256:[A-Za-z0-9+/]{43}$/,
    "a key is named by its fingerprint, SHA256:…, as ssh-add -l prints it",
  );

/** The SSH agent that programs inside may have sign. */
export const SshAgent = z
  .object({
    socket: z
      .string()
      .regex(/^\/[^\0]*$/, "an absolute path is needed")
      .refine((path) => new TextEncoder().encode(path).length <= MAX_SOCKET_PATH, "the path is too long")
      .meta({ description: "Absolute path of the agent's socket on the engine's machine" }),
    keys: z
      .array(Fingerprint)
      .min(1)
      .max(64)
      .optional()
      .meta({ description: "Fingerprints of the keys that may be used; default: all that the agent has" }),
  })
  .meta({ id: "SshAgent" });
export type SshAgent = z.infer<typeof SshAgent>;

/** That a program inside has asked for a signature. */
export const SshSignature = z
  .object({
    key: z.string().meta({ description: "Fingerprint; empty where several are told as one" }),
    allowed: z.boolean().meta({ description: "The agent has signed" }),
    reason: z.string(),
    at: z.string().meta({ description: "RFC 3339" }),
    count: z.number().int().optional().meta({ description: "So many more, since it was last told" }),
  })
  .meta({ id: "SshSignature" });
export type SshSignature = z.infer<typeof SshSignature>;
