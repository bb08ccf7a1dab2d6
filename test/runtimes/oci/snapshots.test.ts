import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import type { PreparedImage } from "../../../src/contracts/runtime.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { shortId } from "../common/support/boxes.ts";
import { buildImage } from "../common/support/registry.ts";
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

function temporary(): { path: string } & Disposable {
  const path = mkdtempSync(join(tmpdir(), "woci-"));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}
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
  it("bring nothing to where a container runtime mounts, and no device, whatever is in the layer", async () => {
    const box = await made.box({ image: await plain() });
    await box.sh("chmod 1711 /");
    await made.runtime.stop(box.id, { timeoutMs: 0 });
    const upper = join(made.stateDir, "oci", "sandboxes", box.id, "fs", "upper");
    symlinkSync("/bin", join(upper, "proc"));
    symlinkSync("/bin", join(upper, ".warren"));
    execFileSync("mknod", [join(upper, "disk"), "b", "7", "0"]);
    const { image } = await snap(box.id);
    const restored = await made.box({ image });
    expect(
      await restored.sh("stat -c '%F %n' /proc /.warren; stat -c %a /; test -e /disk || echo none"),
    ).toBe("directory /proc\ndirectory /.warren\n1711\nnone\n");
  });

  it("keep their image's layer, when its name has gone too", async () => {
    using dir = temporary();
    const image = await made.runtime.images.ensure(`oci:${buildImage(join(dir.path, "layout"))}:tag`);
    const box = await made.box({ image });
    await box.sh("echo kept > /file");
    const { id, image: kept } = await snap(box.id);
    await made.runtime.remove(box.id);
    await made.runtime.close();
    rmSync(join(made.stateDir, "oci/images/oci/refs"), { recursive: true });
    await made.reopen();
    const restored = await made.box({ image: kept });
    expect(await restored.sh("cat /file")).toBe("kept\n");
    await snapshots().remove(id);
    await made.runtime.remove(restored.id);
    await made.runtime.close();
    await made.reopen();
    await expectFailure(made.runtime.create(await made.spec({ image })), "image_not_found");
  });

  it("are refused above a depth, and for an id that is taken", async () => {
    const box = await made.box();
    const { id } = await snap(box.id);
    await expectFailure(snapshots().create(box.id, id), "name_taken");
    await made.runtime.stop(box.id, { timeoutMs: 0 });
    const file = join(made.stateDir, "oci", "sandboxes", box.id, "spec.json");
    const stored = JSON.parse(readFileSync(file, "utf8"));
    const [layer] = layers().map((name) => join(made.stateDir, "oci/snapshots/layers", name, "layer"));
    // overlayfs takes no layer twice, so the start is of as many others.
    const others = Array.from({ length: 63 }, (_, i) => join(made.stateDir, `layer-${i}`));
    for (const other of others) mkdirSync(other);
    writeFileSync(file, JSON.stringify({ ...stored, layers: [layer, ...others] }));
    await expectFailure(snap(box.id), "unsupported");
    await made.runtime.start(box.id);
    expect(await box.sh("echo deep")).toBe("deep\n");
  });

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
