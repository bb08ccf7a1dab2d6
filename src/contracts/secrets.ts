import { z } from "zod";

/** Bytes of a secret at most: what fits into the header of a request beside the others. */
const MAX_VALUE = 16_384;
/** Shorter ones would be found in, and taken out of, answers that don't hold them. */
const MIN_VALUE = 8;

/** The name of an environment variable, in which a sandbox finds the placeholder. */
export const SecretName = z
  .string()
  .regex(/^[A-Za-z_][A-Za-z0-9_]{0,127}$/, "a secret's name is one of an environment variable");

/** Never in an error: a failed check says what is wrong with it, not what it is. */
export const SecretValue = z
  .string()
  .min(MIN_VALUE, `a secret has at least ${MIN_VALUE} characters`)
  .max(MAX_VALUE, `a secret has at most ${MAX_VALUE} characters`)
  .regex(/^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$/, "a secret is printable ASCII on one line");

/** How and where a secret is used. All that is told of one. */
export const Secret = z
  .object({
    name: SecretName,
    hosts: z.array(z.string().min(1).max(300)).min(1).max(64).meta({
      description:
        "Such as `api.example.com`, `*.example.com:8443`; port 443 where none is given. `http://host`: without TLS",
    }),
    header: z
      .object({
        name: z
          .string()
          .regex(/^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$/, "not the name of a header")
          .default("Authorization"),
        template: z
          .string()
          .max(512)
          .regex(/^[\x20-\x7e]*\{\}[\x20-\x7e]*$/, "a template is printable ASCII with {} for the secret")
          .default("Bearer {}"),
      })
      .optional()
      .meta({ description: "Set on each request to the hosts, whatever the sandbox has sent there" }),
    basic: z
      .object({
        username: z
          .string()
          .max(256)
          .regex(/^[\x20-\x39\x3b-\x7e]*$/, "a user name is printable ASCII without a colon"),
      })
      .optional()
      .meta({ description: "The secret is sent as the password of this user; instead of `header`" }),
    env: SecretName.optional().meta({ description: "Variable of the placeholder; default: the name" }),
  })
  .meta({ id: "Secret" });
export type Secret = z.output<typeof Secret>;

/** One that a sandbox is made with. */
export const NewSecret = Secret.extend({ value: SecretValue }).meta({ id: "NewSecret" });
export type NewSecret = z.input<typeof NewSecret>;
export type NewSecretParsed = z.output<typeof NewSecret>;

/** Makes one or takes its place: a new value alone keeps all else as it is. */
export const PutSecret = Secret.omit({ name: true })
  .partial()
  .extend({ value: SecretValue })
  .meta({ id: "PutSecret" });
export type PutSecret = z.input<typeof PutSecret>;
