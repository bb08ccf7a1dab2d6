import { z } from "zod";

/** Such as `example.com:443`, `*.example.com`, `10.0.0.0/8`, `[fd00::1]:22`, `*`. docs/network.md has the grammar. */
export const NetworkRule = z.string().min(1).max(300);

/** Whom a sandbox with filtered network may reach. Deny wins; what no rule allows is denied. */
export const NetworkRules = z
  .object({
    allow: z.array(NetworkRule).max(1000).optional(),
    deny: z.array(NetworkRule).max(1000).optional(),
  })
  .meta({ id: "NetworkRules" });
export type NetworkRules = z.infer<typeof NetworkRules>;

/** What the rules say of a host and port, and why. */
export const NetworkDecision = z
  .object({
    host: z.string(),
    port: z.number().int(),
    allowed: z.boolean(),
    reason: z.string(),
    rule: z.string().optional().meta({ description: "The rule that decided, as it was written" }),
    address: z.string().optional().meta({ description: "The address that was dialled" }),
    at: z.string().optional().meta({ description: "RFC 3339; of a decision that was taken" }),
  })
  .meta({ id: "NetworkDecision" });
export type NetworkDecision = z.infer<typeof NetworkDecision>;
