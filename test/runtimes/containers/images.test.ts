import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import type { ImageInfo, ImageProgress } from "../../../src/contracts/images.ts";
import type { BuildOptions, ImageStore } from "../../../src/contracts/runtime.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { newId } from "../../../src/testing/runtime-fixture.ts";
import { piecesOf } from "../../../src/testing/tar.ts";
import { eventually } from "../../../src/testing/wait.ts";
import { rawTar } from "../common/support/raw-tar.ts";
import { buildImage, type Registry, startRegistry } from "../common/support/registry.ts";
import { busyboxTar } from "./support/busybox.ts";
import { contextOf, scratch, sleeping } from "./support/contexts.ts";
import { engines, type TestEngine } from "./support/engines.ts";

const user = "me:hunter2!";
const htpasswd = "me:$2b$05$abcdefghijklmnopqrstuueyFCKVkKNC6mnGgeNtYpSs/nnA.zm26";

describe.each(engines)("images of $name", ({ name: engineName, isPodman, open }) => {
  let engine: TestEngine;
  let store: ImageStore;
  let registry: Registry;
  let closed: Registry;
  let layout = "";
  beforeAll(async () => {
    engine = await open();
    store = engine.runtime.images.store as ImageStore;
    const net = engine.netnsOf === undefined ? {} : { netnsOf: engine.netnsOf };
    if (engine.netnsOf !== undefined) inNet("ip", "link", "set", "lo", "up");
    registry = await startRegistry(join(engine.dir, "registry"), net);
    closed = await startRegistry(join(engine.dir, "closed"), {
      ...net,
      auth: { htpasswd, credentials: user },
    });
    layout = buildImage(join(engine.dir, "layout"));
    for (const tag of ["1", "2"]) registry.push(`${layout}:tag`, `team/tiny:${tag}`);
    closed.push(`${layout}:tag`, "private/tiny:1");
  }, 180_000);
  afterAll(async () => {
    await registry?.stop();
    await closed?.stop();
    await engine?.close();
  }, 120_000);
  afterEach(async () => {
    for (const { reference } of await store.list("")) await store.remove(reference);
  });

  const inNet = (program: string, ...args: string[]): Buffer =>
    engine.netnsOf === undefined
      ? execFileSync(program, args)
      : execFileSync("nsenter", [`--net=/proc/${engine.netnsOf}/ns/net`, program, ...args]);
  const ensure = (reference: string) => engine.runtime.images.ensure(reference);
  const tiny = (tag = "1") => `127.0.0.1:${registry.port}/team/tiny:${tag}`;
  const build = (dockerfile: string, options: Partial<BuildOptions> = {}) =>
    store.build({ tag: "my/tools:1", context: piecesOf(contextOf(dockerfile)), ...options });
  const names = (images: ImageInfo[]) => images.map(({ reference }) => reference).sort();
  /** All that the engine has, in its own words. */
  const everything = async () => {
    const list = async (path: string, query = {}) =>
      ((await engine.client.json({ path, query: { all: true, ...query } })) as { Id: string }[])
        .map(({ Id }) => Id)
        .sort();
    return {
      images: await list("/images/json"),
      containers: await list(isPodman ? "/libpod/containers/json" : "/containers/json", { external: true }),
    };
  };

  describe("by name", () => {
    it("are pulled once for all who ask, who all hear of it, and have their own settings", async () => {
      const heard: ImageProgress[][] = [[], [], []];
      const images = await Promise.all(
        [tiny(), tiny(), `docker://${tiny()}`].map((reference, i) =>
          engine.runtime.images.ensure(reference, { onProgress: (progress) => heard[i]?.push(progress) }),
        ),
      );
      expect(images[0]).toEqual({
        id: expect.stringMatching(/^sha256:[0-9a-f]{64}$/),
        reference: tiny(),
        env: { PATH: "/bin", GREETING: "hello there" },
        workdir: "/project",
        user: "7:8",
        cmd: ["/bin/entry", "serve"],
      });
      expect(new Set(images.map(({ id }) => id)).size).toBe(1);
      expect(registry.log().match(/GET \/v2\/team\/tiny\/blobs\/sha256/g)?.length).toBeLessThanOrEqual(3);
      for (const progress of heard) expect(progress.length).toBeGreaterThan(2);
      if (isPodman) {
        expect(heard[0]).toContainEqual({ line: expect.stringContaining("Copying blob") });
      } else {
        expect(heard[0]).toContainEqual({
          layer: expect.stringMatching(/^[0-9a-f]{12}$/),
          status: "Pull complete",
        });
        expect(heard[0]).toContainEqual(
          expect.objectContaining({ current: expect.any(Number), total: expect.any(Number) }),
        );
      }
      const before = registry.log();
      expect((await ensure(tiny())).id).toBe(images[0]?.id);
      expect(registry.log()).toBe(before);
    });

    it("are pulled anew by the store, and known by their digest", async () => {
      const first = await store.pull(tiny());
      expect(first).toEqual({
        reference: tiny(),
        id: (await ensure(tiny())).id,
        runtime: engineName,
        size: expect.any(Number),
        created_at: expect.stringMatching(/^\d{4}-.*Z$/),
      });
      const before = registry.log().length;
      await store.pull(tiny());
      expect(registry.log().length).toBeGreaterThan(before);
      const digest = /"sha256:[0-9a-f]{64}"/.exec(
        inNet("skopeo", "inspect", "--tls-verify=false", `docker://${tiny()}`).toString(),
      )?.[0];
      const byDigest = `127.0.0.1:${registry.port}/team/tiny@${JSON.parse(digest ?? "")}`;
      await store.remove(tiny());
      expect(await store.inspect(byDigest)).toBeUndefined();
      expect((await ensure(byDigest)).id).toBe(first.id);
      expect((await store.inspect(byDigest))?.id).toBe(first.id);
      expect(names(await store.list("127.0.0.1"))).toEqual([byDigest]);
      expect((await ensure(first.id)).id).toBe(first.id);
      await store.remove(byDigest);
      expect(await store.list("")).toEqual([]);
      await expectFailure(ensure(first.id), "image_not_found");
    });

    it("are refused before anything is sent, when no image can have them", async () => {
      for (const bad of [
        "",
        "-x",
        "a b",
        "Debian",
        "../x",
        "a\0",
        "x@sha256:12",
        "http://x/y",
        "$(id)",
        "me:pw@h/x",
      ]) {
        await expectFailure(ensure(bad), "image_invalid");
        await expectFailure(store.pull(bad), "image_invalid");
        await expectFailure(store.remove(bad), "image_invalid");
        await expectFailure(build(scratch, { tag: bad }), "image_invalid");
      }
      await expectFailure(build(scratch, { tag: `my/tools@sha256:${"a".repeat(64)}` }), "image_invalid");
      for (const other of ["host", "dir:/etc", "oci:/a/b:c"])
        await expectFailure(ensure(other), "unsupported");
    });

    it("that nobody knows are not found", async () => {
      const error = await expectFailure(ensure(tiny("unknown")), "image_not_found");
      expect(error.message).toContain("unknown");
      expect(error.hint).toBeTruthy();
      await expectFailure(ensure(`127.0.0.1:${registry.port}/no/such:1`), "image_not_found");
      await expectFailure(store.pull(tiny("unknown")), "image_not_found");
      expect(await store.inspect(tiny("unknown"))).toBeUndefined();
      await store.remove(tiny("unknown"));
      // Nothing listens there.
      const refused = await expectFailure(ensure("127.0.0.1:9/x/y:1"), "image_pull_failed");
      expect(refused.message).toMatch(/refused/);
    });

    it("need credentials where the registry says so, which nobody else sees", async () => {
      const reference = `127.0.0.1:${closed.port}/private/tiny:1`;
      const path = join(engine.dir, "auth.json");
      using _ = environment({ REGISTRY_AUTH_FILE: path, PATH: `${engine.dir}:${process.env.PATH}` });
      const denied = await expectFailure(ensure(reference), "image_pull_failed");
      expect(denied.hint, denied.message).toMatch(/login/);
      const auth = (text: string) => ({ auth: Buffer.from(text).toString("base64") });
      const host = `127.0.0.1:${closed.port}`;
      writeFileSync(path, JSON.stringify({ auths: { [host]: auth("me:wrong-secret") } }));
      const wrong = await expectFailure(ensure(reference), "image_pull_failed");
      expect(JSON.stringify([wrong.message, wrong.hint])).not.toMatch(/wrong-secret|bWU6d3Jvbmc/);
      writeFileSync(path, JSON.stringify({ auths: { [`https://${host}/v1/`]: auth(user) } }));
      await ensure(reference);
      await store.remove(reference);
      writeFileSync(join(engine.dir, "docker-credential-test"), helper, { mode: 0o755 });
      writeFileSync(path, JSON.stringify({ credHelpers: { [host]: "test" } }));
      await ensure(reference);
      expect(readFileSync(join(engine.dir, "asked"), "utf8")).toBe(host);
      await store.remove(reference);
      // Builds pull with them, too.
      engine.allowPlain(closed.port);
      await build(`FROM ${reference}\nCMD ["x"]`);
      expect((await ensure("my/tools:1")).env).toMatchObject({ GREETING: "hello there" });
    });

    it("are not taken when what comes is not what was promised", async () => {
      registry.push(`${layout}:tag`, "team/broken:1");
      const manifest = JSON.parse(
        inNet("skopeo", "inspect", "--raw", "--tls-verify=false", `docker://${tiny()}`).toString(),
      ) as { layers: { digest: string }[] };
      const hex = manifest.layers[0]?.digest.slice("sha256:".length) ?? "";
      const blob = join(engine.dir, "registry/docker/registry/v2/blobs/sha256", hex.slice(0, 2), hex, "data");
      const whole = readFileSync(blob);
      const changed = Buffer.from(whole);
      changed[changed.length - 100] = (changed[changed.length - 100] ?? 0) ^ 1;
      writeFileSync(blob, changed);
      try {
        await expectFailure(ensure(`127.0.0.1:${registry.port}/team/broken:1`), "image_pull_failed");
        expect(await store.list("")).toEqual([]);
      } finally {
        writeFileSync(blob, whole);
      }
    });

    it("are given up when all who asked gave up, and the engine stops", async () => {
      await using slow = await silentServer(engine.netnsOf);
      const [one, two] = [new AbortController(), new AbortController()];
      const pulling = [one, two].map(({ signal }) =>
        engine.runtime.images.ensure(`127.0.0.1:${slow.port}/slow/image:1`, { signal }),
      );
      for (const pull of pulling) pull.catch(() => {});
      await eventually("a connection", () => slow.said().includes("open"));
      one.abort();
      await expectFailure(pulling[0] as Promise<unknown>, "cancelled");
      expect(slow.said()).not.toContain("close");
      two.abort();
      await expectFailure(pulling[1] as Promise<unknown>, "cancelled");
      await eventually("the engine to stop", () => slow.said().includes("close"));
    });
  });

  describe("in the store", () => {
    it("are called as they were named, whatever the engine calls them", async () => {
      const { id, reference } = await build(`${scratch}CMD ["one"]`);
      expect(reference).toBe("my/tools:1");
      for (const same of ["my/tools:1", "docker.io/my/tools:1", "docker://my/tools:1"]) {
        expect((await ensure(same)).id).toBe(id);
        expect(await store.inspect(same)).toMatchObject({ id, reference: "my/tools:1", runtime: engineName });
      }
      await build(`${scratch}CMD ["two"]`, { tag: "tools" });
      expect(names(await store.list(""))).toEqual(["my/tools:1", "tools:latest"]);
      expect(names(await store.list("my/"))).toEqual(["my/tools:1"]);
      expect(names(await store.list("docker.io/library/t"))).toEqual(["docker.io/library/tools:latest"]);
      expect(await store.list("my/tools:2")).toEqual([]);
      expect(await store.inspect("my/tools:2")).toBeUndefined();
      // Not what begins with the same letters, nor an id's beginning.
      expect(await store.inspect(id.slice("sha256:".length, 19))).toBeUndefined();
    });

    it("that the user has made are found by the name that they gave", async () => {
      await engine.cli("import", busyboxTar(join(engine.dir, "user.tar")), "users/own:1");
      const { id } = await ensure("users/own:1");
      const [listed, ...others] = await store.list("users/");
      expect(others).toEqual([]);
      expect(listed).toMatchObject({ reference: "users/own:1", id });
      const kept = isPodman ? "localhost/users/own:1" : "users/own:1";
      expect(names(await store.list(""))).toEqual([kept]);
      if (isPodman) {
        expect((await ensure("localhost/users/own:1")).id).toBe(id);
        // What Docker's reading names comes first.
        const mine = await build(`${scratch}CMD ["x"]`, { tag: "users/own:1" });
        expect((await ensure("users/own:1")).id).toBe(mine.id);
        expect(names(await store.list("users/"))).toEqual(["users/own:1"]);
        await store.remove("users/own:1");
        expect((await ensure("users/own:1")).id).toBe(id);
        await expectFailure(ensure("localhost/no/such:1"), "image_not_found");
      }
      await store.remove("users/own:1");
      expect(await store.list("")).toEqual([]);
    });

    it("lose one name at a time, and stay while anybody's container is made of them", async () => {
      await store.pull(tiny("1"));
      const { id } = await store.pull(tiny("2"));
      expect(names(await store.list("127"))).toEqual([tiny("1"), tiny("2")]);
      const box = newId();
      const image = await ensure(id);
      await engine.runtime.create({
        ...{ id: box, image, env: {}, workdir: "/", hostname: box, labels: {}, network: "none" },
        ...{ isolation: "container", readonlyRoot: false, tmpfs: [], mounts: [] },
        limits: { memoryBytes: 0, cpuNano: 0, pids: 0 },
      });
      await store.remove(tiny("1"));
      expect(names(await store.list(""))).toEqual([tiny("2")]);
      const error = await expectFailure(store.remove(tiny("2")), "in_use");
      expect(error.hint).toMatch(/remove/);
      expect((await ensure(tiny("2"))).id).toBe(id);
      await engine.runtime.remove(box);
      const { Id } = (await engine.client.json({
        method: "POST",
        path: "/containers/create",
        body: { Image: id, Cmd: ["/bin/sh"], HostConfig: { NetworkMode: "none" } },
      })) as { Id: string };
      await expectFailure(store.remove(tiny("2")), "in_use");
      await engine.client.json({ method: "DELETE", path: `/containers/${Id}` });
      for (let i = 0; i < 2; i++) await store.remove(tiny("2"));
      expect(await everything()).toEqual({ images: [], containers: [] });
    });
  });

  describe("from a tar file", () => {
    it("are made once for each content, and removed", async () => {
      const path = busyboxTar(join(engine.dir, "plain.tar"));
      const images = await Promise.all([ensure(path), ensure(`tar:${path}`), ensure(path)]);
      expect(new Set(images.map(({ id }) => id)).size).toBe(1);
      expect(images[0]).toEqual({ id: expect.stringMatching(/^sha256:/), reference: path, env: {} });
      const [listed, ...others] = await store.list("");
      expect(others).toEqual([]);
      expect(listed?.reference).toMatch(new RegExp(`^localhost/warren-${engine.ownerId}/tar:[0-9a-f]{64}$`));
      const { Config } = (await engine.client.json({ path: `/images/${images[0]?.id}/json` })) as {
        Config: { Labels: unknown };
      };
      expect(Config.Labels).toEqual({ "warren.image.owner": engine.ownerId });
      expect(await store.inspect(path)).toMatchObject({ id: images[0]?.id });
      const zipped = join(engine.dir, "zipped.tar.gz");
      writeFileSync(zipped, gzipSync(readFileSync(path)));
      expect((await ensure(zipped)).id).not.toBe(images[0]?.id);
      expect(await store.list("")).toHaveLength(2);
      for (let i = 0; i < 2; i++) for (const file of [path, zipped]) await store.remove(file);
      expect(await everything()).toEqual({ images: [], containers: [] });
    });

    it("are refused when it is none, and leave nothing", async () => {
      const file = (name: string, bytes: Buffer) => {
        writeFileSync(join(engine.dir, name), bytes);
        return join(engine.dir, name);
      };
      const tar = readFileSync(busyboxTar(join(engine.dir, "good.tar")));
      const packed = (program: string) => execFileSync(program, ["-c"], { input: tar });
      const zipped = gzipSync(tar);
      const named = rawTar({ name: "BZh91AY", content: "x" });
      for (const bad of [
        file("junk", Buffer.alloc(100_000, "junk")),
        file("empty", Buffer.alloc(0)),
        file("empty.tar", rawTar()),
        file("cut.tar", tar.subarray(0, tar.length / 2)),
        file("cut.tar.gz", zipped.subarray(0, zipped.length / 2)),
        file("twice.tar.gz", gzipSync(zipped)),
        file("xz.tar", packed("xz")),
        file("bzip2.tar", packed("bzip2")),
        file("named.tar", named),
      ]) {
        await expectFailure(ensure(bad), "image_invalid");
      }
      await expectFailure(ensure("/dev/null"), "image_invalid");
      await expectFailure(ensure(engine.dir), "unsupported");
      await expectFailure(ensure(join(engine.dir, "nothing")), "image_not_found");
      await store.remove(join(engine.dir, "nothing"));
      expect(await everything()).toEqual({ images: [], containers: [] });
    });
  });

  describe("that are built", () => {
    const told = () => {
      const lines: string[] = [];
      const onProgress = (progress: ImageProgress) => {
        if ("line" in progress) lines.push(progress.line);
      };
      return { lines, onProgress };
    };

    it("tell their output in clean lines, and are what the Dockerfile says", async () => {
      const { lines, onProgress } = told();
      const dockerfile = `${scratch}ARG what=nothing
RUN printf 'a\\377b\\033[31mred\\033[0m\\r\\n'; printf 'half '; busybox sleep 0.3; echo "line of $what"
RUN echo err >&2
RUN busybox head -c 100000 /dev/zero | busybox tr '\\0' x; echo
FROM scratch AS other
CMD ["never"]`;
      const stage = dockerfile.replace("FROM scratch", "FROM scratch AS first");
      await build(stage, {
        onProgress,
        target: "first",
        buildArgs: { what: "it's $(id)" },
        tag: "my/built:1",
      });
      expect(lines).toEqual(expect.arrayContaining(["a\ufffdbred", "half line of it's $(id)", "err"]));
      expect(lines.every((line) => !/[^\P{Cc}\t]/u.test(line) && line.length <= 4096)).toBe(true);
      expect(lines).toContain("x".repeat(4096));
      expect((await ensure("my/built:1")).cmd).not.toEqual(["never"]);
      const again = told();
      await build(stage, {
        onProgress: again.onProgress,
        target: "first",
        buildArgs: { what: "it's $(id)" },
      });
      expect(again.lines.join("\n")).toMatch(/using cache/i);
      const anew = told();
      await build(stage, { onProgress: anew.onProgress, target: "first", noCache: true });
      expect(anew.lines).toContain("half line of nothing");
    });

    it("run their commands without a network unless they are given one, and with the rlimits of sandboxes", async () => {
      const { lines, onProgress } = told();
      await build(`${scratch}RUN busybox cat /proc/net/dev; echo core $(ulimit -Hc)`, { onProgress });
      const devices = lines.flatMap((line) => /^\s*(\w+):\s+\d/.exec(line)?.[1] ?? []);
      expect(devices).toEqual(["lo"]);
      expect(lines).toContain("core 0");
    });

    it("read a Containerfile where there is no Dockerfile, or the one that is named", async () => {
      const files = [
        { name: "./Containerfile", content: 'FROM scratch\nLABEL a=b\nCMD ["container"]' },
        { name: "sub/other", content: 'FROM scratch\nLABEL a=b\nCMD ["other"]' },
      ];
      await build("", { context: piecesOf(rawTar(...files)) });
      expect((await ensure("my/tools:1")).cmd).toEqual(["container"]);
      const first = { name: "Dockerfile", content: 'FROM scratch\nLABEL a=b\nCMD ["docker"]' };
      await build("", { context: piecesOf(rawTar(...files, first), 7) });
      expect((await ensure("my/tools:1")).cmd).toEqual(["docker"]);
      await build("", { context: piecesOf(rawTar(...files, first)), dockerfile: "sub/other" });
      expect((await ensure("my/tools:1")).cmd).toEqual(["other"]);
    });

    it("replace what was built before, and leave it where it has another name or a container", async () => {
      const one = await build(`${scratch}CMD ["one"]`);
      const two = await build(`${scratch}CMD ["two"]`);
      expect(await store.inspect(one.id)).toBeUndefined();
      await engine.cli("tag", "my/tools:1", "users/kept:1");
      await build(`${scratch}CMD ["three"]`);
      expect((await store.inspect(two.id))?.id).toBe(two.id);
    });

    it("fail with their last words", async () => {
      const error = await expectFailure(
        build(
          `${scratch}RUN i=0; while [ $i -lt 80 ]; do i=$((i+1)); echo line $i; done; busybox sleep 0.3; echo why >&2; busybox sleep 0.3; exit 3`,
        ),
        "image_build_failed",
      );
      expect(error.message).toMatch(/\b3\b/);
      expect(error.message).toMatch(/\nline 80\n/);
      expect(error.message).toContain("\nwhy");
      expect(error.message).not.toMatch(/\nline 20\n/);
      await expectFailure(build("FRUM x"), "image_build_failed");
      await expectFailure(build("", { context: piecesOf(rawTar({ name: "x" })) }), "image_build_failed");
      expect(await store.inspect("my/tools:1")).toBeUndefined();
    });

    it("take nothing but an uncompressed tar, whose Dockerfile is in it", async () => {
      const before = await everything();
      const good = contextOf(`${scratch}CMD ["x"]`);
      const packed = (program: string) => execFileSync(program, ["-c"], { input: good });
      const bad = [
        packed("gzip"),
        packed("xz"),
        packed("bzip2"),
        good.subarray(0, 3000),
        Buffer.from("junk"),
      ];
      const skippable = Buffer.concat([Buffer.from([0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]), good]);
      const named = rawTar(
        { name: "BZh91AY", content: "x" },
        { name: "Dockerfile", content: "FROM scratch" },
      );
      for (const bytes of [...bad, skippable, named, Buffer.alloc(0)]) {
        await expectFailure(build("", { context: piecesOf(bytes, 100) }), "invalid_request");
      }
      const link = (name: string, target: string, type = "2") => rawTar({ name, type, link: target });
      for (const context of [link("Dockerfile", "/etc/passwd"), link("./Dockerfile", "x", "1")]) {
        await expectFailure(build("", { context: piecesOf(context) }), "invalid_request");
      }
      await expectFailure(
        build("", { context: piecesOf(link("sub", "/etc")), dockerfile: "sub/passwd" }),
        "invalid_request",
      );
      for (const dockerfile of ["/etc/passwd", "../x", "a/../../x", "."]) {
        await expectFailure(build(scratch, { dockerfile }), "invalid_request");
      }
      // Podman would read a list of its machine's files.
      writeFileSync(join(engine.dir, "evil"), 'FROM scratch\nLABEL a=b\nCMD ["evil"]');
      const outside = JSON.stringify([join(engine.dir, "evil")]);
      await expectFailure(build(scratch, { dockerfile: outside }), "image_build_failed");
      const broken = (async function* () {
        yield good.subarray(0, 2000);
        throw new Error("the upload broke");
      })();
      await expect(build("", { context: broken })).rejects.toThrow("the upload broke");
      expect(await everything()).toEqual(before);
    });

    it("end when they are aborted, with all that they run, and leave nothing", async () => {
      // Somebody else's image without a name, which the build says is its own.
      await engine.cli("import", busyboxTar(join(engine.dir, "other.tar")), "users/other:1");
      const other = await ensure("users/other:1");
      // What the aborted build goes on from is there already, without a name.
      await expectFailure(build(`${scratch}RUN echo none > /none\nRUN exit 1`), "image_build_failed");
      const before = await everything();
      const seconds = 100_000 + Math.floor(Math.random() * 900_000);
      const short = other.id.slice("sha256:".length, "sha256:".length + (isPodman ? 11 : 12));
      const line = isPodman ? `--> ${short}` : ` ---> ${short}`;
      const dockerfile = `${scratch}RUN echo none > /none\nRUN echo one > /one\nRUN echo '${line}'; echo sleeping; busybox sleep ${seconds}`;
      const stop = new AbortController();
      const { lines, onProgress } = told();
      const building = build(dockerfile, { onProgress, signal: stop.signal });
      building.catch(() => {});
      await eventually(
        "the command",
        () => lines.includes("sleeping") && sleeping(seconds).length > 0,
        60_000,
      );
      stop.abort();
      await expectFailure(building, "cancelled");
      expect(sleeping(seconds)).toEqual([]);
      expect(await everything()).toEqual(before);
      expect(await store.inspect("my/tools:1")).toBeUndefined();
      expect(readdirSync(join(engine.dir, engineName)).filter((name) => name.startsWith("build"))).toEqual(
        [],
      );
    });

    it("end when they are aborted while their context comes", async () => {
      const before = await everything();
      const stop = new AbortController();
      const context = contextOf(scratch);
      let asked = 0;
      const slow = (async function* () {
        yield context.subarray(0, 100_000);
        asked++;
        await once(stop.signal, "abort");
      })();
      const building = build("", { context: slow, signal: stop.signal });
      building.catch(() => {});
      await eventually("the context to be asked for", () => asked === 1);
      stop.abort();
      await expectFailure(building, "cancelled");
      expect(await everything()).toEqual(before);
      await expectFailure(build(scratch, { signal: AbortSignal.abort() }), "cancelled");
    });
  });
});

/** A program as Docker's credential helpers are. */
const helper = `#!/bin/sh
[ "$1" = get ] || exit 1
read -r server
printf %s "$server" > "$(dirname "$0")/asked"
printf '{"ServerURL":"%s","Username":"me","Secret":"hunter2!"}' "$server"
`;

function environment(values: Record<string, string>): Disposable {
  const before = Object.keys(values).map((name) => [name, process.env[name]] as const);
  Object.assign(process.env, values);
  return {
    [Symbol.dispose]() {
      for (const [name, value] of before) {
        if (value === undefined) delete process.env[name];
        else process.env[name] = value;
      }
    },
  };
}

/** Takes connections and never answers; tells of each that it opens and closes. */
async function silentServer(
  netnsOf: number | undefined,
): Promise<{ port: number; said(): string } & AsyncDisposable> {
  const script = `require("node:net").createServer((socket) => {
    console.log("open"); socket.on("error", () => {}); socket.on("close", () => console.log("close")); socket.resume();
  }).listen(0, "127.0.0.1", function () { console.log("port " + this.address().port) })`;
  const argv = [process.execPath, "-e", script];
  const child: ChildProcess =
    netnsOf === undefined
      ? spawn(argv[0] as string, argv.slice(1))
      : spawn("nsenter", [`--net=/proc/${netnsOf}/ns/net`, ...argv]);
  let said = "";
  child.stdout?.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const ended = once(child, "exit");
  const port = await eventually("the server", () => Number(/port (\d+)/.exec(said)?.[1]));
  return {
    port,
    said: () => said,
    async [Symbol.asyncDispose]() {
      child.kill();
      await ended;
    },
  };
}
