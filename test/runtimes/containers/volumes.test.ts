import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { RuntimeSpec, VolumeStore } from "../../../src/contracts/runtime.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { newId } from "../../../src/testing/runtime-fixture.ts";
import { importBusybox } from "./support/busybox.ts";
import { engines, type TestEngine } from "./support/engines.ts";

describe.each(engines)("volumes of $name", ({ name, open }) => {
  let engine: TestEngine;
  let volumes: VolumeStore;
  let image: RuntimeSpec["image"];
  beforeAll(async () => {
    engine = await open();
    volumes = engine.runtime.volumes as VolumeStore;
    image = await importBusybox(engine);
  }, 120_000);
  afterAll(() => engine?.close(), 120_000);

  const full = (volume: string) => `warren-${engine.ownerId}-${volume}`;
  /** A container that the driver knows nothing of. */
  const foreign = async (volume: string, cmd: string[], labels: Record<string, string> = {}) => {
    const made = (await engine.client.json({
      method: "POST",
      path: "/containers/create",
      body: {
        Image: image.id,
        Cmd: cmd,
        Labels: labels,
        HostConfig: {
          NetworkMode: "none",
          Ulimits: ["nofile", "nproc"].map((limit) => ({ Name: limit, Soft: 1024, Hard: 1024 })),
          Mounts: [{ Type: "volume", Source: full(volume), Target: "/data" }],
        },
      },
    })) as { Id: string };
    return {
      id: made.Id,
      start: () => engine.client.json({ method: "POST", path: `/containers/${made.Id}/start` }),
      wait: () => engine.client.json({ method: "POST", path: `/containers/${made.Id}/wait`, timeoutMs: 0 }),
      isThere: () =>
        engine.client.json({ path: `/containers/${made.Id}/json` }).then(
          () => true,
          () => false,
        ),
      remove: () =>
        engine.client.json({ method: "DELETE", path: `/containers/${made.Id}`, query: { force: true } }),
    };
  };
  const sandbox = async (volume: string, target = "/data") => {
    const id = newId();
    await engine.runtime.create({
      id,
      image,
      env: {},
      workdir: "/",
      hostname: id,
      labels: {},
      network: "none",
      isolation: "container",
      readonlyRoot: false,
      tmpfs: [],
      mounts: [{ type: "volume", source: volume, target, readonly: false }],
      limits: { memoryBytes: 0, cpuNano: 0, pids: 0 },
    });
    return id;
  };

  it("are made once, and keep the labels that they got", async () => {
    const made = await volumes.create("one", { who: "me", "warren.owner": "someone else" });
    expect(made).toEqual({
      name: "one",
      runtime: name,
      labels: { who: "me", "warren.owner": "someone else" },
      created_at: expect.stringMatching(/^\d{4}-.*Z$/),
      mountpoint: expect.stringContaining(full("one")),
    });
    expect(await volumes.create("one", { other: "labels" })).toEqual(made);
    expect(await Promise.all([1, 2, 3].map(() => volumes.create("one", {})))).toEqual([made, made, made]);
    expect(await volumes.inspect("one")).toEqual(made);
    const { Labels } = (await engine.client.json({ path: `/volumes/${full("one")}` })) as {
      Labels: Record<string, string>;
    };
    expect(Labels).toMatchObject({ "warren.owner": engine.ownerId, "warren.volume": "one" });
    await volumes.remove("one");
    expect(await volumes.inspect("one")).toBeUndefined();
    await volumes.remove("one");
  });

  it("are listed by what their names begin with, and nobody else's are", async () => {
    for (const volume of ["a1", "a2", "b1"]) await volumes.create(volume, {});
    const others = ["someone", `warren-${engine.ownerId}-c1`, "warren-other-a3"];
    const label = { "warren.owner": engine.ownerId, "warren.volume": "a4" };
    for (const Name of others) {
      const Labels = Name === "someone" ? label : {};
      await engine.client.json({ method: "POST", path: "/volumes/create", body: { Name, Labels } });
    }
    expect((await volumes.list("a")).map((volume) => volume.name)).toEqual(["a1", "a2"]);
    expect((await volumes.list("")).map((volume) => volume.name)).toEqual(["a1", "a2", "b1"]);
    expect(await volumes.list("warren")).toEqual([]);
    expect(await volumes.inspect("c1")).toBeUndefined();
    await expectFailure(volumes.create("c1", {}), "name_taken");
    await volumes.remove("c1", { force: true });
    const left = (await engine.client.json({ path: "/volumes" })) as { Volumes: { Name: string }[] };
    expect(left.Volumes.map((volume) => volume.Name)).toEqual(expect.arrayContaining(others));
    for (const Name of others) await engine.client.json({ method: "DELETE", path: `/volumes/${Name}` });
    for (const volume of ["a1", "a2", "b1"]) await volumes.remove(volume);
  });

  it("have names and labels within bounds", async () => {
    for (const bad of ["", ".", "../x", "a/b", "-a", "a b", "a\0", "a".repeat(65), "ä"]) {
      await expectFailure(volumes.create(bad, {}), "invalid_request");
      await expectFailure(volumes.remove(bad), "invalid_request");
      await expectFailure(volumes.inspect(bad), "invalid_request");
    }
    const many = Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`k${i}`, "v"]));
    for (const labels of [{ "": "x" }, { "a\n": "x" }, { a: "x\x1b[2J" }, { a: "x".repeat(4097) }, many]) {
      await expectFailure(volumes.create("labelled", labels), "invalid_request");
    }
    await expectFailure(volumes.create("labelled", { ["k".repeat(257)]: "x" }), "invalid_request");
    expect(await volumes.inspect("labelled")).toBeUndefined();
    const odd = { "a=b": 'c,d="e"', "it's": "ünï ∑", __proto__x: "$(id)" };
    expect((await volumes.create("labelled", odd)).labels).toEqual(odd);
    await volumes.remove("labelled");
  });

  it("stay while a sandbox has them, and go with it by force", async () => {
    await volumes.create("used", {});
    await volumes.create("free", {});
    const [one, two, three] = [await sandbox("used"), await sandbox("used"), await sandbox("free")];
    await expectFailure(volumes.remove("used"), "in_use");
    await volumes.remove("used", { force: true });
    expect(await volumes.inspect("used")).toBeUndefined();
    for (const id of [one, two]) expect(await engine.runtime.inspect(id)).toBeUndefined();
    expect((await engine.runtime.list()).map(({ id }) => id)).toEqual([three]);
    await engine.runtime.remove(three);
    await volumes.remove("free");
  });

  it("stay while somebody else's container has them, whatever is asked, and it lives on", async () => {
    await volumes.create("shared", {});
    const running = await foreign("shared", ["/bin/busybox", "sleep", "600"]);
    await running.start();
    // One that only pretends to be a sandbox of ours, which has another volume.
    await volumes.create("unshared", {});
    const bystander = await sandbox("unshared");
    const labels = { "warren.owner": engine.ownerId, "warren.id": bystander };
    const stopped = await foreign("shared", ["/bin/busybox", "true"], labels);
    const mine = await sandbox("shared");
    for (const force of [false, true]) await expectFailure(volumes.remove("shared", { force }), "in_use");
    expect(await engine.runtime.inspect(mine)).toBeUndefined();
    expect(await engine.runtime.inspect(bystander)).toBeDefined();
    for (const container of [running, stopped]) expect(await container.isThere()).toBe(true);
    const { State } = (await engine.client.json({ path: `/containers/${running.id}/json` })) as {
      State: { Running: boolean };
    };
    expect(State.Running).toBe(true);
    await running.remove();
    await expectFailure(volumes.remove("shared", { force: true }), "in_use");
    await stopped.remove();
    await volumes.remove("shared");
    await volumes.remove("unshared", { force: true });
  });

  it("tell how much is in them, also in what is closed to others", async () => {
    await volumes.create("full", {});
    await volumes.create("empty", {});
    const script = "head -c 3000000 /dev/zero > /data/a; mkdir /data/d; head -c 5000 /dev/zero > /data/d/b";
    const filling = await foreign("full", [
      "/bin/busybox",
      "sh",
      "-c",
      `PATH=/bin; ${script.replace(/\b(head|mkdir)\b/g, "busybox $1")}; busybox chown -R 1234 /data; busybox chmod 700 /data /data/d`,
    ]);
    await filling.start();
    await filling.wait();
    const usage = await volumes.diskUsage("");
    expect(usage.map((volume) => volume.name).sort()).toEqual(["empty", "full"]);
    const size = usage.find((volume) => volume.name === "full")?.size ?? 0;
    expect(size).toBeGreaterThanOrEqual(3_005_000);
    expect(size).toBeLessThan(3_100_000);
    expect(usage.find((volume) => volume.name === "empty")?.size).toBeLessThan(10_000);
    expect(await volumes.diskUsage("e")).toEqual([usage.find((volume) => volume.name === "empty")]);
    await filling.remove();
    for (const volume of ["full", "empty"]) await volumes.remove(volume);
  });

  it("are empty at first, whatever the image has in their place", async () => {
    await volumes.create("fresh", {});
    const id = await sandbox("fresh", "/bin");
    await engine.runtime.start(id);
    const [fresh] = await volumes.diskUsage("fresh");
    expect(fresh?.size).toBeLessThan(10_000);
    await volumes.remove("fresh", { force: true });
  });

  it("that aren't there are none that a sandbox can have", async () => {
    const error = await expectFailure(sandbox("nowhere"), "volume_not_found");
    expect(error.hint).toContain("volume create nowhere");
    expect(await engine.runtime.list()).toEqual([]);
    const { Volumes } = (await engine.client.json({ path: "/volumes" })) as {
      Volumes: { Name: string }[] | null;
    };
    expect((Volumes ?? []).map((volume) => volume.Name)).not.toContain(full("nowhere"));
  });
});
