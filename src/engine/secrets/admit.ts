import { WarrenError } from "../../contracts/errors.ts";
import type { NetworkMode } from "../../contracts/runtime.ts";
import type { Secret } from "../../contracts/secrets.ts";
import { checkSecrets } from "../egress/intercept/bindings.ts";

/**
 * Whether a sandbox with this network and these variables can have these secrets.
 * @throws WarrenError `invalid_request`
 */
export function admitSecrets(
  secrets: readonly Secret[],
  mode: NetworkMode,
  env: Readonly<Record<string, string>> | undefined,
): void {
  if (secrets.length === 0) return;
  if (mode !== "filtered") {
    throw new WarrenError(
      "invalid_request",
      `secrets: nothing is added to requests in the network mode ${mode}`,
      {
        hint: 'use "network_mode": "filtered", or leave it out',
      },
    );
  }
  checkSecrets(secrets);
  refuseTakenVariables(secrets, env);
}

/** @throws WarrenError `invalid_request` */
export function refuseTakenVariables(
  secrets: readonly Secret[],
  env: Readonly<Record<string, string>> = {},
): void {
  const taken = secrets.find(({ name, env: variable = name }) => Object.hasOwn(env, variable));
  if (!taken) return;
  const variable = taken.env ?? taken.name;
  throw new WarrenError(
    "invalid_request",
    `secret ${taken.name}: env sets ${variable} too, which has its placeholder`,
    {
      hint: "leave it out of env, or name another variable for the placeholder",
    },
  );
}
