import { expect, it } from "vitest";
import type { NetworkPolicy } from "../../src/contracts/network.ts";
import type { NetworkMode } from "../../src/contracts/runtime.ts";
import { fromNetworkPolicy } from "../../src/engine/network-policy.ts";
import { expectFailure } from "../../src/testing/failures.ts";
import { stateDir, testEngine } from "./support/engine.ts";

const all: NetworkMode[] = ["none", "filtered", "open", "host"];
const some: NetworkMode[] = ["none", "filtered"];
const few: NetworkMode[] = ["none"];
const none = { network_mode: "none" };
const star = { network_mode: "filtered", network: { allow: ["*"] } };
const listed = { network_mode: "filtered", network: { allow: ["a.test"], deny: ["b.test"] } };

// As docs/network.md has it: the policy, what the sandbox could have, and what it gets.
it.each<[NetworkPolicy, NetworkMode[], unknown]>([
  [{}, all, none],
  [{ allow_outbound: false }, all, none],
  [{ required: true }, few, none],
  [{ allow_outbound: true }, all, { network_mode: "open" }],
  [{ allow_outbound: true }, some, star],
  [{ allow_outbound: true }, few, none],
  [{ allow_outbound: true, required: true }, some, "unsupported"],
  [{ allow_list: ["a.test"], deny_list: ["b.test"] }, all, listed],
  [{ allow_outbound: true, allow_list: ["a.test"], deny_list: ["b.test"] }, all, listed],
  [{ allow_list: ["a.test"], deny_list: ["b.test"] }, few, none],
  [
    { allow_list: ["a.test"], required: true },
    some,
    { network_mode: "filtered", network: { allow: ["a.test"] } },
  ],
  [{ allow_list: ["a.test"], required: true }, few, "unsupported"],
  [{ deny_list: ["b.test"] }, all, { network_mode: "filtered", network: { deny: ["b.test"] } }],
  [
    { allow_outbound: true, deny_list: ["b.test"] },
    all,
    { network_mode: "filtered", network: { allow: ["*"], deny: ["b.test"] } },
  ],
  [{ deny_list: ["b.test"], required: true }, few, "unsupported"],
  [{ allow_public_ingress: true }, all, none],
])("agh's %j in a sandbox with %j", async (policy, modes, means) => {
  const map = () => fromNetworkPolicy(policy, { modes, ports: [] });
  if (typeof means === "string") await expectFailure(Promise.resolve().then(map), "unsupported");
  else expect(map()).toEqual(means);
});

it("takes its word on who may come in", async () => {
  const map = (allow_public_ingress: boolean, address: string) =>
    Promise.resolve().then(() =>
      fromNetworkPolicy({ allow_public_ingress }, { modes: all, ports: [{ address }] }),
    );
  for (const address of ["127.0.0.1", "127.9.9.9", "::1"]) expect(await map(false, address)).toEqual(none);
  for (const address of ["0.0.0.0", "::", "192.168.0.1"]) {
    await expectFailure(map(false, address), "invalid_request");
    expect(await map(true, address)).toEqual(none);
  }
});

it("is taken where sandboxes are created, as the only word on their network", async () => {
  const dir = stateDir();
  await using opened = await testEngine(dir.path);
  const { engine } = opened;
  const network_policy = { allow_list: ["a.test:443"], deny_list: ["b.test"], required: true };
  const created = await engine.create({ network_policy });
  expect(created).toMatchObject({
    network_mode: "filtered",
    network: { allow: ["a.test:443"], deny: ["b.test"] },
  });
  expect(await engine.network.explain(created.id, "a.test", 443)).toMatchObject({ allowed: true });
  await expectFailure(engine.create({ network_policy, network_mode: "none" }), "invalid_request");
  await expectFailure(engine.create({ network_policy, network: {} }), "invalid_request");
  await expectFailure(engine.create({ network_policy: { allow_list: ["http://a"] } }), "invalid_request");
});
