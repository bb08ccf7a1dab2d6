import { expect, it } from "vitest";
import { stateDir, testEngine } from "../support/engine.ts";

it("keeps the rules of now over a restart of the engine, of running and stopped sandboxes", async () => {
  const dir = stateDir();
  const rules = { allow: ["example.com:443"], deny: ["*.example.com"] };
  const ids: string[] = [];
  {
    await using first = await testEngine(dir.path);
    for (const _ of [1, 2]) {
      const { id } = await first.engine.create({ network: { allow: ["first.example"] } });
      await first.engine.network.set(id, rules);
      ids.push(id);
    }
    await first.engine.stop(ids[1] ?? "", { timeoutMs: 0 });
  }
  await using second = await testEngine(dir.path);
  for (const id of ids) {
    expect(await second.engine.get(id)).toMatchObject({ network: rules });
    expect(await second.engine.network.explain(id, "example.com", 443)).toMatchObject({ allowed: true });
    expect(await second.engine.network.explain(id, "first.example", 443)).toMatchObject({ allowed: false });
  }
});
