import { once } from "node:events";
import { createServer, type Socket } from "node:net";
import { expect, it } from "vitest";
import type { EgressRules } from "../../../src/engine/egress/policy.ts";
import { createPresets, documentedPresets } from "../../../src/lib/presets/presets.ts";
import { stateDir, testEngine } from "../support/engine.ts";
import { listen, openRig, scripted } from "./rig.ts";

const none: EgressRules = { allow: [], deny: [] };

it.each<[string, EgressRules, EgressRules, boolean]>([
  ["a preset that goes", { allow: ["preset:registries"], deny: [] }, none, false],
  [
    "a preset that is denied",
    { allow: ["preset:registries"], deny: [] },
    { allow: ["preset:registries"], deny: ["preset:dev"] },
    false,
  ],
  [
    "a preset that stays",
    { allow: ["preset:registries"], deny: [] },
    { allow: ["preset:dev"], deny: [] },
    true,
  ],
  ["learning that ends", { allow: ["10.0.0.0/8", "127.0.0.1"], deny: [], learn: true }, none, false],
  [
    "what was learnt",
    { allow: ["10.0.0.0/8", "127.0.0.1"], deny: [], learn: true },
    { allow: ["internal:mirror.test:PORT"], deny: [] },
    true,
  ],
])("an open connection and %s", async (_what, before, after, stays) => {
  const server = createServer((socket) => socket.on("error", () => {}).pipe(socket));
  const port = await listen(server);
  const fill = (rules: EgressRules): EgressRules => ({
    ...rules,
    allow: rules.allow.map((rule) => rule.replace("PORT", String(port))),
  });
  const presets = createPresets({
    home: "/nowhere",
    root: "/nowhere",
    variable: (name) => (name === "NPM_CONFIG_REGISTRY" ? `http://mirror.test:${port}` : undefined),
  });
  await using rig = await openRig({ rules: fill(before), presets });
  const socket: Socket = rig.connect();
  socket.write(`CONNECT mirror.test:${port} HTTP/1.1\r\nHost: mirror.test:${port}\r\n\r\n`);
  expect(String((await once(socket, "data"))[0])).toMatch(/ 200 /);
  socket.write("one\n");
  expect(String((await once(socket, "data"))[0])).toBe("one\n");
  rig.egress.replace(fill(after));
  if (stays) {
    socket.write("two\n");
    expect(String((await once(socket, "data"))[0])).toBe("two\n");
  } else {
    await new Promise((gone) => socket.resume().once("end", gone).once("close", gone));
  }
  socket.destroy();
  server.close();
});

it("looks a name up for each connection, and dials no address that it has not judged", async () => {
  await using server = await scripted();
  const answers = [["127.0.0.1"], ["169.254.169.254"], ["10.0.0.1", "127.0.0.1"], ["127.0.0.1"]];
  let asked = 0;
  // As a name server that answers with a TTL of 0, or an alias of another name, does.
  await using rig = await openRig({
    rules: { allow: ["127.0.0.1", "rebinds.test"], deny: [] },
    resolve: async () => answers[asked++] ?? [],
  });
  const get = () =>
    rig.say([
      `GET http://rebinds.test:${server.port}/ HTTP/1.1\r\nHost: rebinds.test:${server.port}\r\nConnection: close\r\n\r\n`,
    ]);
  expect(await get()).toMatch(/^HTTP\/1\.1 200 /);
  expect(await get()).toMatch(/^HTTP\/1\.1 403 .*internal address \(link-local\)/s);
  expect(await get()).toMatch(/^HTTP\/1\.1 200 /);
  expect(await get()).toMatch(/^HTTP\/1\.1 200 /);
  expect(asked).toBe(4);
  expect(rig.events.filter(({ allowed }) => allowed).map(({ address }) => address)).toEqual(
    Array(3).fill("127.0.0.1"),
  );
});

it("keeps presets, and what is learnt, over a restart of the engine", async () => {
  const dir = stateDir();
  const rules = { allow: ["preset:registries"], learn: true };
  let id = "";
  {
    await using first = await testEngine(dir.path);
    ({ id } = await first.engine.create({ network: rules }));
  }
  // A mirror that its owner has configured since then.
  await using second = await testEngine(dir.path, {
    presets: (name) => [...documentedPresets(name), { rule: "internal:mirror.test:443", from: "npm" }],
  });
  expect(await second.engine.network.get(id)).toMatchObject({ rules, learnt: [] });
  expect(await second.engine.network.explain(id, "mirror.test", 443)).toMatchObject({
    allowed: true,
    preset: "preset:registries",
  });
  await second.engine.network.change(id, { learn: false });
  expect(await second.engine.network.explain(id, "other.test", 443)).toMatchObject({ allowed: false });
});
