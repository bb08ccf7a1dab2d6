import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { expect } from "vitest";
import type { ImageProgress } from "../contracts/images.ts";
import type { ApiContext } from "./api-fixture.ts";
import { expectFailure } from "./failures.ts";
import { piecesOf, type TarFile, tarOf } from "./tar.ts";
import { eventually, within } from "./wait.ts";

/** What no image can be called. */
const badReferences = [
  "",
  " ",
  "-rf",
  "--help",
  "with space",
  "new\nline",
  "nul\0",
  "esc\u001b[2J",
  "right\u202eleft",
  "x".repeat(4097),
];

/** Begins the name of every image that the suite makes. */
const PREFIX = "localhost/warren-suite/";

/** Images by name. Builds are of a static busybox at /bin/busybox of this machine, and ask no registry. */
export function testApiImages({ test, fixture, unless, pullable }: ApiContext): void {
  const able = { unless: unless("images") };
  const pulling = { unless: unless("images") ?? (pullable === undefined ? "no registry" : undefined) };
  const reference = (name: string) => `${PREFIX}${name}:1`;
  const context = (dockerfile: string, files: Record<string, TarFile | string> = {}) =>
    tarOf({
      Dockerfile: `FROM scratch\n${dockerfile}`,
      busybox: { content: readFileSync("/bin/busybox"), mode: 0o755 },
      ...files,
    });

  /** Builds, and removes the image at the end of the scope. */
  async function built(name: string, dockerfile: string, files?: Record<string, TarFile | string>) {
    const { api } = fixture();
    const lines: string[] = [];
    const onProgress = (progress: ImageProgress) => {
      if ("line" in progress) lines.push(progress.line);
    };
    const tag = reference(name);
    const image = await api.images.build({ tag }, piecesOf(await context(dockerfile, files)), { onProgress });
    return { image, tag, lines, [Symbol.asyncDispose]: () => forget(tag) };
  }

  async function forget(tag: string): Promise<void> {
    const { api } = fixture();
    for (const { id, image } of await api.list()) if (image === tag) await api.remove(id);
    await api.images.remove(tag).catch((error: { code?: unknown }) => {
      if (error.code !== "image_not_found") throw error;
    });
  }

  if (unless("images")) {
    test("refuses images by name where the runtime keeps none", async () => {
      const { api } = fixture();
      const { runtime } = await fixture().box();
      for (const call of [
        () => api.images.list(),
        () => api.images.get("debian:12"),
        () => api.images.pull({ reference: "debian:12" }),
        async () => api.images.build({ tag: "t" }, piecesOf(await tarOf({ Dockerfile: "FROM scratch\n" }))),
        () => api.images.remove("debian:12"),
      ]) {
        const error = await expectFailure(call(), "unsupported");
        expect(error.message).toContain(runtime);
      }
    });
  }

  test(
    "builds an image of a tar, runs it, and removes it when nobody uses it",
    async () => {
      const { api, box } = fixture();
      const dockerfile =
        'COPY busybox /bin/busybox\nCOPY note /note\nRUN ["/bin/busybox", "echo", "from the build"]\n';
      await using made = await built("tiny", dockerfile, { note: { content: "kept\n", mode: 0o600 } });
      const { image, tag, lines } = made;
      expect(image).toMatchObject({ reference: tag, id: expect.stringMatching(/^sha256:[0-9a-f]{64}$/) });
      expect(lines.join("\n")).toContain("from the build");
      expect(await api.images.get(tag)).toEqual(image);
      expect(await api.images.get(tag, { runtime: image.runtime })).toEqual(image);
      expect(await api.images.list({ prefix: PREFIX })).toEqual([image]);
      expect(await api.images.list({ prefix: `${PREFIX}other` })).toEqual([]);
      const { id } = await box({ image: tag });
      const cat = await api.exec(id, { cmd: ["/bin/busybox", "sh", "-c", "cat /note; stat -c %a /note"] });
      expect(cat.stdout).toBe("kept\n600\n");
      for (const state of ["running", "stopped"]) {
        const error = await expectFailure(api.images.remove(tag), "in_use");
        expect(error.hint, state).toBeTruthy();
        await api.stop(id, { timeoutMs: 0 });
      }
      await api.start(id);
      await api.remove(id);
      await api.images.remove(tag);
      for (const call of [() => api.images.get(tag), () => api.images.remove(tag)])
        await expectFailure(call(), "image_not_found");
      await expectFailure(box({ image: tag }), "image_not_found", "image_pull_failed");
    },
    { ...able, timeoutMs: 240_000 },
  );

  test(
    "passes a build its file, arguments and target",
    async () => {
      const { api } = fixture();
      const tag = reference("arguments");
      const dockerfile = [
        "FROM scratch AS wanted",
        "COPY busybox /bin/busybox",
        "ARG WORD",
        `RUN ["/bin/busybox", "sh", "-c", "echo word=\${WORD}"]`,
        "FROM scratch AS other",
        "COPY absent /absent",
        "",
      ].join("\n");
      const tar = await tarOf({
        "sub/My File": dockerfile,
        busybox: { content: readFileSync("/bin/busybox"), mode: 0o755 },
        absent: "x",
      });
      const lines: string[] = [];
      try {
        await api.images.build(
          {
            tag,
            dockerfile: "sub/My File",
            build_args: { WORD: "a b=c&d%20ü" },
            target: "wanted",
            no_cache: true,
          },
          piecesOf(tar),
          { onProgress: (progress) => "line" in progress && lines.push(progress.line) },
        );
        expect(lines.join("\n")).toContain("word=a b=c&d%20ü");
      } finally {
        await forget(tag);
      }
    },
    { ...able, timeoutMs: 240_000 },
  );

  test(
    "tells why a build failed, and gives nothing its tag",
    async () => {
      const { api } = fixture();
      const failing = 'COPY busybox /bin/busybox\nRUN ["/bin/busybox", "false"]\n';
      const error = await expectFailure(built("failing", failing), "image_build_failed");
      expect(error.message).toMatch(/false/);
      await expectFailure(built("no-file", "COPY nothing-such /x\n"), "image_build_failed");
      const none = api.images.build({ tag: reference("none") }, piecesOf(await tarOf({ other: "x" })));
      await expectFailure(none, "image_build_failed");
      expect(await api.images.list({ prefix: PREFIX })).toEqual([]);
    },
    { ...able, timeoutMs: 240_000 },
  );

  test(
    "lets a caller give up on a build, and gives nothing its tag then",
    async () => {
      const { api } = fixture();
      const tag = reference("given-up");
      const stop = new AbortController();
      const slow = await context('COPY busybox /bin/busybox\nRUN ["/bin/busybox", "sleep", "300"]\n');
      const building = api.images.build({ tag }, piecesOf(slow), {
        signal: stop.signal,
        onProgress: (progress) => {
          if ("line" in progress && progress.line.includes("sleep")) stop.abort();
        },
      });
      await expectFailure(within(120_000, "giving up", building), "cancelled");
      await expectFailure(api.images.build({ tag }, piecesOf(slow), { signal: stop.signal }), "cancelled");
      await eventually("no image", async () => (await api.images.list({ prefix: tag })).length === 0);
    },
    { ...able, timeoutMs: 240_000 },
  );

  test(
    "refuses contexts that are no whole tar, and builds nothing of them",
    async () => {
      const { api } = fixture();
      const tar = await context("COPY busybox /bin/busybox\n");
      const tag = reference("hostile");
      const refused: [string, Uint8Array, RegExp][] = [
        ["nothing", Buffer.alloc(0), /no tar/],
        ["gzip", gzipSync(tar), /compressed with gzip/],
        ["zstd", Buffer.from("28b52ffd".padEnd(2048, "0"), "hex"), /compressed with zstd/],
        ["xz", Buffer.from("fd377a585a00".padEnd(2048, "0"), "hex"), /compressed with xz/],
        ["bzip2", Buffer.from(`BZh9${"x".repeat(1000)}`), /compressed with bzip2/],
        ["text", Buffer.from("FROM scratch\n".repeat(100)), /not a tar/],
        ["a short text", Buffer.from("FROM scratch\n"), /not a tar/],
        ["half of it", tar.subarray(0, tar.length / 2), /cut off/],
        ["all but its end", tar.subarray(0, 1024), /cut off/],
      ];
      for (const [what, bytes, complaint] of refused) {
        for (const size of [64 * 1024, 100]) {
          if (size === 100 && bytes.length > 100_000) continue;
          const error = await expectFailure(
            api.images.build({ tag }, piecesOf(bytes, size)),
            "invalid_request",
          );
          expect(error.message, what).toMatch(complaint);
        }
      }
      const broken = api.images.build(
        { tag },
        (async function* () {
          yield tar.subarray(0, 70_000);
          throw new Error("the disk is gone");
        })(),
      );
      await expect(broken).rejects.toThrow("the disk is gone");
      expect(await api.images.list({ prefix: tag })).toEqual([]);
    },
    { ...able, timeoutMs: 120_000 },
  );

  test(
    "refuses references and requests that make no sense",
    async () => {
      const { api } = fixture();
      const tar = await context("");
      for (const bad of badReferences) {
        await expectFailure(api.images.get(bad), "invalid_request");
        await expectFailure(api.images.remove(bad), "invalid_request");
        await expectFailure(api.images.pull({ reference: bad }), "invalid_request");
        await expectFailure(api.images.build({ tag: bad }, piecesOf(tar)), "invalid_request");
      }
      // References by their form, and none by what a registry could have.
      for (const odd of ["../up", "a//b", "__proto__", "UPPER/Case", "a:b:c", "a@sha256:0"]) {
        await expectFailure(api.images.get(odd), "image_not_found", "image_invalid", "invalid_request");
        await expectFailure(api.images.remove(odd), "image_not_found", "image_invalid", "invalid_request");
      }
      const tag = reference("odd");
      for (const request of [
        { dockerfile: "/etc/passwd" },
        { dockerfile: "../Dockerfile" },
        { dockerfile: "a/../../b" },
        { dockerfile: "nul\0" },
        { dockerfile: "" },
        { build_args: { "not a name": "x" } },
        { build_args: { "": "x" } },
        { build_args: { A: "nul\0" } },
        { target: "" },
      ]) {
        await expectFailure(api.images.build({ tag, ...request }, piecesOf(tar)), "invalid_request");
      }
      for (const runtime of ["no-such-runtime", "__proto__", ""]) {
        await expectFailure(api.images.pull({ reference: "x", runtime }), "unsupported");
        await expectFailure(api.images.build({ tag, runtime }, piecesOf(tar)), "unsupported");
        await expectFailure(api.images.list({ runtime }), "unsupported");
      }
      await expectFailure(api.images.list({ prefix: "nul\0" }), "invalid_request");
      expect(await api.images.list({ prefix: PREFIX })).toEqual([]);
    },
    able,
  );

  test(
    "pulls an image, tells how it goes, and has it then",
    async () => {
      const { api } = fixture();
      const wanted = pullable ?? "";
      await api.images.remove(wanted).catch((error: { code?: unknown }) => {
        if (error.code !== "image_not_found") throw error;
      });
      const heard: [ImageProgress[], ImageProgress[]] = [[], []];
      const [first, second] = await Promise.all([
        api.images.pull({ reference: wanted }, { onProgress: (progress) => heard[0].push(progress) }),
        api.images.pull({ reference: wanted }, { onProgress: (progress) => heard[1].push(progress) }),
      ]);
      expect(second).toEqual(first);
      expect(heard[0].length).toBeGreaterThan(0);
      expect(heard[1].length).toBeGreaterThan(0);
      expect(await api.images.get(first.reference)).toEqual(first);
      expect(await api.images.pull({ reference: wanted })).toEqual(first);
      await api.images.remove(first.reference);
      await expectFailure(api.images.get(first.reference), "image_not_found");
    },
    { ...pulling, timeoutMs: 240_000 },
  );

  test(
    "says that a pull failed, and leaves nothing",
    async () => {
      const { api } = fixture();
      // Nobody listens on that port.
      const absent = "127.0.0.1:1/warren-suite/absent:1";
      await expectFailure(api.images.pull({ reference: absent }), "image_pull_failed", "image_not_found");
      await expectFailure(api.images.get(absent), "image_not_found");
      const gone = api.images.pull({ reference: absent }, { signal: AbortSignal.abort() });
      await expectFailure(gone, "cancelled");
    },
    { ...able, timeoutMs: 120_000 },
  );
}
