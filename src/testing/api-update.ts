import { expect } from "vitest";
import type { UpdateSandbox } from "../contracts/sandbox.ts";
import type { ApiContext } from "./api-fixture.ts";
import { expectFailure } from "./failures.ts";

const MIB = 1024 ** 2;

/** Takes so much memory, says so, and waits. */
// perl may hold two copies on its way.
const holding = (mib: number) => [
  "perl",
  "-e",
  `$x = "x" x (${mib} << 20); $| = 1; print "held\\n"; sleep 600`,
];

/** Limits that change. */
export function testApiUpdate({ test, fixture, unless }: ApiContext): void {
  const limits = { unless: unless("limits") };

  test("refuses a change that says nothing or makes no sense", async () => {
    const { api, box } = fixture();
    const before = await box();
    const nonsense = [{}, { memory: -1 }, { memory: 1.5 }, { cpu: -1 }, { pid_limit: -5 }, { memory: "1g" }];
    for (const changes of nonsense) {
      await expectFailure(api.update(before.id, changes as UpdateSandbox), "invalid_request");
    }
    expect(await api.get(before.id)).toEqual(before);
  });

  test(
    "raises and lowers the limits of a running sandbox",
    async () => {
      const { api, box, shell } = fixture();
      const { id } = await box({ memory: 64 * MIB, pid_limit: 50 });
      const take = (mib: number) => shell(id, `perl -e '$x = "x" x (${mib} << 20); print length $x'`);
      expect((await take(100)).exit_code).toBe(137);
      const raised = await api.update(id, { memory: 256 * MIB, memory_high: 200 * MIB, cpu: 500_000_000 });
      expect(raised).toMatchObject({ memory: 256 * MIB, memory_high: 200 * MIB, cpu: 5e8, pid_limit: 50 });
      expect(await api.get(id)).toEqual(raised);
      expect((await api.stats(id)).memory_limit).toBe(256 * MIB);
      expect((await take(100)).stdout).toBe(String(100 * MIB));
      await api.update(id, { memory: 48 * MIB, memory_high: 0, pid_limit: 20 });
      expect((await take(100)).exit_code).toBe(137);
      expect((await shell(id, "for i in $(seq 60); do sleep 600 & done; echo all")).stdout).not.toBe("all\n");
      expect((await api.stats(id)).pid_count).toBeLessThanOrEqual(20);
      expect(await api.get(id)).not.toHaveProperty("memory_high");
    },
    limits,
  );

  test(
    "keeps new limits over a restart, and takes them while stopped or paused",
    async () => {
      const { api, box } = fixture();
      const { id } = await box({ memory: 64 * MIB });
      await api.update(id, { memory: 96 * MIB, memory_high: 80 * MIB });
      await api.stop(id, { timeoutMs: 0 });
      await api.start(id);
      expect((await api.stats(id)).memory_limit).toBe(96 * MIB);
      await api.stop(id, { timeoutMs: 0 });
      expect(await api.update(id, { memory: 128 * MIB })).toMatchObject({
        status: "stopped",
        memory: 128 * MIB,
      });
      await api.start(id);
      expect((await api.stats(id)).memory_limit).toBe(128 * MIB);
      if (unless("pause")) return;
      await api.pause(id);
      expect(await api.update(id, { memory: 160 * MIB })).toMatchObject({ status: "paused" });
      await api.resume(id);
      expect((await api.stats(id)).memory_limit).toBe(160 * MIB);
    },
    limits,
  );

  test(
    "refuses less memory than is in use, and leaves all as it was",
    async () => {
      const { api, box } = fixture();
      const { id } = await box({ memory: 128 * MIB, pid_limit: 40 });
      const holder = await api.execStream(id, { cmd: holding(40) });
      await using _ = holder;
      await holder.output[Symbol.asyncIterator]().next();
      const error = await expectFailure(
        api.update(id, { memory: 24 * MIB, pid_limit: 30 }),
        "sandbox_wrong_state",
      );
      expect(error.hint).toBeTruthy();
      expect(await api.get(id)).toMatchObject({ status: "running", memory: 128 * MIB, pid_limit: 40 });
      expect((await api.stats(id)).memory_limit).toBe(128 * MIB);
      expect((await api.exec(id, { cmd: ["true"] })).exit_code).toBe(0);
    },
    limits,
  );

  test(
    "refuses limits that contradict each other or are too small",
    async () => {
      const { api, box } = fixture();
      const { id } = await box({ memory: 64 * MIB });
      const nonsense = [
        { memory: 1 },
        { memory_high: 1 },
        { memory_high: 65 * MIB },
        { cpu: 1 },
        { pid_limit: 1 },
      ];
      for (const changes of nonsense) await expectFailure(api.update(id, changes), "invalid_request");
      expect(await api.get(id)).toMatchObject({ memory: 64 * MIB });
    },
    limits,
  );

  if (unless("limits")) {
    test("refuses limits that the runtime can't enforce", async () => {
      const { api, box } = fixture();
      const { id } = await box();
      for (const changes of [
        { memory: 64 * MIB },
        { memory_high: 64 * MIB },
        { cpu: 1e9 },
        { pid_limit: 50 },
      ]) {
        await expectFailure(api.update(id, changes), "unsupported");
      }
    });
  }
}
