import { expect } from "vitest";
import type { ApiContext } from "./api-fixture.ts";
import { expectFailure } from "./failures.ts";

/** Removing what has stopped. */
export function testApiPrune({ test, fixture, unless }: ApiContext): void {
  test("prunes stopped sandboxes and no others", async () => {
    const { api, box } = fixture();
    expect(await api.prune()).toEqual({ removed: [], failed: [] });
    const [running, stopped, ended, last] = await Promise.all([box(), box(), box({ cmd: ["true"] }), box()]);
    await Promise.all([api.stop(stopped.id, { timeoutMs: 0 }), api.wait(ended.id)]);
    if (!unless("pause")) await api.pause(last.id);
    const { removed, failed } = await api.prune({ runtime: running.runtime });
    expect(removed.sort()).toEqual([stopped.id, ended.id].sort());
    expect(failed).toEqual([]);
    const left = new Map((await api.list()).map(({ id, status }) => [id, status]));
    expect(left).toEqual(
      new Map([
        [running.id, "running"],
        [last.id, unless("pause") ? "running" : "paused"],
      ]),
    );
    await expectFailure(api.get(stopped.id), "sandbox_not_found");
    expect(await api.prune()).toEqual({ removed: [], failed: [] });
    for (const runtime of ["no-such-runtime", "__proto__"]) {
      await expectFailure(api.prune({ runtime }), "unsupported");
    }
  });

  test("prunes nothing that is started meanwhile", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    await api.stop(id, { timeoutMs: 0 });
    const [started, pruned] = await Promise.allSettled([api.start(id), api.prune()]);
    if (pruned.status === "rejected") throw pruned.reason;
    const gone = pruned.value.removed.includes(id);
    expect(started.status).toBe(gone ? "rejected" : "fulfilled");
    if (gone) await expectFailure(api.get(id), "sandbox_not_found");
    else expect((await api.exec(id, { cmd: ["true"] })).exit_code).toBe(0);
  });
}
