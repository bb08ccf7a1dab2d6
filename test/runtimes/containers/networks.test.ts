import { expect, it } from "vitest";
import { admitNetwork } from "../../../src/engine/network.ts";
import { elsewhere, networksWithout } from "../../../src/runtimes/containers/networks.ts";

it("has all modes but those that are missing, and with --strict not the machine's own network", () => {
  expect(networksWithout({}, false)).toEqual({ networkModes: ["none", "filtered", "open", "host"] });
  expect(networksWithout(elsewhere, false).networkModes).toEqual(["none", "filtered"]);
  const strict = networksWithout({}, true);
  expect(strict.networkModes).toEqual(["none", "filtered", "open"]);
  const asked = { network_mode: "host" };
  expect(() => admitNetwork(asked, { name: "docker", capabilities: strict })).toThrow(/--strict/);
  expect(admitNetwork(asked, { name: "docker", capabilities: networksWithout({}, false) })).toEqual({
    mode: "host",
  });
});
