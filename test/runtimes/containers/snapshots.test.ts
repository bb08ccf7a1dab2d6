import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { Runtime, SnapshotStore } from "../../../src/contracts/runtime.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { shellInside } from "../../../src/testing/guest-tools.ts";
import { plainSpec, type RuntimeFixture, runtimeFixture } from "../../../src/testing/runtime-fixture.ts";
import { piecesOf } from "../../../src/testing/tar.ts";
import { contextOf, scratch } from "./support/contexts.ts";
import { engines, type TestEngine } from "./support/engines.ts";
import { type Fault, openStandIn, type StandIn } from "./support/stand-in.ts";

const BASE = "my/base:1";

describe.each(engines)("snapshots of $name", ({ isPodman, open }) => {
  let engine: TestEngine;
  let fixture: RuntimeFixture;
  let snapshots: SnapshotStore;
  beforeAll(async () => {
    engine = await open();
    fixture = runtimeFixture(engine.runtime, { image: BASE, isolation: "container" });
    snapshots = fixture.snapshots();
    const dockerfile = `${scratch}RUN busybox mkdir -p /opt /data && echo of-the-image >/data/file\nENV GREETING=hello\nCMD ["serve"]`;
    const context = piecesOf(contextOf(dockerfile));
    await fixture.images().build({ tag: BASE, context });
  }, 120_000);
  afterAll(() => engine?.close(), 60_000);
  afterEach(() => fixture.clean());

  const shell = async (box: { guest: Parameters<typeof shellInside>[0] }, script: string) => {
    const env = { PATH: "/bin" };
    const { exit_code, stdout, stderr } = await shellInside(box.guest, script, { env });
    expect([exit_code, stderr]).toEqual([0, ""]);
    return stdout;
  };
  const imagesOf = async () =>
    ((await engine.client.json({ path: "/images/json", query: { all: true } })) as { RepoTags?: string[] }[])
      .flatMap(({ RepoTags }) => RepoTags ?? [])
      .filter((name) => name.includes(engine.ownerId));
  const known = async (image: string) => {
    const path = (action: string) => `/images/${encodeURIComponent(image)}/${action}`;
    const answers = [path("json"), path("history")].map((one) => engine.client.json({ path: one }));
    return JSON.stringify(await Promise.all(answers));
  };

  it("have the files of their sandbox and nothing else of it, and need nothing that it was made of", async () => {
    const { runtime } = engine;
    const env = { PATH: "/bin", API_TOKEN: "hush-hush" };
    const cmd = ["busybox", "sleep", "1234567"];
    const box = await fixture.box({ env, cmd });
    await shell(box, "echo a >/opt/root; echo b >/opt/user; busybox chown 1234:1235 /opt/user");

    // What the engine's own commit keeps of it.
    const name = `warren-${engine.ownerId}-${box.id}`;
    const query = { container: name, repo: "localhost/plain", tag: "1", pause: true };
    await engine.client.json({ method: "POST", path: "/commit", query, body: { Env: [], Cmd: [] } });
    expect(await known("localhost/plain:1")).toMatch(/hush-hush/);
    await engine.cli("rmi", "localhost/plain:1");

    const id = fixture.snapshotId();
    const { image, sizeBytes } = await snapshots.create(box.id, id);
    expect(image).toEqual({ ...box.spec.image, id: image.id });
    expect(image).toMatchObject({ reference: BASE, cmd: ["serve"], env: { GREETING: "hello" } });
    const told = await known(image.id);
    for (const secret of ["hush-hush", "API_TOKEN", "1234567", box.id, "/.warren", "GREETING"]) {
      expect(told).not.toContain(secret);
    }
    expect(await imagesOf()).toEqual([`localhost/warren-${engine.ownerId}/snapshot:${id}`]);
    expect(await snapshots.list()).toEqual([{ id, sizeBytes }]);
    expect(sizeBytes).toBeLessThan(1_000_000);

    await runtime.remove(box.id);
    await fixture.images().remove(BASE);
    if (isPodman) await engine.cli("image", "prune", "--force");
    const restored = await fixture.box({ image });
    const look = "busybox stat -c '%u:%g %n' /opt/root /opt/user; busybox cat /opt/user /data/file";
    expect(await shell(restored, look)).toBe("0:0 /opt/root\n1234:1235 /opt/user\nb\nof-the-image\n");
    await fixture
      .images()
      .build({ tag: BASE, context: piecesOf(contextOf(`${scratch}RUN busybox mkdir /opt`)) });
  });

  it("are no images of the user's, and stay while sandboxes are made of them", async () => {
    const { runtime } = engine;
    const store = fixture.images();
    const box = await fixture.box();
    const id = fixture.snapshotId();
    const { image } = await snapshots.create(box.id, id);
    const name = `localhost/warren-${engine.ownerId}/snapshot:${id}`;
    expect((await store.list("")).map(({ reference }) => reference)).toEqual([BASE]);
    for (const reference of [name, image.id]) {
      expect(await store.inspect(reference)).toBeUndefined();
      await store.remove(reference);
      await expectFailure(runtime.images.ensure(reference), "image_not_found", "image_pull_failed");
    }
    const context = () => piecesOf(contextOf(scratch));
    await expectFailure(store.build({ tag: name, context: context() }), "image_invalid");
    await expectFailure(snapshots.create(box.id, id), "name_taken");
    await expectFailure(snapshots.create(box.id, "../x"), "invalid_request");

    const restored = await fixture.box({ image });
    await runtime.stop(restored.id, { timeoutMs: 0 });
    await snapshots.remove(id);
    expect(await snapshots.list()).toEqual([]);
    const retired = name.replace("/snapshot:", "/snapshot-retired:");
    expect(await imagesOf()).toEqual([retired]);
    await expectFailure(store.build({ tag: retired, context: context() }), "image_invalid");
    await runtime.start(restored.id);
    await runtime.remove(restored.id);
    expect(await imagesOf()).toEqual([]);
  });

  it("hide nothing that an image has declared as a volume", async () => {
    const tag = fixture.imageName();
    await fixture
      .images()
      .build({ tag, context: piecesOf(contextOf(`${scratch}RUN busybox mkdir /data\nVOLUME /data`)) });
    const declared = await engine.runtime.images.ensure(tag);
    const box = await fixture.box({ image: declared });
    await shell(box, "echo kept >/data/file");
    if (isPodman) {
      const { image } = await snapshots.create(box.id, fixture.snapshotId());
      expect(await shell(await fixture.box({ image }), "busybox cat /data/file")).toBe("kept\n");
    } else {
      const error = await expectFailure(snapshots.create(box.id, fixture.snapshotId()), "unsupported");
      expect(error.message).toContain("/data");
      const tmpfs = [{ path: "/data", sizeBytes: 1 << 20, readonly: false, exec: true, mode: 0o777 }];
      await snapshots.create((await fixture.box({ image: declared, tmpfs })).id, fixture.snapshotId());
    }
  });
});

describe("a snapshot that an engine does not make", () => {
  let standIn: StandIn;
  let runtime: Runtime;
  let container: { isPaused: boolean };
  const image = { id: `sha256:${"a".repeat(64)}`, reference: "x", env: {} };
  beforeEach(async () => {
    standIn = await openStandIn();
    runtime = standIn.runtime;
    await runtime.create(plainSpec("tbox", image, "container"));
    container = standIn.containers.get("warren-t1-tbox") as typeof container;
  });
  afterEach(() => standIn.close());

  const snapshots = () => runtime.snapshots as SnapshotStore;
  const refuse =
    (status: number, words: string): Fault =>
    (response) => {
      response.statusCode = status;
      response.end(JSON.stringify({ message: words }));
    };
  /** The engine dies while it holds the sandbox still. */
  const die: Fault = (_, socket) => {
    container.isPaused = true;
    socket.destroy();
  };

  it.each<[string, string, Fault, string, RegExp]>([
    ["dies", "POST /commit", die, "runtime_unavailable", /went away/],
    [
      "has no space left",
      "POST /commit",
      refuse(500, "write /x: no space left on device"),
      "no_space",
      /\/x/,
    ],
    [
      "refuses",
      "POST /commit",
      refuse(500, "Decode(): \u001b[2JEOF"),
      "runtime_failed",
      /Decode\(\): +\[2JEOF/,
    ],
    ["has lost the container", "POST /commit", refuse(404, "gone"), "sandbox_not_found", /gone/],
    ["says what is not JSON", "POST /commit", (response) => response.end("<html>"), "runtime_failed", /JSON/],
    ["takes no image", "POST /images/load", refuse(500, "no layer"), "runtime_failed", /no layer/],
    [
      "fails to take an image",
      "POST /images/load",
      (response) => response.end('{"error":"open absent/0.tar: no such file"}'),
      "runtime_failed",
      /absent/,
    ],
    [
      "takes an image and has none",
      "POST /images/load",
      (response) => response.end("{}"),
      "runtime_failed",
      /another/,
    ],
    [
      "tells no size",
      "GET /images/history",
      (response) => response.end('{"Size":"x"}'),
      "runtime_failed",
      /API/,
    ],
  ])("since it %s leaves nothing, and its sandbox as it was", async (_, request, fault, code, words) => {
    standIn.faults.set(request, fault);
    const error = await expectFailure(snapshots().create("tbox", "snap-1"), code as "runtime_failed");
    expect(error.message).toMatch(words);
    standIn.faults.clear();
    expect([...standIn.images.keys()]).toEqual([]);
    expect(await runtime.inspect("tbox")).toEqual({ id: "tbox", state: "running" });
    expect(await snapshots().create("tbox", "snap-1")).toMatchObject({ id: "snap-1", sizeBytes: 77 });
    expect(await snapshots().list()).toEqual([{ id: "snap-1", sizeBytes: 77 }]);
    expect([...standIn.images.keys()]).toEqual(["localhost/warren-t1/snapshot:snap-1"]);
  });

  it("lets its sandbox go on when the engine is back, and keeps what its user has paused", async () => {
    const away: Fault = (_, socket) => socket.destroy();
    standIn.faults.set("POST /commit", (response, socket) => {
      die(response, socket);
      standIn.faults.set("GET /containers/json", away);
    });
    await expectFailure(snapshots().create("tbox", "snap-1"), "runtime_unavailable");
    expect(container.isPaused).toBe(true);
    standIn.faults.delete("GET /containers/json");
    // By whichever engine looks next.
    runtime = await standIn.reopen();
    expect(await runtime.list()).toEqual([{ id: "tbox", state: "running" }]);
    expect(container.isPaused).toBe(false);

    container.isPaused = true;
    expect(await runtime.inspect("tbox")).toEqual({ id: "tbox", state: "paused" });
    standIn.faults.clear();
    await snapshots().create("tbox", "snap-1");
    expect(await runtime.inspect("tbox")).toEqual({ id: "tbox", state: "paused" });
  });

  it("removes what was left half made, and makes no sandbox of what is gone", async () => {
    standIn.faults.set("POST /images/load", (_, socket) => socket.destroy());
    standIn.faults.set("DELETE /images", (_, socket) => socket.destroy());
    await expectFailure(snapshots().create("tbox", "snap-1"), "runtime_unavailable");
    standIn.faults.clear();
    expect(await snapshots().list()).toEqual([{ id: "snap-1", sizeBytes: 77 }]);
    await snapshots().remove("snap-1");
    expect([...standIn.images.keys()]).toEqual([]);

    const { image: kept } = await snapshots().create("tbox", "snap-2");
    await snapshots().remove("snap-2");
    const error = await expectFailure(
      runtime.create(plainSpec("tother", kept, "container")),
      "image_not_found",
    );
    expect(error.hint).toContain("warren image ls");
    expect(await runtime.inspect("tother")).toBeUndefined();
  });
});
