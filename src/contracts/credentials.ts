import { z } from "zod";
import { credentialKinds } from "./constants.ts";

export const CredentialKind = z.enum(credentialKinds);
export type CredentialKind = z.infer<typeof CredentialKind>;

/** Characters of a value at most: session tokens have some thousands. */
const MAX_VALUE = 16_384;

/** Never in an error: a failed check says what is wrong with it, not what it is. */
const Value = z
  .string()
  .min(1)
  .max(MAX_VALUE)
  .regex(/^[\x21-\x7e]+$/, "this is not printable ASCII without spaces");
const Moment = z.iso.datetime({ offset: true, error: "a moment is written as in RFC 3339" });

/** As AWS's `credential_process` and `aws configure export-credentials` print them. */
export const AwsCredentials = z
  .object({
    Version: z.literal(1, "only version 1 is known").optional(),
    AccessKeyId: Value,
    SecretAccessKey: Value,
    SessionToken: Value.optional(),
    Expiration: Moment.optional(),
  })
  .meta({ id: "AwsCredentials" });
export type AwsCredentials = z.infer<typeof AwsCredentials>;

/** An OAuth 2.0 access token of Google Cloud, and whose it is. */
export const GcpCredentials = z
  .object({
    access_token: Value,
    expires_in: z
      .number()
      .int()
      .positive()
      .max(31_536_000)
      .optional()
      .meta({ description: "Seconds from now" }),
    expires_at: Moment.optional().meta({ description: "RFC 3339; instead of `expires_in`" }),
    project: z
      .string()
      .regex(/^[a-z0-9][a-z0-9:.-]{0,126}$/, "not the id of a project")
      .optional(),
    numeric_project: z
      .string()
      .regex(/^\d{1,20}$/, "not the number of a project")
      .optional(),
    account: z
      .string()
      .regex(/^[\w.+%-]{1,128}@[\w.-]{1,128}$/, "an account is an e-mail address")
      .optional(),
    scopes: z
      .array(z.string().regex(/^[\x21-\x7e]{1,256}$/, "not a scope"))
      .max(64)
      .optional()
      .meta({ description: "Default: cloud-platform" }),
  })
  .refine((given) => given.expires_in === undefined || given.expires_at === undefined, {
    error: "expires_in and expires_at exclude each other",
  })
  .meta({ id: "GcpCredentials" });
export type GcpCredentials = z.infer<typeof GcpCredentials>;

export const credentialSchemas = { aws: AwsCredentials, gcp: GcpCredentials } as const;
export const AnyCredentials = z.union([AwsCredentials, GcpCredentials]).meta({ id: "AnyCredentials" });
export type AnyCredentials = z.infer<typeof AnyCredentials>;

/** Those that a sandbox is made with. */
export const Credentials = z
  .object({ aws: AwsCredentials.optional(), gcp: GcpCredentials.optional() })
  .meta({ id: "Credentials" });
export type Credentials = z.infer<typeof Credentials>;

/** All that is told of credentials. */
export const CredentialInfo = z
  .object({
    kind: CredentialKind,
    expires_at: z.string().optional().meta({ description: "RFC 3339; absent: not known, or never" }),
    project: z.string().optional(),
    account: z.string().optional(),
  })
  .meta({ id: "CredentialInfo" });
export type CredentialInfo = z.infer<typeof CredentialInfo>;
