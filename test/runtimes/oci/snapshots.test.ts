import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import type { PreparedImage } from "../../../src/contracts/runtime.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { shortId } from "../common/support/boxes.ts";
import { openTestRuntime, type TestRuntime } from "./support/open.ts";
import { busyboxRoot } from "./support/rootfs.ts";

const root = busyboxRoot();
mkdirSync(join(root.path, "base"));
writeFileSync(join(root.path, "base", "old"), "");
writeFileSync(join(root.path, "gone"), "");

let made: TestRuntime;
beforeAll(async () => {
  made = await openTestRuntime("crun");
});
afterEach(async () => {
  for (const { id } of await made.runtime.list()) await made.runtime.remove(id);
  for (const { id } of (await made.runtime.snapshots?.list()) ?? []) await made.runtime.snapshots?.remove(id);
  expect(layers()).toEqual([]);
});
afterAll(async () => {
  await made.close();
  root[Symbol.dispose]();
});

const snapshots = () => {
  if (!made.runtime.snapshots) throw new Error("no snapshots");
  return made.runtime.snapshots;
};
const plain = () => made.runtime.images.ensure(`dir:${root.path}`);
const layers = () => {
  const dir = join(made.stateDir, "oci", "snapshots", "layers");
  return existsSync(dir) ? readdirSync(dir) : [];
};
const snap = async (sandboxId: string): Promise<{ id: string; image: PreparedImage }> =>
  snapshots().create(sandboxId, shortId());

describe("snapshots of crun's sandboxes", () => {
  it("are what sandboxes are made of, whoever of the others has gone", async () => {
    const first = await made.box({ image: await plain() });
    await first.sh(
      "mkdir /root; echo one > /root/file; rm /etc/hosts; rm -r /base; mkdir /base; echo > /base/new; rm /gone",
    );
    const one = await snap(first.id);
    expect(one.image).toMatchObject({ id: `snapshot:${one.id}`, reference: `dir:${root.path}` });
    expect(await made.runtime.inspect(first.id)).toMatchObject({ state: "running" });
    await first.sh("echo later > /root/file");
    await made.runtime.remove(first.id);
    const second = await made.box({ image: one.image });
    expect(
      await second.sh("cat /root/file; ls /base; test -e /etc/hosts || test -e /gone || echo none"),
    ).toBe("one\nnew\nnone\n");
    await second.sh("echo two > /root/second; rm /root/file");
    const two = await snap(second.id);
    await snapshots().remove(one.id);
    await expectFailure(made.runtime.create(await made.spec({ image: one.image })), "image_not_found");
    await made.runtime.remove(second.id);
    const third = await made.box({ image: two.image });
    expect(await third.sh("ls /root; cat /root/second")).toBe("second\ntwo\n");
    await snapshots().remove(two.id);
    expect(await snapshots().list()).toEqual([]);
    expect(await third.sh("ls /root; cat /root/second; ls /base")).toBe("second\ntwo\nnew\n");
    expect(layers()).toHaveLength(2);
    await made.runtime.close();
    await made.reopen();
    expect(layers()).toHaveLength(2);
    await made.runtime.remove(third.id);
    expect(layers()).toEqual([]);
  });
});
