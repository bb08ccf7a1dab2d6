import { z } from "zod";

export const portProtocols = ["tcp", "udp"] as const;

const port = z.number().int().max(65535);

/** den's `PortMapping`: a port of a sandbox that is reached through one of the engine's machine. */
export const PortMapping = z
  .object({
    sandbox_port: port
      .min(1)
      .meta({ description: "Where a program inside listens, on loopback or all addresses" }),
    host_port: port.min(0).default(0).meta({ description: "0: one that is free, which the answer tells" }),
    protocol: z
      .string()
      .transform((word) => word.toLowerCase() || "tcp")
      .pipe(z.enum(portProtocols, { error: "the protocol of a port is tcp or udp" }))
      .default("tcp"),
    address: z.string().max(64).default("127.0.0.1").meta({
      description: "Address of the engine's machine. Others than loopback are for those whom the server lets",
    }),
  })
  .meta({ id: "PortMapping" });
export type PortMapping = z.input<typeof PortMapping>;
export type PortMappingParsed = z.output<typeof PortMapping>;

/** A published port as it is now. */
export const PublishedPort = z
  .object({
    sandbox_port: port,
    host_port: port,
    protocol: z.enum(portProtocols),
    address: z.string(),
    state: z.enum(["open", "closed", "failed"]).meta({
      description: "`closed` while the sandbox does not run; `failed`: nobody listens, and `error` says why",
    }),
    error: z.string().optional(),
  })
  .meta({ id: "PublishedPort" });
export type PublishedPort = z.infer<typeof PublishedPort>;

/** Which of a sandbox's ports: by its number inside. */
export interface PortChoice {
  sandboxPort: number;
  /** Default: tcp. */
  protocol?: (typeof portProtocols)[number];
}

/** What `POST …/ports/{port}/preview` takes. */
export const PreviewRequest = z
  .object({
    expires_in: z
      .number()
      .int()
      .min(1)
      .max(30 * 24 * 3600)
      .default(3600)
      .meta({ description: "Seconds that the link is good for" }),
  })
  .meta({ id: "PreviewRequest" });
export type PreviewRequest = z.input<typeof PreviewRequest>;

/** A way into one port of one sandbox for whoever has it, until it expires. */
export const PreviewLink = z
  .object({
    url: z.string().meta({ description: "For a browser. Whoever has it may use the port" }),
    token: z.string().meta({ description: "The secret in it; programs may send it as `X-Warren-Token`" }),
    expires_at: z.string().meta({ description: "RFC 3339" }),
  })
  .meta({ id: "PreviewLink" });
export type PreviewLink = z.infer<typeof PreviewLink>;
