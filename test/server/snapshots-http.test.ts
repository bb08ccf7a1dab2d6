import { expect, it } from "vitest";
import { createNodeClient } from "../../src/client/node/index.ts";
import type { SnapshotInfo } from "../../src/contracts/snapshots.ts";
import { serve } from "./serve.ts";

it("restores for clients over TCP only what they could create", async () => {
  await using served = await serve({ apiKeys: ["k"] });
  const remote = createNodeClient({ url: served.url, apiKey: "k" });
  const local = createNodeClient({ url: `unix:${served.socketPath}` });
  const told = served.api.snapshot;
  expect(await remote.snapshots.restore("snap-box")).toMatchObject({ id: "box" });
  const port = { sandbox_port: 80, host_port: 0, protocol: "tcp" as const, address: "0.0.0.0" };
  const tooMuch: Partial<SnapshotInfo>[] = [
    { mounts: [{ type: "bind", source: "/", mount_path: "/host", read_only: true }] },
    { network_mode: "host" },
    { ssh_agent: { socket: "/run/agent.sock" } },
    { ports: [port] },
  ];
  for (const more of tooMuch) {
    Object.assign(told, more);
    await expect(remote.snapshots.restore("snap-box")).rejects.toMatchObject({ code: "forbidden" });
    expect(await local.snapshots.restore("snap-box")).toMatchObject({ id: "box" });
    for (const name of Object.keys(more)) delete told[name as keyof SnapshotInfo];
  }
  Object.assign(told, { ports: [{ ...port, address: "127.0.0.1" }] });
  expect(await remote.snapshots.restore("snap-box")).toMatchObject({ id: "box" });
});

it("speaks as den does: with or without a body, and with an array where there is nothing", async () => {
  await using served = await serve();
  const at = (path: string) => `${served.url}/api/v1${path}`;
  for (const body of [undefined, "{}", '{"name":""}', '{"name":null}']) {
    const made = await fetch(at("/sandboxes/box/snapshots"), { method: "POST", ...(body ? { body } : {}) });
    expect([made.status, await made.json()]).toEqual([201, expect.objectContaining({ id: "snap-box" })]);
  }
  const restored = await fetch(at("/snapshots/snap-box/restore"), { method: "POST" });
  expect([restored.status, await restored.json()]).toEqual([
    201,
    expect.objectContaining({ id: "box", status: "running" }),
  ]);
  const none = await fetch(at("/sandboxes/aaaaaaaaaaaaaaaa/snapshots"));
  expect([none.status, await none.json()]).toEqual([200, []]);
  expect((await fetch(at("/snapshots/snap-box"), { method: "DELETE" })).status).toBe(204);
  for (const body of ["[]", "x", '{"name":1}']) {
    const refused = await fetch(at("/sandboxes/box/snapshots"), { method: "POST", body });
    expect(refused.status).toBe(400);
  }
});
