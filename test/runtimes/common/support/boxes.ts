import { randomBytes } from "node:crypto";
import { expect } from "vitest";
import type { PreparedImage, Runtime, RuntimeSpec } from "../../../../src/contracts/runtime.ts";
import { createGuestClient } from "../../../../src/guest/client.ts";
import type { GuestClient } from "../../../../src/guest/types.ts";
import { shellInside } from "../../../../src/testing/guest-tools.ts";
import { plainSpec } from "../../../../src/testing/runtime-fixture.ts";

export interface Box {
  id: string;
  pid: number;
  guest: GuestClient;
  /** Standard output of a shell script; fails the test when it doesn't exit with 0. */
  sh(script: string, user?: string): Promise<string>;
}

/** Makes sandboxes of a runtime, which the next engine may open anew. */
export interface Boxes {
  spec(patch?: Partial<RuntimeSpec>): Promise<RuntimeSpec>;
  /** Creates and starts a sandbox. */
  box(patch?: Partial<RuntimeSpec>): Promise<Box>;
}

export function createBoxes(
  runtime: () => Runtime,
  image: () => Promise<PreparedImage>,
  isolation: RuntimeSpec["isolation"],
): Boxes {
  const spec = async (patch: Partial<RuntimeSpec> = {}): Promise<RuntimeSpec> =>
    plainSpec(shortId(), patch.image ?? (await image()), isolation, patch);
  return {
    spec,
    async box(patch) {
      const wanted = await spec(patch);
      await runtime().create(wanted);
      const { pid } = await runtime().start(wanted.id);
      const guest = createGuestClient(() => runtime().connect(wanted.id));
      return { id: wanted.id, pid, guest, sh: (script, user) => sh({ guest }, script, user) };
    },
  };
}

/** As `Box.sh`. */
export async function sh({ guest }: Pick<Box, "guest">, script: string, user?: string): Promise<string> {
  const result = await shellInside(guest, script, user === undefined ? {} : { user });
  expect(result.exit_code, result.stderr).toBe(0);
  return result.stdout;
}

export function shortId(): string {
  return `t${randomBytes(6).toString("hex")}`;
}
