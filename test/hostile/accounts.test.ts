import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { WarrenError } from "../../src/contracts/errors.ts";
import { type Lab, openLab } from "./support/lab.ts";

/** Longest that a look at a hostile file of accounts may take, in milliseconds: on a busy machine, and far from for ever. */
const BOUND_MS = 20_000;

let lab: Lab;
let sandbox: string;

beforeAll(async () => {
  lab = await openLab({ programs: ["cat", "links", "tree"] });
  sandbox = await lab.sandbox();
});
afterAll(() => lab?.[Symbol.asyncDispose]());
beforeEach(() => lab.engine.files.remove(sandbox, "/etc/passwd"));

/** The ids that a command as `user` has, or the code of the refusal. */
async function idsOf(user: string): Promise<string> {
  const started = performance.now();
  const result = await lab
    .attack(sandbox, "cat", ["/proc/self/status"], { user, timeout: 60 })
    .catch((error: unknown) => error);
  expect(performance.now() - started).toBeLessThan(BOUND_MS);
  if (result instanceof WarrenError) return result.code;
  return /^Uid:\s+(.*)$/m.exec((result as { stdout: string }).stdout)?.[1] ?? "none";
}

describe("/etc/passwd, which belongs to the attacker, as", () => {
  it.each([
    "/dev/zero",
    "/dev/urandom",
    "/proc/kmsg",
    "/proc/1/mem",
    "/proc/1/fd/10",
    "/dev/tty",
    "/proc",
    "/etc/passwd",
  ])("a link to %s is refused in time", async (target) => {
    await lab.attack(sandbox, "links", [target, "/etc/passwd"]);
    expect(await idsOf("mallory")).toMatch(/^[a-z_]+$/);
  });

  it("a sparse file of 1 TiB is refused in time", async () => {
    await lab.attack(sandbox, "tree", ["sparse", "/etc/passwd", String(2 ** 40)]);
    expect(await idsOf("mallory")).toMatch(/^[a-z_]+$/);
  });

  it.each([
    "mallory:x:4294967295:4294967295::/:\n",
    "mallory:x:4294967296:4294967296::/:\n",
    "mallory:x:18446744073709551616:0::/:\n",
    "mallory:x:-1:-1::/:\n",
    "mallory:x:0x0:0::/:\n",
    "mallory:x:65536:65536::/:\n",
    "mallory:x:1879048192:0::/:\n",
    "mallory:x::0::/:\n",
    "mallory\0:x:0:0::/:\n",
    `${"x".repeat(1_000_000)}\nmallory`,
    ":".repeat(100_000),
    "",
  ])("%j gives no id that the sandbox has not", async (text) => {
    await lab.engine.files.write(sandbox, "/etc/passwd", Buffer.from(text));
    expect(await idsOf("mallory")).toMatch(/^[a-z_]+$/);
    // Without an account, a number is that number.
    expect(await idsOf("1000")).toBe("1000\t1000\t1000\t1000");
  });

  it("a user id outside of the sandbox's range is refused", async () => {
    for (const user of [
      "65536",
      "4294967295",
      "1879048192",
      "4294967296",
      "-1",
      "0:4294967295",
      "0:65536",
      ":",
      "0:",
    ]) {
      expect([user, await idsOf(user)]).toEqual([user, expect.stringMatching(/^[a-z_]+$/)]);
    }
  });
});
