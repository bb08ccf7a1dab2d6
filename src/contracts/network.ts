import { z } from "zod";

/** den's `PortMapping`. */
export const PortMapping = z
  .object({
    sandbox_port: z.number().int().min(1).max(65535),
    host_port: z.number().int().min(0).max(65535),
    protocol: z.string().optional(),
  })
  .meta({ id: "PortMapping" });
export type PortMapping = z.infer<typeof PortMapping>;
