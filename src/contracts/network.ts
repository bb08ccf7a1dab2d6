import { z } from "zod";

/** Such as `example.com:443`, `*.example.com`, `10.0.0.0/8`, `[fd00::1]:22`, `preset:dev`, `*`. docs/network.md has the grammar. */
export const NetworkRule = z.string().min(1).max(300);

const rules = z.array(NetworkRule).max(1000);

/**
 * Whom a sandbox may reach. Deny wins. With filtered network, what no rule allows is denied; with open network, which knows
 * addresses and networks only, internal addresses that no rule names are.
 */
export const NetworkRules = z
  .object({
    allow: rules.optional(),
    deny: rules.optional(),
    learn: z.boolean().optional().meta({
      description:
        "What no rule denies is allowed, but for internal addresses that no rule names; it is recorded",
    }),
  })
  .meta({ id: "NetworkRules" });
export type NetworkRules = z.infer<typeof NetworkRules>;

/** agh's word for a sandbox's network. docs/network.md says what it means here. */
export const NetworkPolicy = z
  .object({
    allow_public_ingress: z.boolean().optional().meta({
      description: "Ports may be published beyond this machine, where the server lets the client",
    }),
    allow_outbound: z.boolean().optional(),
    allow_list: rules.optional().meta({ description: "Rules; with them nothing else is allowed" }),
    deny_list: rules.optional().meta({ description: "Rules" }),
    required: z.boolean().optional().meta({
      description: "Refused where it can't be enforced as it is; without it, it may become stricter",
    }),
  })
  .meta({ id: "NetworkPolicy" });
export type NetworkPolicy = z.infer<typeof NetworkPolicy>;

/** What is added to rules and taken from them, in one step. Rules are compared as they are written. */
export const NetworkChange = z
  .object({
    allow: rules.optional().meta({ description: "Rules to allow as well" }),
    deny: rules.optional().meta({ description: "Rules to deny as well" }),
    remove: rules.optional().meta({ description: "Rules that go, allowing and denying ones" }),
    learn: z
      .boolean()
      .optional()
      .meta({ description: "Turns learn mode on, and empties its record, or off" }),
  })
  .refine((change) => Object.values(change).some((value) => value !== undefined), {
    error: "at least one of allow, deny, remove and learn is needed",
  })
  .meta({ id: "NetworkChange" });
export type NetworkChange = z.infer<typeof NetworkChange>;

/** The network of a sandbox as it is now. */
export const NetworkState = z
  .object({
    mode: z.string(),
    rules: NetworkRules.meta({ description: "As they were written" }),
    captures: z.boolean().optional().meta({
      description:
        "Of filtered network: whether programs that know no proxy have their way out too, as the sandbox's guest says",
    }),
    presets: z.record(z.string(), z.array(z.object({ rule: z.string(), from: z.string() }))).meta({
      description: "What the presets among the rules stand for here, and which file or variable says so",
    }),
    counts: z.object({ allowed: z.number().int(), denied: z.number().int() }).meta({
      description:
        "Decisions since the sandbox or its engine started; open network counts what it denies alone",
    }),
    records: z.boolean().optional().meta({
      description: "Of open network: whether what its rules deny is recorded now",
    }),
    learnt: z
      .array(NetworkRule)
      .optional()
      .meta({ description: "What was reached in learn mode, as rules that allow it and nothing else" }),
  })
  .meta({ id: "NetworkState" });
export type NetworkState = z.infer<typeof NetworkState>;

/**
 * Why a decision is what it is: a `rule` says so; `no_rule` does; it would lead to an `internal` address that no rule names; it
 * names `no_host`; the TLS server name or Host is a `mismatch` with what was connected to; nothing but `learn` allows it; a `secret` is bound to other hosts, or would go where it may not; there are as many connections as the `limit` is; nothing is against it and the network is `open`. `many` stands for
 * decisions that were too many to be told of one by one.
 */
export const decisionCauses = [
  "rule",
  "no_rule",
  "internal",
  "no_host",
  "mismatch",
  "learn",
  "secret",
  "limit",
  "open",
  "many",
] as const;
export type DecisionCause = (typeof decisionCauses)[number];

/** What the rules say of a host and port, and why. */
export const NetworkDecision = z
  .object({
    host: z.string(),
    port: z.number().int().meta({ description: "0 where the protocol has none, or none is told" }),
    protocol: z.enum(["tcp", "udp", "icmp"]).optional().meta({ description: "Of open network" }),
    allowed: z.boolean(),
    cause: z.enum(decisionCauses),
    reason: z.string(),
    rule: z
      .string()
      .optional()
      .meta({ description: "The rule that decided, as it was written, or as its preset has it" }),
    preset: z.string().optional().meta({ description: "That the rule is of, such as `preset:dev`" }),
    address: z.string().optional().meta({ description: "The address that was dialled" }),
    at: z.string().optional().meta({ description: "RFC 3339; of a decision that was taken" }),
    count: z.number().int().optional().meta({ description: "So many equal ones, when it was more than one" }),
    last_at: z.string().optional().meta({ description: "RFC 3339; when the last of several came" }),
  })
  .meta({ id: "NetworkDecision" });
export type NetworkDecision = z.infer<typeof NetworkDecision>;
