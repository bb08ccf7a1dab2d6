import { expect, it } from "vitest";
import type { Capabilities } from "../../src/contracts/runtime.ts";
import { internalKind, internalNetworks } from "../../src/engine/egress/addresses.ts";
import { parseRule } from "../../src/engine/egress/rules.ts";
import { admitNetwork } from "../../src/engine/network.ts";
import { explainOpen, openReach } from "../../src/engine/open-network.ts";
import { guardArgs, guardItems, hostNetworks } from "../../src/runtimes/common/open-network.ts";

const able: Pick<Capabilities, "networkModes" | "networkMissing"> = {
  networkModes: ["none", "filtered", "open"],
  networkMissing: { host: { why: "it is somebody else's", fix: "ask them" } },
};
const admitted = (request: Parameters<typeof admitNetwork>[0]) =>
  admitNetwork(request, { name: "some", capabilities: able });

it("takes den's and mino's words, and says why a mode is not there and what mends it", () => {
  expect(admitted({ network_mode: "bridge" })).toMatchObject({ mode: "open" });
  expect(admitted({ network_mode: "internal" })).toEqual({ mode: "none" });
  expect(() => admitted({ network_mode: "host" })).toThrow(/no network "host": it is somebody else's/);
  try {
    admitted({ network_mode: "host" });
  } catch (error) {
    expect(error).toMatchObject({ code: "unsupported", hint: "ask them" });
  }
  expect(() => admitted({ network_mode: "bridge", isolation: "gvisor" })).toThrow(/gvisor/);
});

it("decides denials first, then what is allowed, and keeps the ports", () => {
  const { reach } = admitted({
    network_mode: "open",
    network: { allow: ["10.1.0.0/16:443", "[fd00::1]:22-23", "0x7f000001"], deny: ["8.8.8.8"] },
  });
  expect(reach?.rules).toEqual([
    "-8.8.8.8/32",
    "+10.1.0.0/16@443-443",
    "+fd00::1/128@22-23",
    "+127.0.0.1/32",
  ]);
  expect(() => admitted({ network_mode: "open", network: { allow: Array(201).fill("10.0.0.1") } })).toThrow(
    /200/,
  );
});

it("holds back the same addresses as filtered network, in what carries them too", () => {
  const lists = internalNetworks().map((network) => parseRule(network).target);
  for (const address of [
    ...[
      "10.1.2.3",
      "100.64.0.1",
      "127.0.0.1",
      "169.254.169.254",
      "172.31.255.255",
      "192.168.0.1",
      "224.0.0.1",
      "255.255.255.255",
    ],
    ...["0.0.0.0", "168.63.129.16", "8.8.8.8", "172.32.0.1", "100.128.0.1", "192.169.0.1"],
    ...[
      "::1",
      "::ffff:10.0.0.1",
      "fd00:ec2::254",
      "fe80::1",
      "ff02::1",
      "64:ff9b::a00:1",
      "64:ff9b::808:808",
    ],
    ...["2002:a00:1::1", "2002:808:808::1", "2606:4700::1111", "2a00::1"],
  ]) {
    // No wire carries IPv4-mapped ones, so that they need not be told apart.
    const mapped = address.startsWith("::ffff:");
    const family = address.includes(":") ? "ipv6" : "ipv4";
    const isHeld = lists.some(
      (target) => target.kind === "network" && target.family === family && target.list.check(address, family),
    );
    expect([address, isHeld]).toEqual([address, mapped || internalKind(address) !== undefined]);
  }
});

it("holds back the networks that a machine is in, but no half of the internet", () => {
  const one = (address: string, prefix: number, family: "IPv4" | "IPv6") => ({
    ...{ address, family, netmask: "", mac: "", internal: false, cidr: `${address}/${prefix}` },
    ...(family === "IPv6" ? { scopeid: 0 } : {}),
  });
  const interfaces = {
    eth0: [one("45.1.2.3", 22, "IPv4"), one("2a01::5", 64, "IPv6")],
    ppp0: [one("46.1.2.3", 0, "IPv4"), one("2a02::5", 3, "IPv6")],
    wg0: undefined,
  };
  expect(hostNetworks(interfaces as never)).toEqual([
    "45.1.2.3/22",
    "2a01::5/64",
    "46.1.2.3/32",
    "2a02::5/128",
  ]);
});

it("says what the packets to an address meet, as the packet filter reads its items", () => {
  const rules = {
    allow: ["10.1.0.0/16:443", "[fd00::1]:22-23", "8.8.4.0/24"],
    deny: ["8.8.4.4", "0.0.0.0/0:25", "2a00::/12"],
  };
  const items = [...guardItems({ id: "box", reach: openReach(rules) }, ["10.0.2.3"]), "-45.1.2.0/24"];
  const explained = (host: string, port: number) => explainOpen(host, port, items, rules);
  const cases: [host: string, port: number, allowed: boolean, cause: string, rule?: string][] = [
    ["10.1.2.3", 443, true, "rule", "10.1.0.0/16:443"],
    ["10.1.2.3", 444, false, "internal"],
    ["::ffff:10.1.2.3", 443, true, "rule", "10.1.0.0/16:443"],
    ["64:ff9b::a01:203", 443, false, "internal"],
    ["fd00::1", 23, true, "rule", "[fd00::1]:22-23"],
    ["fd00::1", 24, false, "internal"],
    ["8.8.4.4", 443, false, "rule", "8.8.4.4"],
    ["8.8.4.5", 443, true, "rule", "8.8.4.0/24"],
    ["8.8.4.5", 25, false, "rule", "0.0.0.0/0:25"],
    ["10.0.2.3", 53, true, "open"],
    ["10.0.2.3", 54, false, "internal"],
    ["45.1.2.3", 443, false, "internal"],
    ["45.1.3.3", 443, true, "open"],
    ["2a0f::1", 443, false, "rule", "2a00::/12"],
    ["2a10::1", 443, true, "open"],
  ];
  expect(
    cases.map(([host, port]) => {
      const { allowed, cause, rule } = explained(host, port);
      return [host, port, allowed, cause, ...(rule === undefined ? [] : [rule])];
    }),
  ).toEqual(cases);
  expect(() => explained("example.com", 443)).toThrow(/addresses/);
});

it("opens nothing when a record has lost what is internal", () => {
  const spec = { id: "box", network: "open" } as never;
  expect(() => guardArgs(spec, [])).toThrow(/broken/);
});
