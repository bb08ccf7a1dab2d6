import { execFileSync } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { createServer as createHttpServer, request as httpRequest } from "node:http";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ImageProgress } from "../../../src/contracts/images.ts";
import { buildContext } from "../../../src/testing/build-context.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { eventually } from "../../../src/testing/wait.ts";
import { type RawEntry, rawTar } from "../common/support/raw-tar.ts";
import { buildImage, type Registry, startRegistry } from "../common/support/registry.ts";
import { openTestRuntime, type TestRuntime } from "./support/open.ts";
import { busyboxRoot } from "./support/rootfs.ts";

// The container runtime makes no difference to images: one is enough.
let made: TestRuntime;
let base = "";
beforeAll(async () => {
  base = mkdtempSync(join(tmpdir(), "woci-images-"));
  made = await openTestRuntime("crun");
});
afterAll(async () => {
  await made.close();
  rmSync(base, { recursive: true });
});

const ensure = (reference: string) => made.runtime.images.ensure(reference);

describe("a directory as image", () => {
  it("may be named through links, and is never written", async () => {
    using root = busyboxRoot();
    const link = join(base, "link with space, colon:and more");
    symlinkSync(root.path, link);
    const image = await ensure(link);
    expect(image).toEqual({ id: `dir:${root.path}`, reference: link, env: {} });
    expect((await ensure(`dir:${root.path}`)).id).toBe(image.id);
    const box = await made.box({ image });
    await box.sh("busybox rm -rf /bin/sh; echo x > /file");
    expect(readdirSync(root.path)).toEqual(["bin"]);
    expect(readdirSync(join(root.path, "bin")).sort()).toEqual(["busybox", "sh"]);
  });

  it("may have a long path with characters that mount options use", async () => {
    using root = busyboxRoot();
    const long = join(
      base,
      ...Array.from({ length: 12 }, (_, i) => `${i},lowerdir=a:b\\c${"x".repeat(180)}`),
    );
    mkdirSync(join(long, ".."), { recursive: true });
    execFileSync("cp", ["-a", root.path, long]);
    const box = await made.box({ image: await ensure(long) });
    expect(await box.sh("echo fine")).toBe("fine\n");
  });

  it("is refused where it is no root filesystem, or ours", async () => {
    const empty = join(base, "empty");
    mkdirSync(empty);
    writeFileSync(join(base, "file"), "x");
    await expectFailure(ensure(empty), "image_invalid");
    await expectFailure(ensure("/"), "image_invalid");
    await expectFailure(ensure("dir:/"), "image_invalid");
    await expectFailure(ensure(`dir:${join(base, "file")}`), "image_invalid");
    await expectFailure(ensure(join(made.stateDir, "oci")), "image_invalid");
    await expectFailure(ensure(made.stateDir), "image_invalid");
    await expectFailure(ensure(tmpdir()), "image_invalid");
    await expectFailure(ensure("/nonexistent/x"), "image_not_found");
    await expectFailure(ensure(`${join(base, "file")}/x`), "image_not_found");
  });
});

describe("a tar file as image", () => {
  const pack = (name: string, root: string, ...options: string[]) => {
    const path = join(base, name);
    execFileSync("tar", ["-C", root, "-cf", path, ...options, "."]);
    return path;
  };

  it.each([
    ["plain.tar", []],
    ["zipped.tar.gz", ["-z"]],
    ["co:lon.tar.xz", ["-J", "--force-local"]],
  ])("is unpacked once: %s", async (name, options) => {
    using root = busyboxRoot();
    mkdirSync(join(root.path, "etc"));
    writeFileSync(join(root.path, "etc/owned"), "x");
    execFileSync("chown", ["4242:4343", join(root.path, "etc/owned")]);
    const tar = pack(name, root.path, ...options);
    const image = await ensure(tar);
    expect(image.id).toMatch(/^tar:[0-9a-f]{64}$/);
    const box = await made.box({ image });
    expect(await box.sh("busybox stat -c '%u:%g %a' /etc/owned /")).toBe("4242:4343 644\n0:0 755\n");
    // The same file again costs nothing, another content is another image.
    const dir = join(made.stateDir, "oci/images/tar");
    const before = readdirSync(dir).length;
    expect((await Promise.all([ensure(tar), ensure(`tar:${tar}`)])).map((again) => again.id)).toEqual([
      image.id,
      image.id,
    ]);
    expect(readdirSync(dir)).toHaveLength(before);
    utimesSync(tar, 1, 1);
    expect((await ensure(tar)).id).not.toBe(image.id);
  });

  it("is refused when it is none, or empty, or cut short, and leaves nothing", async () => {
    const dir = join(made.stateDir, "oci/images/tar");
    const before = existsSync(dir) ? readdirSync(dir).length : 0;
    const junk = join(base, "junk");
    writeFileSync(junk, Buffer.alloc(100_000, "junk"));
    await expectFailure(ensure(junk), "image_invalid");
    const empty = join(base, "empty.tar");
    execFileSync("tar", ["-cf", empty, "-T", "/dev/null"]);
    await expectFailure(ensure(empty), "image_invalid");
    using root = busyboxRoot();
    const whole = readFileSync(pack("whole.tar", root.path));
    writeFileSync(join(base, "cut.tar"), whole.subarray(0, whole.length / 2));
    await expectFailure(ensure(join(base, "cut.tar")), "image_invalid");
    await expectFailure(ensure("/dev/null"), "image_invalid");
    expect(readdirSync(dir)).toHaveLength(before);
  });

  it("can't write outside of its place", async () => {
    const target = join(base, "target");
    mkdirSync(target);
    writeFileSync(join(target, "kept"), "kept");
    const tar = (name: string, ...more: RawEntry[]) => {
      const bytes = rawTar(
        { name: "bin/busybox", content: readFileSync("/bin/busybox"), mode: 0o755 },
        { name: "out", type: "2", link: target },
        { name: "out/through-link", content: "evil" },
        { name: "hard", type: "1", link: "out/kept" },
        ...more,
      );
      writeFileSync(join(base, name), bytes);
      return join(base, name);
    };
    await ensure(tar("link.tar")).catch(() => {});
    const dots = { name: "../../../../../../../../../../../../tmp/woci-escaped", content: "evil" };
    await ensure(tar("dots.tar", dots)).catch(() => {});
    await ensure(tar("root.tar", { name: "/tmp/woci-escaped", content: "evil" })).catch(() => {});
    expect(readdirSync(target)).toEqual(["kept"]);
    expect(readFileSync(join(target, "kept"), "utf8")).toBe("kept");
    expect(existsSync("/tmp/woci-escaped")).toBe(false);
  });
});

describe("an image from a registry", () => {
  let registry: Registry;
  let name = "";
  beforeAll(async () => {
    registry = await startRegistry(join(base, "registry"));
    name = `127.0.0.1:${registry.port}/team/tiny`;
    const layout = buildImage(join(base, "layout"));
    for (const tag of ["1", "2"]) registry.push(`${layout}:tag`, `team/tiny:${tag}`);
  }, 120_000);
  afterAll(() => registry.stop());

  it("is pulled once for all who ask, unpacked, and run with its own settings", async () => {
    const images = await Promise.all([
      ensure(`${name}:1`),
      ensure(`${name}:1`),
      ensure(`docker://${name}:1`),
    ]);
    const [image] = images;
    expect(new Set(images.map(({ id }) => id)).size).toBe(1);
    expect(image).toEqual({
      id: expect.stringMatching(/^sha256:[0-9a-f]{64}$/),
      reference: `${name}:1`,
      env: { PATH: "/bin", GREETING: "hello there" },
      workdir: "/project",
      user: "7:8",
      cmd: ["/bin/entry", "serve"],
    });
    expect(registry.log().match(/GET \/v2\/team\/tiny\/manifests\/1 /g)).toHaveLength(1);
    const box = await made.box({ image: image as NonNullable<typeof image>, env: image?.env ?? {} });
    expect(await box.sh("busybox cat /from-image; busybox stat -c %u:%g /from-image")).toBe(
      "in a layer\n9:9\n",
    );
    expect(await box.sh("busybox ls /gone 2>/dev/null || echo whiteout")).toBe("whiteout\n");
  });

  it("is not pulled again under another tag, nor looked up again", async () => {
    const [one, two] = [await ensure(`${name}:1`), await ensure(`${name}:2`)];
    expect(two.id).toBe(one.id);
    const unpacked = readdirSync(join(made.stateDir, "oci/images/oci")).filter((entry) => entry !== "refs");
    expect(unpacked).toHaveLength(1);
    const before = registry.log();
    await ensure(`${name}:1`);
    await ensure(`${name}:2`);
    expect(registry.log()).toBe(before);
  });

  it("comes from a local layout too", async () => {
    const image = await ensure(`oci:${join(base, "layout")}:tag`);
    expect(image).toMatchObject({ workdir: "/project", id: (await ensure(`${name}:1`)).id });
    await expectFailure(ensure(`oci:${join(base, "layout")}:none`), "image_not_found");
    await expectFailure(ensure("oci:/nonexistent/layout:tag"), "image_not_found");
  });

  it("that nobody knows is not found", async () => {
    const tag = await expectFailure(ensure(`${name}:unknown`), "image_not_found");
    expect(tag.message).toContain("unknown");
    await expectFailure(ensure(`127.0.0.1:${registry.port}/no/such`), "image_not_found");
    expect(
      readdirSync(join(made.stateDir, "oci/images/oci")).filter((entry) => entry.startsWith(".")),
    ).toEqual([]);
  });

  it("is not pulled from a registry that speaks no TLS, unless on loopback", async () => {
    // 0.0.0.0 reaches the same listener, but is no loopback address.
    const error = await expectFailure(ensure(`0.0.0.0:${registry.port}/team/tiny:1`), "image_pull_failed");
    expect(error.message).toMatch(/https?/i);
  });

  it("is given up when all who asked gave up", async () => {
    const stop = new AbortController();
    const slow = createServer();
    slow.listen(0, "127.0.0.1");
    await once(slow, "listening");
    const { port } = slow.address() as { port: number };
    const pulling = made.runtime.images.ensure(`127.0.0.1:${port}/slow`, { signal: stop.signal });
    await once(slow, "connection");
    stop.abort();
    await expectFailure(pulling, "cancelled");
    await eventually("skopeo to end", () => !commandLines().includes(`127.0.0.1:${port}/slow`));
    slow.close();
  });

  it("stays usable when the registry is down, and others fail with the tool's words", async () => {
    await registry.stop();
    expect((await ensure(`${name}:1`)).workdir).toBe("/project");
    const error = await expectFailure(ensure(`${name}:3`), "image_pull_failed");
    expect(error.message).toMatch(/connection refused/);
    expect(error.hint).toBeTruthy();
  });
});

describe("the store of images, with a registry", () => {
  let registry: Registry;
  let name = "";
  const images = () => made.runtime.images.store as NonNullable<typeof made.runtime.images.store>;
  beforeAll(async () => {
    registry = await startRegistry(join(base, "store-registry"));
    name = `127.0.0.1:${registry.port}/store/tiny`;
    registry.push(`${buildImage(join(base, "store-layout"))}:tag`, "store/tiny:1");
  }, 120_000);
  afterAll(() => registry.stop());

  it("pulls anew, and tells each blob and the end", async () => {
    expect(await images().inspect(`${name}:1`)).toBeUndefined();
    const heard: ImageProgress[] = [];
    const image = await images().pull(`${name}:1`, { onProgress: (progress) => void heard.push(progress) });
    expect(image).toMatchObject({ reference: `${name}:1`, runtime: "oci", size: expect.any(Number) });
    const blobs = heard.filter((progress) => "layer" in progress);
    // Two layers at least, a configuration and a manifest.
    expect(blobs.length).toBeGreaterThanOrEqual(4);
    for (const blob of blobs) {
      expect(blob).toMatchObject({ layer: expect.stringMatching(/^[0-9a-f]{12}$/), status: "copied" });
      expect(blob).toHaveProperty("current", (blob as { total?: number }).total);
    }
    expect(heard).toContainEqual({ line: `unpacking ${name}:1` });
    const before = registry.log().length;
    expect(await images().pull(`${name}:1`)).toEqual(image);
    expect(registry.log().length).toBeGreaterThan(before);
    await images().remove(`${name}:1`);
    expect(await images().list(name)).toEqual([]);
    await expectFailure(images().pull(`${name}:none`), "image_not_found");
  });

  it("needs the credentials that the registry asks for, and finds those of skopeo login", async () => {
    const secret = "hunter2-of-the-test";
    const asked = createHttpServer((request, response) => {
      const wanted = `Basic ${Buffer.from(`user:${secret}`).toString("base64")}`;
      if (request.headers.authorization !== wanted) {
        response.writeHead(401, { "www-authenticate": 'Basic realm="test"' }).end();
        return;
      }
      const { method, url, headers } = request;
      const onward = httpRequest(
        { port: registry.port, host: "127.0.0.1", method, path: url, headers },
        (answer) => {
          response.writeHead(answer.statusCode ?? 500, answer.headers);
          answer.pipe(response);
        },
      );
      request.pipe(onward);
    });
    asked.listen(0, "127.0.0.1");
    await once(asked, "listening");
    const { port } = asked.address() as { port: number };
    const closed = `127.0.0.1:${port}/store/tiny:1`;
    const before = process.env.REGISTRY_AUTH_FILE;
    const authFile = join(base, "auth.json");
    try {
      process.env.REGISTRY_AUTH_FILE = authFile;
      writeFileSync(authFile, "{}");
      const error = await expectFailure(images().pull(closed), "image_pull_failed");
      expect(error.hint).toContain("skopeo login");
      const auth = Buffer.from(`user:${secret}`).toString("base64");
      writeFileSync(authFile, JSON.stringify({ auths: { [`127.0.0.1:${port}`]: { auth } } }), {
        mode: 0o600,
      });
      expect(await images().pull(closed)).toMatchObject({ reference: closed });
      await images().remove(closed);
    } finally {
      if (before === undefined) delete process.env.REGISTRY_AUTH_FILE;
      else process.env.REGISTRY_AUTH_FILE = before;
      asked.closeAllConnections();
      asked.close();
    }
  });

  it("is where a build finds what it starts from", async () => {
    const tag = "wtest-based/tiny:1";
    const lines: string[] = [];
    const dockerfile = `ARG TAG=none
FROM 127.0.0.1:${registry.port}/store/tiny:\${TAG}
USER 0
RUN busybox cat /from-image && busybox stat -c %u:%g /from-image
`;
    await images().build({
      tag,
      context: buildContext({ dockerfile }),
      buildArgs: { TAG: "1" },
      onProgress: (progress) => void ("line" in progress && lines.push(progress.line)),
    });
    expect(lines).toEqual(expect.arrayContaining(["in a layer", "9:9"]));
    expect((await ensure(tag)).env.GREETING).toBe("hello there");
    await images().remove(tag);
    const missing = `FROM 127.0.0.1:${registry.port}/store/none:1\n`;
    await expectFailure(
      images().build({ tag, context: buildContext({ dockerfile: missing }) }),
      "image_not_found",
    );
    const pinned = `FROM debian@sha256:${"0".repeat(64)}\n`;
    await expectFailure(
      images().build({ tag, context: buildContext({ dockerfile: pinned }) }),
      "unsupported",
    );
  }, 120_000);

  it("takes no bytes that are not those of their digest", async () => {
    const blobs = join(base, "store-registry/docker/registry/v2/blobs/sha256");
    const files = readdirSync(blobs, { recursive: true, encoding: "utf8" }).filter((file) =>
      file.endsWith("/data"),
    );
    const sizes = files.map((file) => ({ path: join(blobs, file), bytes: readFileSync(join(blobs, file)) }));
    const [largest] = sizes.sort((a, b) => b.bytes.length - a.bytes.length);
    const { path, bytes } = largest as (typeof sizes)[number];
    writeFileSync(path, Buffer.from(bytes).fill(0x55, bytes.length >> 1));
    const error = await expectFailure(images().pull(`${name}:1`), "image_pull_failed");
    expect(error.message).toMatch(/digest/i);
    expect(await images().inspect(`${name}:1`)).toBeUndefined();
    writeFileSync(path, bytes);
    await images().pull(`${name}:1`);
    await images().remove(`${name}:1`);
  });
});

function commandLines(): string {
  return execFileSync("ps", ["-eo", "args"]).toString();
}
